"""Sealed values: opened with the key, gone with the key, and the key never in the log."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
import trio

from engine.aggregates.values.sealed import Sealed
from engine.entropy import SystemEntropy
from engine.errors import Fault, PortError
from engine.vault import Vault

OWNER = "container:4f5e"


def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path / "keys.db", SystemEntropy())


async def test_a_sealed_value_opens_again_also_after_a_restart(tmp_path: Path) -> None:
    async with vault(tmp_path).running() as keys:
        sealed = await keys.seal(OWNER, b"PASSWORD=hunter2")
        assert b"hunter2" not in sealed.box
        assert keys.open(sealed) == b"PASSWORD=hunter2"
        again = await keys.seal(OWNER, b"PASSWORD=hunter2")
        assert again.box != sealed.box
    async with vault(tmp_path).running() as keys:
        assert keys.open(sealed) == b"PASSWORD=hunter2"


async def test_erasing_a_key_erases_its_values_and_no_others_and_leaves_no_key_in_any_file(tmp_path: Path) -> None:
    async with vault(tmp_path).running() as keys:
        sealed = await keys.seal(OWNER, b"one")
        other = await keys.seal("container:77", b"two")
        key = keys._keys[OWNER]
        assert any(key in path.read_bytes() for path in tmp_path.iterdir())
        await keys.erase(OWNER)
        await keys.erase(OWNER)
        with pytest.raises(PortError) as caught:
            keys.open(sealed)
        assert caught.value.fault is Fault.NOT_FOUND
        assert keys.open(other) == b"two"
        assert not any(key in path.read_bytes() for path in tmp_path.iterdir())
        fresh = await keys.seal(OWNER, b"three")
        assert keys.open(fresh) == b"three"
        with pytest.raises(PortError):
            keys.open(sealed)
    async with vault(tmp_path).running() as keys:
        with pytest.raises(PortError):
            keys.open(sealed)


async def test_a_value_does_not_open_for_another_owner_or_when_a_byte_changed(tmp_path: Path) -> None:
    async with vault(tmp_path).running() as keys:
        sealed = await keys.seal(OWNER, b"one")
        other = await keys.seal("container:77", b"two")
        for box in (other.box, sealed.box[:-1] + bytes([sealed.box[-1] ^ 1]), b"", b"short"):
            with pytest.raises(PortError):
                keys.open(Sealed(owner=OWNER, box=box))
        with pytest.raises(PortError):
            keys.open(msgspec.structs.replace(sealed, owner="container:77"))


async def test_many_sealers_at_once_share_a_write(tmp_path: Path) -> None:
    async with vault(tmp_path).running() as keys:
        writes = 0
        save = keys._save_new_keys

        async def counted() -> None:
            nonlocal writes
            writes += 1
            await save()

        keys._save_new_keys = counted  # type: ignore[method-assign]  # counting, nothing else
        results: dict[str, Sealed] = {}

        async def seal(owner: str) -> None:
            results[owner] = await keys.seal(owner, owner.encode())

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(seal, f"container:{number}")
        assert writes < 10
        assert all(keys.open(sealed) == owner.encode() for owner, sealed in results.items())


async def test_on_a_full_disk_nothing_is_sealed_with_a_key_that_is_not_stored(tmp_path: Path) -> None:
    async with vault(tmp_path).running() as keys:
        await keys.seal("container:0", b"x")
        pages = keys._opened.execute("PRAGMA page_count").fetchone()[0]
        keys._opened.execute(f"PRAGMA max_page_count={pages}")
        faults: list[Fault] = []
        sealed_for = {"container:0"}

        async def seal(owner: str) -> None:
            try:
                await keys.seal(owner, b"x")
                sealed_for.add(owner)  # the last page had some room
            except PortError as error:
                faults.append(error.fault)

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(seal, f"container:{number}" + "f" * 60)
        assert faults == [Fault.DISK_FULL] * (101 - len(sealed_for))
        assert len(faults) > 10
        keys._opened.execute("PRAGMA max_page_count=1073741823")
        sealed = await keys.seal("container:7" + "f" * 60, b"later")
        assert keys.open(sealed) == b"later"
        assert set(keys.owners()) == sealed_for | {sealed.owner}, "of the others nothing is left"
    async with vault(tmp_path).running() as keys:
        assert keys.open(sealed) == b"later"


async def test_sealing_and_erasing_one_owner_at_the_same_time_leaves_one_of_both(tmp_path: Path) -> None:
    async with vault(tmp_path).running() as keys:
        for number in range(20):
            owner = f"container:{number}"
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keys.seal, owner, b"one")
                nursery.start_soon(keys.erase, owner)
                nursery.start_soon(keys.seal, owner, b"two")
            stored = keys._opened.execute("SELECT key FROM keys WHERE owner=?", (owner,)).fetchone()
            assert keys._keys.get(owner) == (stored[0] if stored else None)


async def test_keys_are_private_to_their_owner(tmp_path: Path) -> None:
    async with vault(tmp_path).running() as keys:
        await keys.seal(OWNER, b"one")
        for path in tmp_path.iterdir():
            assert os.stat(path).st_mode & 0o077 == 0
