"""Pushing as a user sees it: what is told, what the registry has afterwards, and what the engine keeps of it."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
import trio

from engine.aggregates.transfer import TransferDone, TransferFailed
from engine.aggregates.values.ids import Digest, short
from tests.api.harness import Client, in_thread
from tests.reactors.images.test_pull import BASE, TOP, history, pull, words
from tests.support.images import TestImage, digest, image_of, layer_of
from tests.support.served_engine import MemoryRegistry, TestEngine, running_engine

pytestmark = pytest.mark.root

REPOSITORY = "127.0.0.1:5000/app"


async def push(engine: TestEngine, name: str = REPOSITORY, tag: str = "latest") -> list[dict[str, Any]]:
    return await engine.lines("POST", f"/images/{name}/push" + (f"?tag={tag}" if tag else ""))


async def load(engine: TestEngine, image: TestImage, *tags: str) -> None:
    told = await engine.lines("POST", "/images/load", image.docker_archive(*tags))
    assert "error" not in told[-1]


async def test_a_pulled_image_is_pushed_with_the_digests_it_came_with(tmp_path: Path) -> None:
    """IMG-07."""
    registry = MemoryRegistry()
    image = image_of(BASE, TOP, oci=True, compress="zstd")
    found = registry.push("docker.io/library/alpine", "latest", image)
    async with running_engine(tmp_path, registry_port=registry) as engine:
        await engine.lines("POST", pull("alpine"))
        await engine.ask("POST", f"/images/alpine/tag?repo={REPOSITORY}")
        lines = await push(engine)
        told = words(lines)
        assert told[0] == ("", f"The push refers to repository [{REPOSITORY}]")
        top, base = (name[7:19] for name in reversed(image.diff_ids))
        assert told[1:3] == [(top, "Preparing"), (base, "Preparing")]
        assert {(top, "Pushed"), (base, "Pushed"), (base, "Pushing")} <= set(told)
        size = len(image.manifest)
        assert lines[-2]["status"] == f"latest: digest: {found} size: {size}"
        assert lines[-1]["aux"] == {"Tag": "latest", "Digest": found, "Size": size}
        assert registry.manifests[f"{REPOSITORY}:latest"] == (image.media_type, image.manifest)
        assert registry.holdings[REPOSITORY] == set(image.blobs)
        _, shown = await engine.ask("GET", f"/images/{REPOSITORY}/json")
        assert sorted(shown["RepoDigests"]) == [f"{REPOSITORY}@{found}", f"alpine@{found}"]
        again = words(await push(engine))
        assert [status for name, status in again if name == base] == ["Preparing", "Layer already exists"]


async def test_a_loaded_archives_layers_are_compressed_once_and_remembered(tmp_path: Path) -> None:
    """IMG-07: over a restart, for another registry and for the next image with the layer; rmi gives their space
    back."""
    registry = MemoryRegistry()
    image = image_of(BASE, TOP)
    async with running_engine(tmp_path, registry_port=registry) as engine:
        await load(engine, image, f"{REPOSITORY}:latest")
        before = await engine.storage.layers.inventory()
        await push(engine)
        kind, body = registry.manifests[f"{REPOSITORY}:latest"]
        manifest = json.loads(body)
        assert kind == manifest["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
        assert manifest["config"]["digest"] == image.image_id
        layers = [registry.blobs[entry["digest"]] for entry in manifest["layers"]]
        assert [gzip.decompress(layer) for layer in layers] == image.layers
        assert {entry["mediaType"] for entry in manifest["layers"]} == {
            "application/vnd.docker.image.rootfs.diff.tar.gzip"
        }
        kept = {entry["digest"] for entry in manifest["layers"]}
        assert set((await engine.storage.layers.inventory()).blobs) == {*before.blobs, *kept}
        again = await push(engine)
        assert [line.get("status") for line in again].count("Layer already exists") == 2
        assert registry.manifests[f"{REPOSITORY}:latest"] == (kind, body)
        made = {name: os.stat(engine.storage.blobs.path(Digest(name))).st_ino for name in kept}
    async with running_engine(tmp_path, registry_port=registry) as engine:
        assert await engine.images.collect() == 0
        await load(engine, image_of(BASE, Cmd=["/other"]), "127.0.0.1:5001/other:latest")
        await engine.ask("POST", f"/images/{REPOSITORY}/tag?repo=127.0.0.1:5001/app")
        for repository in ("127.0.0.1:5001/app", "127.0.0.1:5001/other"):
            assert "aux" in (await push(engine, repository))[-1]
        assert registry.manifests["127.0.0.1:5001/app:latest"] == (kind, body)
        assert {name: os.stat(engine.storage.blobs.path(Digest(name))).st_ino for name in kept} == made
        for name in (image.image_id, image_of(BASE, Cmd=["/other"]).image_id):
            assert (await engine.ask("DELETE", f"/images/{name}?force=1"))[0] == 200
        assert (await engine.storage.layers.inventory()).blobs == ()


async def test_a_saved_and_loaded_image_is_pushed_with_the_digests_it_came_with(tmp_path: Path) -> None:
    """IMG-07: also one whose layers the registry had uncompressed; it is no business of ours."""
    registry = MemoryRegistry()
    image = image_of(BASE, TOP, oci=True, compress="none")
    found = registry.push("127.0.0.1:5000/app", "latest", image)
    async with running_engine(tmp_path / "one", registry_port=registry) as engine:
        await engine.lines("POST", pull(REPOSITORY))
        _, archive = await engine.ask("GET", f"/images/{REPOSITORY}/get")
    registry = MemoryRegistry()
    async with running_engine(tmp_path / "two", registry_port=registry) as engine:
        await engine.lines("POST", "/images/load", archive)
        assert (await push(engine))[-1]["aux"]["Digest"] == found
    assert registry.holdings[REPOSITORY] == set(image.blobs)


async def test_without_a_tag_every_tag_is_pushed_and_a_shared_layer_once(tmp_path: Path) -> None:
    """IMG-07."""
    registry = MemoryRegistry()
    async with running_engine(tmp_path, registry_port=registry) as engine:
        await load(engine, image_of(BASE), f"{REPOSITORY}:one")
        await load(engine, image_of(BASE, TOP), f"{REPOSITORY}:two")
        lines = await push(engine, tag="")
        assert [line["aux"]["Tag"] for line in lines if "aux" in line] == ["one", "two"]
        sent = [name for name, _ in registry.begun]
        assert len(sent) == len(set(sent)) == 4, "two layers, two configurations"
        outcome = history(engine, "transfer")[-1].event
        assert isinstance(outcome, TransferDone)
        assert len(outcome.images) == 2


async def test_a_layer_is_mounted_from_a_repository_that_has_it(tmp_path: Path) -> None:
    """IMG-07."""
    registry = MemoryRegistry()
    async with running_engine(tmp_path, registry_port=registry) as engine:
        await load(engine, image_of(BASE), f"{REPOSITORY}:latest")
        await load(engine, image_of(BASE, TOP), "127.0.0.1:5000/other:latest", "127.0.0.1:5001/third:latest")
        await push(engine)
        assert "Mounted from app" in [status for _, status in words(await push(engine, "127.0.0.1:5000/other"))]
        elsewhere = [status for _, status in words(await push(engine, "127.0.0.1:5001/third"))]
        assert elsewhere.count("Pushed") == 2, "another registry"


@pytest.mark.parametrize(
    ("name", "tag", "refusal"),
    [
        ("nosuch", "latest", "An image does not exist locally with the tag: nosuch"),
        (REPOSITORY, "nosuch", f"tag does not exist: {REPOSITORY}:nosuch"),
        (f"{REPOSITORY}@sha256:{'0' * 64}", "", "cannot push a digest reference"),
    ],
)
async def test_what_is_not_here_is_refused_in_the_stream(tmp_path: Path, name: str, tag: str, refusal: str) -> None:
    """IMG-07."""
    async with running_engine(tmp_path) as engine:
        await load(engine, image_of(TOP), f"{REPOSITORY}:latest")
        lines = await push(engine, name, tag)
        assert lines[-1] == {"error": refusal, "errorDetail": {"message": refusal}}
        failed = history(engine, "transfer")[-1].event
        assert isinstance(failed, TransferFailed)
        assert failed.error == refusal
        assert (await engine.ask("POST", f"/images/{REPOSITORY}/push?tag=a%20b"))[0] == 400
        assert (await engine.ask("POST", "/images/UPPER/push"))[0] == 400


async def test_a_refused_manifest_fails_the_push_and_no_digest_is_recorded(tmp_path: Path) -> None:
    """IMG-07."""
    registry = MemoryRegistry()
    registry.refuse = "denied: requested access to the resource is denied"
    async with running_engine(tmp_path, registry_port=registry) as engine:
        await load(engine, image_of(TOP), f"{REPOSITORY}:latest")
        assert (await push(engine))[-1]["error"] == "denied: requested access to the resource is denied"
        _, shown = await engine.ask("GET", f"/images/{REPOSITORY}/json")
        assert not shown.get("RepoDigests")


async def test_a_client_that_leaves_ends_its_push_and_what_was_compressed_stays(tmp_path: Path) -> None:
    """IMG-07, IMG-30: it is remembered for the next try."""
    registry = MemoryRegistry()
    image = image_of(layer_of({"noise": bytes(100_000)}))
    async with running_engine(tmp_path, registry_port=registry) as engine:
        await load(engine, image, f"{REPOSITORY}:latest")
        before = await engine.storage.layers.inventory()
        hanging = registry.gates = _EveryGate()
        connection = Client(engine.served.path)
        await in_thread(lambda: connection.request("POST", f"/images/{REPOSITORY}/push?tag=latest"))
        await engine.until(lambda: hanging.asked)
        connection.close()
        await engine.until(lambda: engine.hands.application.live("transfer") == ())
        outcome = history(engine, "transfer")[-1].event
        assert isinstance(outcome, TransferFailed)
        assert outcome.error == "cancelled by the client"
        after = set((await engine.storage.layers.inventory()).blobs)
        kept = [blob.digest for state in engine.hands.views.images for blob in state.compressed.values()]
        assert after == {*before.blobs, *kept}
        assert len(kept) == 1
        assert f"{REPOSITORY}:latest" not in registry.manifests


async def test_pushes_at_once_compress_a_layer_once_and_send_it_to_a_repository_once(tmp_path: Path) -> None:
    """IMG-07: two pushes to one registry and one to another; whoever comes second waits, and finds it there."""
    registry = MemoryRegistry()
    image = image_of(BASE)
    async with running_engine(tmp_path, registry_port=registry) as engine:
        await load(engine, image, f"{REPOSITORY}:latest", f"{REPOSITORY}:v2", "127.0.0.1:5001/app:latest")
        before = await engine.storage.layers.inventory()
        gates = registry.gates = _FirstGate()
        told: dict[str, list[dict[str, Any]]] = {}

        async def pushing(name: str, tag: str) -> None:
            told[f"{name}:{tag}"] = await push(engine, name, tag)

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pushing, REPOSITORY, "latest")
                await engine.until(lambda: gates.asked)
                (blob,) = gates.asked
                nursery.start_soon(pushing, REPOSITORY, "v2")
                assert "aux" in (await push(engine, "127.0.0.1:5001/app"))[-1]
                gates.event.set()
        layer = short(image.diff_ids[0])
        assert [name for name, _ in registry.begun].count(blob) == 2
        second = [status for name, status in words(told[f"{REPOSITORY}:v2"]) if name == layer]
        assert second[-1] == "Layer already exists"
        assert "Pushing" not in second
        assert registry.manifests[f"{REPOSITORY}:latest"] == registry.manifests[f"{REPOSITORY}:v2"]
        assert set((await engine.storage.layers.inventory()).blobs) == {*before.blobs, blob}


async def test_who_waits_for_a_push_that_is_given_up_brings_the_layer_itself(tmp_path: Path) -> None:
    """IMG-07, IMG-30."""
    registry = MemoryRegistry()
    async with running_engine(tmp_path, registry_port=registry) as engine:
        await load(engine, image_of(BASE), f"{REPOSITORY}:latest", f"{REPOSITORY}:v2")
        gates = registry.gates = _FirstGate()
        connection = Client(engine.served.path)
        await in_thread(lambda: connection.request("POST", f"/images/{REPOSITORY}/push?tag=latest"))
        await engine.until(lambda: gates.asked)
        told: list[dict[str, Any]] = []

        async def pushing() -> None:
            told.extend(await push(engine, REPOSITORY, "v2"))

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pushing)
                await engine.until(lambda: len(engine.hands.application.live("transfer")) == 2)
                connection.close()
        assert "aux" in told[-1]
        assert "Pushed" in [line.get("status") for line in told]


async def test_at_most_five_layers_are_on_their_way_and_the_others_wait(tmp_path: Path) -> None:
    """IMG-05."""
    registry = MemoryRegistry()
    image = image_of(*(layer_of({f"f{number}": b"x"}) for number in range(7)))
    found = registry.push("docker.io/library/many", "latest", image)
    async with running_engine(tmp_path, registry_port=registry) as engine:
        await engine.lines("POST", pull("many"))
        await engine.ask("POST", f"/images/many/tag?repo={REPOSITORY}")
        registry.begun.clear()
        gates, lines = _EveryGate(), []
        registry.gates = gates

        async def pushing() -> None:
            lines.extend(await push(engine))

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pushing)
                await engine.until(lambda: len(gates.asked) == 5)
                assert len(registry.begun) == 5
                gates.event.set()
        assert [line.get("status") for line in lines].count("Waiting") == 2
        assert lines[-1]["aux"]["Digest"] == found
        assert digest(registry.manifests[f"{REPOSITORY}:latest"][1]) == found


class _EveryGate(dict[str, trio.Event]):
    """A gate for each blob that somebody asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.event = trio.Event()
        self.asked: set[str] = set()

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return True

    def __missing__(self, key: str) -> trio.Event:
        return self.event


class _FirstGate(_EveryGate):
    """A gate for the first who asks; nobody else waits."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    def __missing__(self, key: str) -> trio.Event:
        if not self.closed:
            self.closed = True
            return self.event
        opened = trio.Event()
        opened.set()
        return opened
