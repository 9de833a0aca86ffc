"""Contract of BlobStore, LayerStore and RootFilesystems, over both storage drivers."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import subprocess
import tarfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest
import trio

from engine.aggregates.values.ids import ChainID, ContainerID, DiffID, Digest
from engine.aggregates.values.layers import chain_ids
from engine.config import ConfigError
from engine.drivers.linux.storage import kernel
from engine.drivers.linux.storage.choice import storage_driver
from engine.drivers.linux.storage.spreading import Spreading, region_of
from engine.drivers.linux.storage.store import LinuxStorage
from engine.drivers.ports.runtime import RootFilesystem
from engine.errors import Fault, PortError
from tests.support.images import compressed, digest, layer_of

pytestmark = pytest.mark.root
CONTAINER = ContainerID("c" * 64)
OTHER = ContainerID("d" * 64)


@pytest.fixture(params=["overlay2", "vfs"])
def storage(tmp_path: Path, request: pytest.FixtureRequest) -> LinuxStorage:
    return LinuxStorage(str(tmp_path), driver=request.param)


@contextlib.contextmanager
def mounted(rootfs: RootFilesystem, place: Path) -> Iterator[Path]:
    """A root as a container sees it."""
    place.mkdir(exist_ok=True)
    if rootfs.lowers:
        kernel.mount_overlay(str(place), rootfs.lowers, rootfs.upper, rootfs.work, volatile=False)
    else:
        kernel.mount(rootfs.upper, str(place), "", kernel.MS_BIND)
    try:
        yield place
    finally:
        kernel.umount(str(place))


async def stream(data: bytes, size: int = 65536) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        await trio.lowlevel.checkpoint()
        yield data[start : start + size]


async def unpacked(storage: LinuxStorage, *layers: bytes, compress: str = "gzip") -> tuple[ChainID, ...]:
    chain = chain_ids(DiffID(digest(layer)) for layer in layers)
    async with trio.open_nursery() as nursery:
        for number, layer in enumerate(layers):
            blob, kind = compressed(layer, compress)
            descriptor = await storage.blobs.ingest(stream(blob))
            nursery.start_soon(
                storage.layers.unpack,
                descriptor.digest,
                kind,
                DiffID(digest(layer)),
                chain[number - 1] if number else None,
            )
            await trio.lowlevel.checkpoint()
    return chain


def nothing_left(storage: LinuxStorage) -> bool:
    return not os.path.exists(storage.places.temporary) or not os.listdir(storage.places.temporary)


async def test_a_blob_is_found_under_its_digest(storage: LinuxStorage) -> None:
    seen: list[tuple[int, int]] = []
    data = os.urandom(3_000_000)
    descriptor = await storage.blobs.ingest(
        stream(data), Digest(digest(data)), size=len(data), progress=lambda *p: seen.append(p)
    )
    assert (descriptor.digest, descriptor.size) == (digest(data), len(data))
    assert await storage.blobs.has(descriptor.digest)
    assert await storage.blobs.read(descriptor.digest) == data
    assert seen[-1] == (len(data), len(data))


async def test_a_blob_of_another_digest_or_size_leaves_nothing(storage: LinuxStorage) -> None:
    with pytest.raises(PortError) as refused:
        await storage.blobs.ingest(stream(b"one"), Digest(digest(b"other")))
    assert refused.value.fault is Fault.INVALID
    for size in (2, 4):
        with pytest.raises(PortError):
            await storage.blobs.ingest(stream(b"one"), size=size)
    assert nothing_left(storage)
    assert (await storage.layers.inventory()).blobs == ()


async def test_a_cancelled_ingest_leaves_nothing(storage: LinuxStorage) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b"x" * 2_000_000
        await trio.sleep_forever()

    with trio.move_on_after(0.2) as scope:
        await storage.blobs.ingest(endless())
    assert scope.cancelled_caught
    assert nothing_left(storage)


async def test_an_ingest_that_breaks_off_is_gone_on_with_where_it_was(storage: LinuxStorage) -> None:
    data = os.urandom(3_500_000)
    name = Digest(digest(data))

    async def breaking(part: bytes) -> AsyncIterator[bytes]:
        async for chunk in stream(part):
            yield chunk
        raise PortError("pull", "cut", retriable=True)

    assert await storage.blobs.partial(name) == 0
    for upto in (1 << 20, 3 << 20):
        begun = await storage.blobs.partial(name)
        with pytest.raises(PortError, match="cut"):
            await storage.blobs.ingest(breaking(data[begun:upto]), name, size=len(data), resume=True)
        assert await storage.blobs.partial(name) == upto
        assert (await storage.layers.inventory()).partial == (name,)
        assert not await storage.blobs.has(name)
    await storage.blobs.ingest(stream(data[3 << 20 :]), name, size=len(data), resume=True)
    assert await storage.blobs.partial(name) == 0
    with open(storage.blobs.path(name), "rb") as file:
        assert file.read() == data


@pytest.mark.parametrize("wrong", ["byte", "length"])
async def test_what_came_wrong_is_not_gone_on_with(storage: LinuxStorage, wrong: str) -> None:
    data = os.urandom(2 << 20)
    name = Digest(digest(data))
    bad = data[:-1] + bytes([data[-1] ^ 1]) if wrong == "byte" else data + b"more"
    with pytest.raises(PortError) as refused:
        await storage.blobs.ingest(stream(bad), name, size=len(data), resume=True)
    assert refused.value.retriable
    assert await storage.blobs.partial(name) == 0
    assert (await storage.layers.inventory()).partial == ()


async def test_one_goes_on_when_another_who_was_cancelled_has_let_go(storage: LinuxStorage) -> None:
    data = os.urandom(2 << 20)
    name = Digest(digest(data))

    async def stuck() -> AsyncIterator[bytes]:
        yield data[: 1 << 20]
        await trio.sleep_forever()

    async def begin(scope: trio.CancelScope) -> None:
        with scope:
            await storage.blobs.ingest(stuck(), name, size=len(data), resume=True)

    async def after() -> None:
        await storage.blobs.ingest(stream(data[1 << 20 :]), name, size=len(data), resume=True)

    scope = trio.CancelScope()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(begin, scope)
            while await storage.blobs.partial(name) < 1 << 20:
                await trio.sleep(0.001)
            nursery.start_soon(after)
            await trio.sleep(0.01)
            scope.cancel()
    assert await storage.blobs.has(name)


@pytest.mark.parametrize("compress", ["gzip", "zstd", "none"])
async def test_layers_unpack_side_by_side_and_make_one_root(
    storage: LinuxStorage, compress: str, tmp_path: Path
) -> None:
    """IMG-06, IMG-24."""
    chain = await unpacked(
        storage,
        layer_of({"a": None, "a/one": b"1", "a/gone": b"2", "b": None, "b/old": b"3"}),
        layer_of({"a/.wh.gone": b"", "b/.wh..wh..opq": b"", "b/new": b"4"}),
        compress=compress,
    )
    rootfs = await storage.rootfs.prepare(CONTAINER, chain, volatile=False)
    with mounted(rootfs, tmp_path / "merged") as root:
        assert (root / "a/one").read_bytes() == b"1"
        assert os.listdir(root / "a") == ["one"]
        assert os.listdir(root / "b") == ["new"]
        assert (root / "etc/resolv.conf").read_bytes() == b""
    assert (await storage.layers.inventory()).layers == tuple(sorted(chain))
    layer = await storage.layers.lookup(chain[0])
    assert layer is not None and layer.size == 3


async def test_unpacking_twice_is_unpacking_once(storage: LinuxStorage) -> None:
    layer = layer_of({"f": b"x"})
    assert await unpacked(storage, layer) == await unpacked(storage, layer)
    assert len((await storage.layers.inventory()).layers) == 1


async def test_a_layer_waits_for_the_one_below_also_when_another_gives_that_up(storage: LinuxStorage) -> None:
    for attempt in range(8):  # who wakes up first when the other is gone is chance.
        lower, upper = layer_of({f"lower{attempt}": b"l" * 100_000}), layer_of({f"upper{attempt}": b"u"})
        blobs = [(await storage.blobs.ingest(stream(each))).digest for each in (lower, upper)]
        below, above = (DiffID(digest(each)) for each in (lower, upper))
        unpack = partial(storage.layers.unpack, blobs[0], "", below, None)
        async with trio.open_nursery() as ours, trio.open_nursery() as others:
            others.start_soon(unpack)
            await trio.lowlevel.checkpoint()
            ours.start_soon(unpack)
            await trio.lowlevel.checkpoint()
            ours.start_soon(storage.layers.unpack, blobs[1], "", above, ChainID(below))
            await trio.lowlevel.checkpoint()
            others.cancel_scope.cancel()
        assert len((await storage.layers.inventory()).layers) == 2 * (attempt + 1)


async def test_a_layer_that_is_not_the_promised_one_leaves_nothing(storage: LinuxStorage) -> None:
    blob, kind = compressed(layer_of({"f": b"x"}), "gzip")
    descriptor = await storage.blobs.ingest(stream(blob))
    with pytest.raises(PortError, match="don't match image configuration") as refused:
        await storage.layers.unpack(descriptor.digest, kind, DiffID(digest(b"other")), None)
    assert refused.value.fault is Fault.INVALID
    assert (await storage.layers.inventory()).layers == ()
    assert nothing_left(storage)


async def test_a_worker_stays_for_the_next_layer_unless_it_failed_and_not_for_ever(storage: LinuxStorage) -> None:
    def children() -> set[str]:
        found = set()
        for status in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # it has just ended
                if int(status.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                    found.add(status.parent.name)
        return found

    others = children()
    await unpacked(storage, layer_of({"first": b"1"}))
    (stayed,) = children() - others
    await unpacked(storage, layer_of({"second": b"2"}))
    assert children() - others == {stayed}
    blob, kind = compressed(b"\xff" * 2048, "gzip")
    descriptor = await storage.blobs.ingest(stream(blob))
    with pytest.raises(PortError, match="invalid tar header"):
        await storage.layers.unpack(descriptor.digest, kind, DiffID(digest(b"\xff" * 2048)), None)
    assert not children() - others
    await unpacked(storage, layer_of({"third": b"3"}))
    await storage.workers.retire()
    assert len(children() - others) == 1, "its time has not come"
    await storage.workers.retire(idle_s=0)
    assert not children() - others


async def test_a_truncated_layer_is_refused(storage: LinuxStorage) -> None:
    layer = layer_of({"f": os.urandom(200_000)})
    for blob in (compressed(layer, "gzip")[0][:-5000], compressed(layer, "zstd")[0][:-5000], layer[:100_000]):
        descriptor = await storage.blobs.ingest(stream(blob))
        with pytest.raises(PortError) as refused:
            await storage.layers.unpack(descriptor.digest, "", DiffID(digest(layer)), None)
        assert refused.value.fault is Fault.INVALID
    assert (await storage.layers.inventory()).layers == ()


async def test_an_implied_directory_takes_the_attributes_of_the_one_below(
    storage: LinuxStorage, tmp_path: Path
) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        entry = tarfile.TarInfo("home/user")
        entry.type, entry.mode, entry.uid, entry.mtime = tarfile.DIRTYPE, 0o2750, 1000, 77
        tar.addfile(entry)
    chain = await unpacked(storage, out.getvalue(), layer_of({"home/user/file": b""}))
    found = os.stat(f"{storage.layers.lowers(chain)[0]}/home/user")
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_mtime) == (0o2750, 1000, 77)


async def test_the_read_write_layer_is_kept_until_it_is_discarded(storage: LinuxStorage) -> None:
    chain = await unpacked(storage, layer_of({"f": b"x"}))
    rootfs = await storage.rootfs.prepare(CONTAINER, chain, volatile=False)
    Path(rootfs.upper, "mine").write_bytes(b"12345")
    assert await storage.rootfs.prepare(CONTAINER, chain, volatile=False) == rootfs
    assert await storage.rootfs.usages([CONTAINER, OTHER]) == {CONTAINER: 5, OTHER: 0}
    assert (await storage.layers.inventory()).containers == (CONTAINER,)
    await storage.rootfs.discard_rootfs(CONTAINER)
    await storage.rootfs.discard_rootfs(CONTAINER)
    assert (await storage.layers.inventory()).containers == ()
    assert await storage.sweep_once() == 1
    assert os.listdir(storage.places.trash) == []


async def test_a_root_over_a_missing_layer_is_refused(storage: LinuxStorage) -> None:
    with pytest.raises(PortError) as refused:
        await storage.rootfs.prepare(CONTAINER, [ChainID(digest(b"nothing"))], volatile=False)
    assert refused.value.fault is Fault.NOT_FOUND


async def test_a_layer_of_another_boot_is_made_again_unless_durable(storage: LinuxStorage) -> None:
    chain = await unpacked(storage, layer_of({"f": b"x"}), layer_of({"g": b"y"}))
    meta = Path(storage.places.layer(chain[0]), "meta.json")
    current = await storage.layers.meta(chain[0])
    assert current is not None
    meta.write_text(meta.read_text().replace(current.boot, "another-boot"))
    harmed = Path(storage.layers.lowers(chain[:1])[0], "f")
    harmed.write_bytes(b"")
    assert await storage.layers.doubtful() == (chain[0],)
    assert await storage.layers.repair() == ()
    assert harmed.read_bytes() == b"x"
    await storage.layers.settle()
    meta.write_text(meta.read_text().replace(current.boot, "another-boot"))
    assert await storage.layers.doubtful() == ()


@pytest.mark.parametrize("kind", ["tree", "ground"])
async def test_the_sweeper_abandons_what_an_earlier_run_left_and_nothing_else(tmp_path: Path, kind: str) -> None:
    def made(storage: LinuxStorage) -> str:
        path = storage.places.new_temporary("layer") if kind == "tree" else storage.places.new_ground()
        os.mkdir(path)
        return path

    now = LinuxStorage(str(tmp_path))
    left, current = made(LinuxStorage(str(tmp_path))), made(now)
    with trio.move_on_after(0.2):
        await now.sweep()
    assert os.path.exists(current) and not os.path.exists(left)


async def test_the_sweeper_says_where_on_the_disk_it_deleted(
    storage: LinuxStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[int, int]] = []
    monkeypatch.setattr(Spreading, "deleted", lambda _, counts: told.append(counts))
    thrown_away = storage.places.new_temporary("layer")
    (Path(thrown_away) / "below").mkdir(parents=True)
    (Path(thrown_away) / "below" / "file").touch()
    expected = Counter(region_of(str(path)) for path in Path(thrown_away).rglob("*"))
    storage.places.discard(thrown_away)
    await storage.sweep_once()
    assert told == [expected]


async def test_sweeping_waits_for_what_is_being_taken_in(
    storage: LinuxStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.drivers.linux.storage.store.SWEEP_INTERVAL_S", 0.01)
    thrown_away = storage.places.new_temporary("layer")
    os.mkdir(thrown_away)
    storage.places.discard(thrown_away)
    fields = {"file": storage.places.new_temporary("import")}
    async with storage.workers.start("receive_layer", fields, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL):
        with trio.move_on_after(0.2):  # a bound on how long it may try
            await storage.sweep()
        assert not storage.places.trash_is_empty()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(storage.sweep)
        while not storage.places.trash_is_empty():
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


HIDING = [
    ("gone", {"d/.wh.old": b""}, {"d": ["kept"]}),
    ("a whole directory", {".wh.d": b""}, {"": []}),
    ("all that was there", {"d/new": b"", "d/.wh..wh..opq": b""}, {"d": ["new"]}),
    ("all that was there, told first", {"d/.wh..wh..opq": b"", "d/new": b""}, {"d": ["new"]}),
    ("what the same layer brings again", {"d/old": b"new", "d/.wh.old": b""}, {"d": ["kept", "old"]}),
    ("a directory that comes back", {".wh.d": b"", "d": None, "d/new": b""}, {"d": ["new"]}),
    ("a directory by a file", {"d": b"file"}, {"": ["d"]}),
    ("a file by a directory", {"d/old": None, "d/old/deep": b""}, {"d": ["kept", "old"], "d/old": ["deep"]}),
    ("a file by a directory that is only implied", {"d/old/deep": b""}, {"d": ["kept", "old"], "d/old": ["deep"]}),
    ("nothing", {"d/.wh.never": b""}, {"d": ["kept", "old"]}),
]


@pytest.mark.parametrize(("what", "upper", "seen"), HIDING, ids=[case[0] for case in HIDING])
async def test_a_layer_hides(
    storage: LinuxStorage, tmp_path: Path, what: str, upper: dict[str, bytes | None], seen: dict[str, list[str]]
) -> None:
    """IMG-22, IMG-24."""
    lower = layer_of({"d": None, "d/old": b"old", "d/kept": b""})
    chain = await unpacked(storage, lower, layer_of(upper))
    rootfs = await storage.rootfs.prepare(CONTAINER, chain, volatile=False)
    made_by_us = {".dockerenv", "dev", "etc", "proc", "sys"}
    with mounted(rootfs, tmp_path / "merged") as root:
        for directory, names in seen.items():
            assert sorted(set(os.listdir(root / directory)) - made_by_us) == names


async def test_attributes_and_hard_links_stay_through_all_layers(storage: LinuxStorage, tmp_path: Path) -> None:
    """IMG-22, IMG-24."""
    chain = await unpacked(storage, tar_of_odd_files(), layer_of({"more": b""}))
    rootfs = await storage.rootfs.prepare(CONTAINER, chain, volatile=False)
    with mounted(rootfs, tmp_path / "merged") as root:
        found = os.lstat(root / "tool")
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, found.st_mtime) == (0o4755, 7, 8, 77)
        assert os.lstat(root / "same").st_ino == found.st_ino
        assert os.readlink(root / "link") == "tool"
        assert os.lstat(root / "null").st_rdev == os.makedev(1, 3)
        assert stat.S_ISFIFO(os.lstat(root / "pipe").st_mode)
    assert await storage.rootfs.changes(CONTAINER) == ()
    assert await storage.rootfs.usages([CONTAINER]) == {CONTAINER: 0}


def tar_of_odd_files() -> bytes:
    out = io.BytesIO()
    kinds = {"same": tarfile.LNKTYPE, "link": tarfile.SYMTYPE, "null": tarfile.CHRTYPE, "pipe": tarfile.FIFOTYPE}
    with tarfile.open(fileobj=out, mode="w") as tar:
        entry = tarfile.TarInfo("tool")
        entry.mode, entry.uid, entry.gid, entry.mtime, entry.size = 0o4755, 7, 8, 77, 3
        tar.addfile(entry, io.BytesIO(b"xyz"))
        for name, kind in kinds.items():
            entry = tarfile.TarInfo(name)
            if kind == tarfile.LNKTYPE:  # archivers repeat what the file has with each of its names
                entry.mode, entry.uid, entry.gid, entry.mtime = 0o4755, 7, 8, 77
            entry.type, entry.linkname, entry.devmajor, entry.devminor = kind, "tool", 1, 3
            tar.addfile(entry)
    return out.getvalue()


async def test_a_data_root_stays_with_the_driver_that_it_began_with(tmp_path: Path) -> None:
    """IMG-24."""
    for name in ("new", "old", "told"):
        (tmp_path / name).mkdir()
    assert await storage_driver(str(tmp_path / "new"), "") == "overlay2"
    assert await storage_driver(str(tmp_path / "told"), "vfs") == "vfs"
    assert await storage_driver(str(tmp_path / "told"), "") == "vfs"
    with pytest.raises(ConfigError, match="has layers of vfs; use another data-root"):
        await storage_driver(str(tmp_path / "told"), "overlay2")
    (tmp_path / "old/layers").mkdir()
    assert await storage_driver(str(tmp_path / "old"), "") == "overlay2"


async def test_where_no_overlay_can_be_mounted_there_are_copies(tmp_path: Path) -> None:
    """IMG-24: a data root that lies on an overlay itself, as in a container."""
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    inside = tmp_path / "merged"
    kernel.mount_overlay(
        str(inside), (str(tmp_path / "lower"),), str(tmp_path / "upper"), str(tmp_path / "work"), volatile=False
    )
    try:
        with pytest.raises(ConfigError, match="storage-driver overlay2: not supported on the file system of"):
            await storage_driver(str(inside), "overlay2")
        assert await storage_driver(str(inside), "") == "vfs"
        storage = LinuxStorage(str(inside), driver="vfs")
        chain = await unpacked(storage, layer_of({"gone": b"", "stays": b""}), layer_of({".wh.gone": b""}))
        rootfs = await storage.rootfs.prepare(CONTAINER, chain, volatile=False)
        assert os.path.exists(f"{rootfs.upper}/stays")
        assert not os.path.lexists(f"{rootfs.upper}/gone")
        await storage.workers.retire(idle_s=0)
    finally:
        kernel.umount(str(inside))
