"""Pulling as a user sees it: what is told, what is there afterwards, and what is not after a failure."""

from __future__ import annotations

import json
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import trio

from engine.aggregates.decider import Recorded
from engine.aggregates.image import ImageStatus
from engine.aggregates.transfer import LeaseReleased, TransferDone, TransferFailed, TransferInterrupted
from engine.aggregates.values.ids import Digest
from engine.aggregates.values.reference import parse
from tests.api.harness import Client, in_thread
from tests.support.images import digest, image_of, layer_of
from tests.support.served_engine import CAUSE, MemoryRegistry, TestEngine, running_engine

pytestmark = pytest.mark.root

BASE = layer_of({"bin": None, "bin/sh": b"#!" + bytes(300_000)})
TOP = layer_of({"etc": None, "etc/motd": b"hello\n"})


def pull(name: str, tag: str = "latest", **query: str) -> str:
    rest = "".join(f"&{key}={value}" for key, value in query.items())
    return f"/images/create?fromImage={name}" + (f"&tag={tag}" if tag else "") + rest


def words(lines: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """(id, status), each once, in order."""
    return list(dict.fromkeys((line.get("id", ""), line["status"]) for line in lines if "status" in line))


def history(engine: TestEngine, kind: str) -> list[Recorded]:
    application = engine.hands.application
    return [recorded for recorded in application.read(0, 10_000) if recorded.kind == kind]


async def test_a_pull_tells_each_layer_and_ends_with_an_image_of_that_name(tmp_path: Path) -> None:
    """IMG-01, IMG-02."""
    registry = MemoryRegistry()
    image = image_of(BASE, TOP, Cmd=["/bin/sh"], Labels={"a": "b"})
    manifest_digest = registry.push("docker.io/library/alpine", "3.20", image)
    async with running_engine(tmp_path, registry_port=registry) as engine:
        lines = await engine.lines("POST", pull("alpine", "3.20"))
        base, top = (name[7:19] for name in [digest(blob) for blob in _layer_blobs(image)])
        told = words(lines)
        assert told[0] == ("3.20", "Pulling from library/alpine")
        for layer in (base, top):
            said = [status for identifier, status in told if identifier == layer]
            assert said[0] == "Pulling fs layer"
            assert said[-3:] == ["Download complete", "Extracting", "Pull complete"] or said[-2:] == [
                "Download complete",
                "Pull complete",
            ]
            assert "Verifying Checksum" in said
        assert told[-2:] == [
            ("", f"Digest: {manifest_digest}"),
            ("", "Status: Downloaded newer image for alpine:3.20"),
        ]
        status, shown = await engine.ask("GET", "/images/alpine:3.20/json")
        assert status == 200
        assert shown["Id"] == image.image_id
        assert shown["RepoTags"] == ["alpine:3.20"]
        assert shown["RepoDigests"] == [f"alpine@{manifest_digest}"]
        assert shown["RootFS"]["Layers"] == image.diff_ids
        assert shown["Config"]["Cmd"] == ["/bin/sh"]
        tree = engine.data_root / "layers" / shown["GraphDriver"]["Data"]["UpperDir"].rpartition("/layers/")[2]
        assert (tree / "etc/motd").read_bytes() == b"hello\n"
        told = [type(one.event).__name__ for one in history(engine, "transfer")]
        assert told == ["TransferBegun", "ContentLeased", "ContentLeased", "TransferDone"]
        transfer = engine.hands.application.state("transfer", history(engine, "transfer")[0].key)
        assert (transfer.blobs, transfer.layers) == (frozenset(), frozenset()), "the image keeps them now"


async def test_a_second_pull_says_that_the_image_is_up_to_date_and_fetches_nothing(tmp_path: Path) -> None:
    """IMG-01, IMG-02."""
    registry = MemoryRegistry()
    registry.push("docker.io/library/alpine", "latest", image_of(BASE))
    async with running_engine(tmp_path, registry_port=registry) as engine:
        await engine.lines("POST", pull("alpine"))
        registry.begun.clear()
        lines = await engine.lines("POST", pull("alpine"))
        assert lines[-1]["status"] == "Status: Image is up to date for alpine:latest"
        assert registry.begun == []


async def test_layers_that_are_here_already_are_not_fetched_again(tmp_path: Path) -> None:
    """IMG-02."""
    registry = MemoryRegistry()
    first, second = image_of(BASE), image_of(BASE, TOP)
    registry.push("docker.io/library/alpine", "1", first)
    registry.push("docker.io/library/alpine", "2", second)
    async with running_engine(tmp_path, registry_port=registry) as engine:
        await engine.lines("POST", pull("alpine", "1"))
        registry.begun.clear()
        told = words(await engine.lines("POST", pull("alpine", "2")))
        base = digest(_layer_blobs(first)[0])
        assert (base[7:19], "Already exists") in told
        assert base not in [name for name, _ in registry.begun]


async def test_an_index_gives_the_image_of_the_wanted_platform(tmp_path: Path) -> None:
    """IMG-04."""
    registry = MemoryRegistry()
    mine, other = image_of(BASE), _for_architecture("arm64")
    index = registry.push_index("docker.io/library/multi", "latest", {"linux/amd64": mine, "linux/arm64": other})
    async with running_engine(tmp_path, registry_port=registry) as engine:
        await engine.lines("POST", pull("multi"))
        _, shown = await engine.ask("GET", "/images/multi/json")
        assert shown["Id"] == mine.image_id
        assert shown["RepoDigests"] == [f"multi@{index}"]
        await engine.lines("POST", pull("multi", platform="linux/arm64"))
        _, shown = await engine.ask("GET", f"/images/{other.image_id}/json")
        assert shown["Architecture"] == "arm64"
        status, answer = await engine.ask("POST", pull("multi", platform="linux/s390x"))
        assert status == 404
        assert "no matching manifest for linux/s390x" in answer["message"]


async def test_a_pull_by_digest_keeps_the_digest_and_gives_no_tag(tmp_path: Path) -> None:
    """IMG-29."""
    registry = MemoryRegistry()
    found = registry.push("docker.io/library/alpine", "latest", image_of(BASE))
    async with running_engine(tmp_path, registry_port=registry) as engine:
        lines = await engine.lines("POST", pull("alpine", found))
        assert lines[-1]["status"] == f"Status: Downloaded newer image for alpine@{found}"
        _, images = await engine.ask("GET", "/images/json")
        assert [(one["RepoTags"], one["RepoDigests"]) for one in images] == [([], [f"alpine@{found}"])]
        status, _ = await engine.ask("GET", f"/images/alpine@{found}/json")
        assert status == 200


async def test_without_a_tag_every_tag_is_pulled(tmp_path: Path) -> None:
    """IMG-29."""
    registry = MemoryRegistry()
    registry.push("127.0.0.1:5000/app", "one", image_of(BASE))
    registry.push("127.0.0.1:5000/app", "two", image_of(BASE, TOP))
    async with running_engine(tmp_path, registry_port=registry) as engine:
        lines = await engine.lines("POST", pull("127.0.0.1:5000/app", ""))
        assert lines[-1]["status"] == "Status: Downloaded newer image for 127.0.0.1:5000/app"
        _, images = await engine.ask("GET", "/images/json")
        tags = sorted(tag for one in images for tag in one["RepoTags"])
        assert tags == ["127.0.0.1:5000/app:one", "127.0.0.1:5000/app:two"]


async def test_a_missing_image_is_404_before_anything_is_told(tmp_path: Path) -> None:
    async with running_engine(tmp_path) as engine:
        status, answer = await engine.ask("POST", pull("nowhere"))
        assert status == 404
        assert "manifest for nowhere:latest not found" in answer["message"]
        failed = history(engine, "transfer")[-1].event
        assert isinstance(failed, TransferFailed)
        assert "manifest unknown" in failed.error


async def test_a_broken_connection_goes_on_where_it_broke(tmp_path: Path) -> None:
    registry = MemoryRegistry()
    noise = layer_of({"noise": __import__("random").Random(1).randbytes(400_000)})
    image = image_of(noise)
    registry.push("docker.io/library/alpine", "latest", image)
    blob = digest(_layer_blobs(image)[0])
    registry.breaks[blob] = [100_000, 250_000]
    async with running_engine(tmp_path, registry_port=registry) as engine:
        lines = await engine.lines("POST", pull("alpine"))
        assert lines[-1]["status"] == "Status: Downloaded newer image for alpine:latest"
        assert [offset for name, offset in registry.begun if name == blob] == [0, 100_000, 250_000]


async def test_a_blob_with_the_wrong_digest_fails_the_pull_and_leaves_nothing(tmp_path: Path) -> None:
    registry = MemoryRegistry()
    image = image_of(BASE)
    registry.push("docker.io/library/alpine", "latest", image)
    blob = digest(_layer_blobs(image)[0])
    registry.blobs[blob] = bytes(len(registry.blobs[blob]))
    async with running_engine(tmp_path, registry_port=registry) as engine:
        lines = await engine.lines("POST", pull("alpine"))
        assert "filesystem layer verification failed for digest" in lines[-1]["error"]
        assert lines[-1]["errorDetail"]["message"] == lines[-1]["error"]
        assert (await engine.ask("GET", "/images/json"))[1] == []
        assert len([name for name, _ in registry.begun if name == blob]) == 1, "as in Docker"
        assert len((await engine.storage.layers.inventory()).blobs) == 1, "the configuration waits for the next try"
        assert (await engine.ask("POST", "/images/prune"))[0] == 200
        assert (await engine.storage.layers.inventory()).blobs == ()


async def test_a_blob_that_came_in_pieces_that_do_not_fit_is_fetched_anew(tmp_path: Path) -> None:
    """IMG-04, IMG-05: the part that was here is not what the registry has."""
    registry = breaking_registry()
    async with running_engine(tmp_path, registry_port=registry) as engine:
        assert "error" in (await engine.lines("POST", pull("alpine")))[-1]
        partial = Path(engine.storage.places.partial_blob(Digest(LARGE_BLOB)))
        partial.write_bytes(bytes(partial.stat().st_size))
        registry.begun.clear()
        assert "error" not in (await engine.lines("POST", pull("alpine")))[-1]
        assert [offset for name, offset in registry.begun if name == LARGE_BLOB] == [3 << 20, 0]


async def test_only_a_layer_without_a_place_waits(tmp_path: Path) -> None:
    """IMG-02, IMG-05."""
    registry = MemoryRegistry()
    registry.push("docker.io/library/alpine", "latest", image_of(*(layer_of({f"{n}": b""}) for n in range(4))))
    async with running_engine(tmp_path, registry_port=registry) as engine:
        told = words(await engine.lines("POST", pull("alpine")))
        assert [status for _, status in told].count("Waiting") == 1, "three are fetched at a time"


async def test_a_client_that_leaves_ends_its_download_but_not_one_that_another_waits_for(tmp_path: Path) -> None:
    registry = MemoryRegistry()
    image = image_of(BASE)
    registry.push("docker.io/library/alpine", "latest", image)
    layer = digest(_layer_blobs(image)[0])
    async with running_engine(tmp_path, registry_port=registry) as engine:

        async def quiet(message: object) -> None:
            await trio.lowlevel.checkpoint()

        async def one_pull(task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED) -> None:
            with trio.CancelScope() as scope:
                task_status.started(scope)
                await engine.images.pull(parse("alpine:latest"), None, None, quiet, CAUSE)

        gate = registry.gates[layer] = trio.Event()
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                leaver = await nursery.start(one_pull)
                await nursery.start(one_pull)
                await engine.until(lambda: engine.images.downloads.watchers(layer) == 2)
                leaver.cancel()
                await engine.until(lambda: engine.images.downloads.watchers(layer) == 1)
                gate.set()
        assert engine.hands.views.images.lookup("alpine") is not None
        assert [name for name, _ in registry.begun].count(layer) == 1
        outcomes = [one.event for one in history(engine, "transfer") if not type(one.event).__name__.endswith("Begun")]
        assert [type(event) for event in outcomes].count(TransferDone) == 1
        interrupted = [event for event in outcomes if isinstance(event, TransferInterrupted)]
        assert "cancelled by the client" in {event.error for event in interrupted}


async def test_a_download_that_nobody_waits_for_is_given_up(tmp_path: Path) -> None:
    registry = MemoryRegistry()
    image = image_of(BASE)
    registry.push("docker.io/library/alpine", "latest", image)
    layer = digest(_layer_blobs(image)[0])
    registry.gates[layer] = trio.Event()
    async with running_engine(tmp_path, registry_port=registry) as engine:
        connection = Client(engine.served.path)
        await in_thread(lambda: connection.request("POST", pull("alpine")))
        await engine.until(lambda: layer in [name for name, _ in registry.begun])
        connection.close()
        await engine.until(lambda: layer in registry.ended)
        await engine.until(lambda: isinstance(history(engine, "transfer")[-1].event, TransferInterrupted))
        assert engine.images.downloads.watchers(layer) == 0
        assert (await engine.ask("GET", "/images/json"))[1] == []


async def test_a_tag_moves_to_the_newer_image(tmp_path: Path) -> None:
    registry = MemoryRegistry()
    registry.push("docker.io/library/alpine", "latest", image_of(BASE))
    async with running_engine(tmp_path, registry_port=registry) as engine:
        await engine.lines("POST", pull("alpine"))
        newer = image_of(TOP)
        registry.push("docker.io/library/alpine", "latest", newer)
        lines = await engine.lines("POST", pull("alpine"))
        assert lines[-1]["status"] == "Status: Downloaded newer image for alpine:latest"
        _, images = await engine.ask("GET", "/images/json")
        assert [one["RepoTags"] for one in images if one["Id"] == newer.image_id] == [["alpine:latest"]]
        assert [one["RepoTags"] for one in images if one["Id"] != newer.image_id] == [[]]


async def test_a_restart_fails_open_transfers_finishes_removals_and_collects_orphans(tmp_path: Path) -> None:
    from engine.aggregates.image import RemoveImage
    from engine.aggregates.transfer import BeginTransfer

    registry = MemoryRegistry()
    image = image_of(BASE)
    registry.push("docker.io/library/alpine", "latest", image)
    async with running_engine(tmp_path, registry_port=registry) as engine:
        await engine.lines("POST", pull("alpine"))

    async def crash(engine: TestEngine) -> None:
        """What a crash leaves: an open transfer, a blob of nobody, a removal that was only asked for."""
        await engine.execute(BeginTransfer(transfer_id="t" * 64, at=1, kind="pull", reference="x"))
        await engine.storage.blobs.ingest(once(b"orphan"))
        await engine.execute(RemoveImage(image_id=image.image_id, at=1))  # type: ignore[arg-type]  # a str in tests
        assert await engine.images.recover() == 1

    async with running_engine(tmp_path, registry_port=registry, prepare=crash) as engine:
        state = await engine.hands.pump.until(
            f"image:{image.image_id}", lambda state: state.status is ImageStatus.ABSENT
        )
        assert state.status is ImageStatus.ABSENT
        transfer = engine.hands.application.state("transfer", "t" * 64)
        assert transfer.error == "interrupted by a restart of the engine"
        inventory = await engine.storage.layers.inventory()
        assert (inventory.blobs, inventory.layers) == ((), ())


LARGE = image_of(layer_of({"noise": __import__("random").Random(2).randbytes(4 << 20)}))
LARGE_BLOB = json.loads(LARGE.manifest)["layers"][0]["digest"]


def breaking_registry() -> MemoryRegistry:
    """One that breaks off within the large blob as often as one pull asks for it; the next has it whole."""
    registry = MemoryRegistry()
    registry.push("docker.io/library/alpine", "latest", LARGE)
    registry.breaks[LARGE_BLOB] = [3 << 20] * 5
    return registry


class StuckRegistry(MemoryRegistry):
    """Nothing more comes of a blob that broke, while `stuck`."""

    stuck = True

    async def blob(self, reference: Any, wanted: Any, credentials: Any, offset: int = 0) -> Any:
        async with aclosing(super().blob(reference, wanted, credentials, offset)) as chunks:
            async for chunk in chunks:
                if offset and self.stuck:
                    await trio.sleep_forever()
                yield chunk


async def test_an_interrupted_pull_is_gone_on_with_by_the_next_one_after_a_restart(tmp_path: Path) -> None:
    """IMG-26: what has come is leased, in part and whole, and the restart's collection leaves it alone."""
    registry = StuckRegistry()
    registry.push("docker.io/library/alpine", "latest", LARGE)
    registry.breaks[LARGE_BLOB] = [3 << 20]

    async with running_engine(tmp_path, registry_port=registry) as engine:

        async def quiet(message: object) -> None:
            await trio.lowlevel.checkpoint()

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(engine.images.pull, parse("alpine:latest"), None, None, quiet, CAUSE)
                await engine.until(lambda: (LARGE_BLOB, 3 << 20) in registry.begun)
                nursery.cancel_scope.cancel()
        inventory = await engine.storage.layers.inventory()
        assert inventory.partial == (LARGE_BLOB,)
        assert inventory.blobs == (LARGE.image_id,)

    async def recover(engine: TestEngine) -> None:
        assert await engine.images.recover() == 0

    registry.begun.clear()
    registry.stuck = False
    async with running_engine(tmp_path, registry_port=registry, prepare=recover) as engine:
        assert (await engine.lines("POST", pull("alpine")))[-1]["status"].startswith("Status: Downloaded newer image")
        ((_, offset),) = [begun for begun in registry.begun if begun[0] == LARGE_BLOB]
        assert offset == 3 << 20
        assert LARGE.image_id not in [name for name, _ in registry.begun], "the configuration was here"
        inventory = await engine.storage.layers.inventory()
        assert inventory.partial == ()
        assert len(inventory.blobs) == 3
        released = [one.event for one in history(engine, "transfer") if isinstance(one.event, LeaseReleased)]
        assert [event.reason for event in released] == ["a later pull of docker.io/library/alpine:latest has ended"]
        assert engine.hands.application.live("transfer") == ()


async def test_a_blob_that_came_in_part_and_then_whole_another_way_is_kept_once(tmp_path: Path) -> None:
    """IMG-26: also where the pull that had begun it finds nothing left to do."""
    registry = breaking_registry()
    async with running_engine(tmp_path, registry_port=registry) as engine:
        assert "error" in (await engine.lines("POST", pull("alpine")))[-1]
        assert (await engine.storage.layers.inventory()).partial == (LARGE_BLOB,)
        archive = LARGE.oci_archive("docker.io/library/other:1")
        assert "error" not in (await engine.lines("POST", "/images/load", archive))[-1]
        assert "error" not in (await engine.lines("POST", pull("alpine")))[-1]
        await settled(engine, blobs=3)


async def test_what_a_pull_left_goes_with_the_next_when_the_tag_has_moved_on(tmp_path: Path) -> None:
    """IMG-26."""
    registry = breaking_registry()
    async with running_engine(tmp_path, registry_port=registry) as engine:
        assert "error" in (await engine.lines("POST", pull("alpine")))[-1]
        registry.push("docker.io/library/alpine", "latest", image_of(BASE))
        assert "error" not in (await engine.lines("POST", pull("alpine")))[-1]
        await settled(engine, blobs=3)


async def settled(engine: TestEngine, blobs: int) -> None:
    """Wait until there are so many blobs, and none in part."""
    with trio.fail_after(10):
        while True:
            inventory = await engine.storage.layers.inventory()
            if (len(inventory.blobs), inventory.partial) == (blobs, ()):
                return
            await trio.sleep(0.001)


async def test_a_lease_ends_when_its_time_has_come_and_so_does_what_only_it_kept(tmp_path: Path) -> None:
    registry = MemoryRegistry()
    image = image_of(BASE)
    registry.push("docker.io/library/alpine", "latest", image)
    registry.blobs.pop(_digest_of(image))
    async with running_engine(tmp_path, registry_port=registry) as engine:
        assert "error" in (await engine.lines("POST", pull("alpine")))[-1]
        (transfer_id,) = engine.hands.application.live("transfer")
        kept_until = engine.hands.application.state("transfer", transfer_id).kept_until
        hour_ns = 3600 * 10**9
        assert kept_until - engine.hands.clock.now_ns() > 23 * hour_ns
        for moment, left in ((kept_until - hour_ns, 1), (kept_until, 0)):
            await engine.images.expire(moment)
            assert len((await engine.storage.layers.inventory()).blobs) == left
        assert engine.hands.application.live("transfer") == ()


async def once(data: bytes) -> Any:
    yield data


def _digest_of(image: Any) -> str:
    return str(json.loads(image.manifest)["layers"][0]["digest"])


def _layer_blobs(image: Any) -> list[bytes]:
    return [image.blobs[entry["digest"]] for entry in json.loads(image.manifest)["layers"]]


def _for_architecture(architecture: str) -> Any:
    image = image_of(TOP)
    document = json.loads(image.config) | {"architecture": architecture}
    image.config = json.dumps(document).encode()
    image.blobs = {}
    return image.build()
