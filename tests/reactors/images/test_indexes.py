"""A name that stands for an index: one image runs here, the others are its parts, and the index stays whole."""

from __future__ import annotations

import io
import json
import tarfile
import urllib.parse
from pathlib import Path
from typing import Any

import pytest

from tests.reactors.images.test_pull import BASE, TOP, pull
from tests.reactors.images.test_push import REPOSITORY, push
from tests.support.images import TestImage, digest, image_of, layer_of
from tests.support.served_engine import MemoryRegistry, TestEngine, running_engine

pytestmark = pytest.mark.root


def on(architecture: str, *layers: bytes) -> TestImage:
    """An image of another architecture."""
    image = image_of(*layers, oci=True)
    image.config = json.dumps(json.loads(image.config) | {"architecture": architecture}).encode()
    image.blobs = {}
    return image.build()


AMD64, ARM64 = image_of(BASE, TOP, oci=True), on("arm64", TOP)
ARM = urllib.parse.quote('{"os":"linux","architecture":"arm64"}')
NAME = "docker.io/library/multi"


def multi(registry: MemoryRegistry, tag: str = "latest", **more: TestImage) -> str:
    images = {"linux/amd64": AMD64, "linux/arm64": ARM64}
    return registry.push_index(NAME, tag, {**images, **{f"linux/{name}": image for name, image in more.items()}})


async def listed(engine: TestEngine, query: str = "") -> list[Any]:
    _, found = await engine.ask("GET", f"/images/json?{query}")
    return list(found)


async def both(engine: TestEngine) -> None:
    for query in ({}, {"platform": "linux/arm64"}):
        lines = await engine.lines("POST", pull("multi", **query))
        assert "Downloaded newer image" in lines[-1]["status"]


async def test_a_name_stays_with_the_platform_that_runs_here(tmp_path: Path) -> None:
    """IMG-04, IMG-08: the other image is told as a manifest of the same entry, and again nothing is news."""
    registry = MemoryRegistry()
    index = multi(registry)
    async with running_engine(tmp_path, registry_port=registry) as engine:
        await both(engine)
        for query in ({}, {"platform": "linux/arm64"}):
            assert "Image is up to date" in (await engine.lines("POST", pull("multi", **query)))[-1]["status"]
        (entry,) = await listed(engine, "manifests=1")
        assert (entry["Id"], entry["RepoTags"]) == (AMD64.image_id, ["multi:latest"])
        assert entry["RepoDigests"] == [f"multi@{index}"]
        assert entry["Descriptor"]["digest"] == index
        told = {each["ImageData"]["Platform"]["architecture"]: each for each in entry["Manifests"]}
        for architecture, image in (("amd64", AMD64), ("arm64", ARM64)):
            each = told[architecture]
            assert (each["ID"], each["Kind"], each["Available"]) == (digest(image.manifest), "image", True)
            blobs = len(image.manifest) + sum(len(blob) for blob in image.blobs.values())
            unpacked = each["ImageData"]["Size"]["Unpacked"]
            assert each["Size"] == {"Content": blobs, "Total": blobs + unpacked}
        assert {one["Id"] for one in await listed(engine, "all=1")} == {AMD64.image_id, ARM64.image_id}
        assert await listed(engine, 'filters={"dangling":["true"]}') == []
        _, shown = await engine.ask("GET", f"/images/multi/json?platform={ARM}")
        assert (shown["Id"], shown["Architecture"]) == (ARM64.image_id, "arm64")
        assert (await engine.ask("GET", f"/images/multi/history?platform={ARM}"))[1][0]["Id"] == ARM64.image_id
        _, shown = await engine.ask("GET", "/images/multi/json?manifests=1")
        assert [each["Available"] for each in shown["Manifests"]] == [True, True]


async def test_the_platform_that_runs_here_takes_the_name_when_it_comes(tmp_path: Path) -> None:
    """IMG-04: also by digest."""
    registry = MemoryRegistry()
    index = multi(registry)
    async with running_engine(tmp_path, registry_port=registry) as engine:
        for tag in ("latest", index):
            await engine.lines("POST", pull("multi", tag, platform="linux/arm64"))
            assert [one["Id"] for one in await listed(engine)] == [ARM64.image_id]
            await engine.lines("POST", pull("multi", tag))
            assert [one["Id"] for one in await listed(engine)] == [AMD64.image_id]
            await engine.ask("DELETE", f"/images/{AMD64.image_id}?force=1")
            assert await listed(engine, "all=1") == []
            assert (await engine.storage.layers.inventory()).blobs == ()


async def test_a_removal_and_a_prune_take_the_parts_with_the_name(tmp_path: Path) -> None:
    """IMG-12, IMG-18: a prune of dangling images leaves them; a second name keeps them."""
    registry = MemoryRegistry()
    multi(registry)
    async with running_engine(tmp_path, registry_port=registry) as engine:
        await both(engine)
        _, pruned = await engine.ask("POST", "/images/prune")
        assert pruned["ImagesDeleted"] is None
        await engine.ask("POST", "/images/multi/tag?repo=other")
        await engine.ask("DELETE", "/images/multi")
        _, shown = await engine.ask("GET", f"/images/other/json?platform={ARM}")
        assert shown["Id"] == ARM64.image_id
        _, records = await engine.ask("DELETE", "/images/other")
        assert {"Deleted": AMD64.image_id} in records
        assert {"Deleted": ARM64.image_id} in records
        assert (await engine.storage.layers.inventory()).blobs == ()
        await both(engine)
        _, pruned = await engine.ask("POST", '/images/prune?filters={"dangling":["false"]}')
        assert {"Deleted": ARM64.image_id} in pruned["ImagesDeleted"]
        assert await listed(engine, "all=1") == []


async def test_single_platforms_are_removed_and_the_name_stays_with_the_others(tmp_path: Path) -> None:
    """IMG-12: by force only; with the last one the name goes."""
    registry = MemoryRegistry()
    index = multi(registry)
    amd = urllib.parse.quote('{"os":"linux","architecture":"amd64"}')
    async with running_engine(tmp_path, registry_port=registry) as engine:
        await both(engine)
        status, refused = await engine.ask("DELETE", f"/images/multi?platforms={amd}")
        assert (status, refused["message"][:24]) == (400, "Content will be removed ")
        other = urllib.parse.quote('{"os":"linux","architecture":"arm","variant":"v7"}')
        assert (await engine.ask("DELETE", f"/images/multi?force=1&platforms={other}"))[0] == 404
        _, records = await engine.ask("DELETE", f"/images/multi?force=1&platforms={amd}")
        assert {"Deleted": AMD64.image_id} in records
        assert not [record for record in records if "Untagged" in record]
        (entry,) = await listed(engine)
        assert (entry["Id"], entry["RepoTags"]) == (ARM64.image_id, ["multi:latest"])
        assert (entry["RepoDigests"], entry["Descriptor"]["digest"]) == ([f"multi@{index}"], index)
        await engine.lines("POST", pull("multi"))
        assert [one["Id"] for one in await listed(engine)] == [AMD64.image_id]
        _, records = await engine.ask("DELETE", f"/images/multi?force=1&platforms={ARM}&platforms={amd}")
        assert {"Untagged": "multi:latest"} in records
        assert await listed(engine, "all=1") == []
        assert (await engine.storage.layers.inventory()).blobs == ()


async def test_an_index_that_is_all_here_is_pushed_whole(tmp_path: Path) -> None:
    """IMG-07: byte for byte, over a restart of the engine."""
    registry = MemoryRegistry()
    index = multi(registry)
    async with running_engine(tmp_path, registry_port=registry) as engine:
        await both(engine)
        await engine.ask("POST", f"/images/multi/tag?repo={REPOSITORY}")
    async with running_engine(tmp_path, registry_port=registry) as engine:
        lines = await push(engine)
        kind, body = registry.manifests[f"{NAME}:latest"]
        assert lines[-1]["aux"] == {"Tag": "latest", "Digest": index, "Size": len(body)}
        assert registry.manifests[f"{REPOSITORY}:latest"] == (kind, body)
        for image in (AMD64, ARM64):
            assert registry.manifests[f"{REPOSITORY}:{digest(image.manifest)}"] == (image.media_type, image.manifest)
        assert registry.holdings[REPOSITORY] == {*AMD64.blobs, *ARM64.blobs}
        _, shown = await engine.ask("GET", f"/images/{REPOSITORY}/json")
        assert f"{REPOSITORY}@{index}" in shown["RepoDigests"]


async def test_of_an_index_that_is_not_all_here_one_image_is_pushed_and_that_is_told(tmp_path: Path) -> None:
    """IMG-07: the host's; and a platform's image when it is asked for."""
    registry = MemoryRegistry()
    index = multi(registry, s390x=on("s390x", BASE))
    async with running_engine(tmp_path, registry_port=registry) as engine:
        await both(engine)
        await engine.ask("POST", f"/images/multi/tag?repo={REPOSITORY}")
        notes = [line["aux"] for line in await push(engine) if "aux" in line]
        assert notes[0]["manifestPushedInsteadOfIndex"] is True
        assert notes[0]["originalIndex"]["digest"] == index
        assert notes[0]["selectedManifest"]["digest"] == notes[1]["Digest"] == digest(AMD64.manifest)
        assert registry.manifests[f"{REPOSITORY}:latest"][1] == AMD64.manifest
        lines = await engine.lines("POST", f"/images/{REPOSITORY}/push?tag=latest&platform={ARM}")
        assert lines[-1]["aux"]["Digest"] == digest(ARM64.manifest)
        assert registry.manifests[f"{REPOSITORY}:latest"][1] == ARM64.manifest
        missing = urllib.parse.quote('{"os":"linux","architecture":"s390x"}')
        lines = await engine.lines("POST", f"/images/{REPOSITORY}/push?tag=latest&platform={missing}")
        assert "does not match the specified platform (linux/s390x)" in lines[-1]["error"]
        await engine.ask("DELETE", f"/images/{AMD64.image_id}?force=1")
        for architecture in ("arm64", "s390x"):
            await engine.lines("POST", pull("multi", platform=f"linux/{architecture}"))
        await engine.ask("POST", f"/images/multi/tag?repo={REPOSITORY}")
        assert "multiple matching manifests found" in (await push(engine))[-1]["error"]


async def test_an_image_that_was_here_before_its_index_is_one_of_it(tmp_path: Path) -> None:
    """IMG-04, IMG-07: what is here need not come twice."""
    registry = MemoryRegistry()
    registry.push(NAME, "mine", AMD64)
    index = multi(registry)
    async with running_engine(tmp_path, registry_port=registry) as engine:
        await engine.lines("POST", pull("multi", "mine"))
        await engine.lines("POST", pull("multi", platform="linux/arm64"))
        await engine.ask("POST", f"/images/multi/tag?repo={REPOSITORY}")
        assert (await push(engine))[-1]["aux"]["Digest"] == index
        _, shown = await engine.ask("GET", "/images/multi/json?platform=" + ARM.replace("arm64", "amd64"))
        assert shown["Id"] == AMD64.image_id


async def test_a_tag_that_stands_for_a_newer_index_leaves_the_old_parts_dangling(tmp_path: Path) -> None:
    """IMG-04, IMG-18."""
    registry = MemoryRegistry()
    multi(registry)
    newer = image_of(layer_of({"newer": b""}), oci=True)
    async with running_engine(tmp_path, registry_port=registry) as engine:
        await both(engine)
        registry.push_index(NAME, "latest", {"linux/amd64": newer, "linux/arm64": ARM64})
        await engine.lines("POST", pull("multi"))
        rows = {one["Id"]: one["RepoTags"] for one in await listed(engine)}
        assert rows == {newer.image_id: ["multi:latest"], AMD64.image_id: []}
        _, pruned = await engine.ask("POST", "/images/prune")
        assert {"Deleted": AMD64.image_id} in pruned["ImagesDeleted"]
        _, shown = await engine.ask("GET", f"/images/multi/json?platform={ARM}")
        assert shown["Id"] == ARM64.image_id


async def saved(engine: TestEngine, query: str) -> bytes:
    status, archive = await engine.ask("GET", f"/images/get?{query}")
    assert status == 200, archive
    assert isinstance(archive, bytes)
    return archive


def members(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {entry.name: tar.extractfile(entry).read() for entry in tar if entry.isfile()}  # type: ignore[union-attr]


async def test_an_index_is_saved_loaded_and_pushed_with_the_digest_it_had(tmp_path: Path) -> None:
    """IMG-14, IMG-15: the name is told once, and Docker's own table has the image that runs here."""
    registry = MemoryRegistry()
    index = multi(registry, s390x=on("s390x", BASE))
    async with running_engine(tmp_path / "one", registry_port=registry) as engine:
        await both(engine)
        archive = await saved(engine, "names=multi")
        assert await saved(engine, "names=multi") == archive
        found = members(archive)
        (entry,) = json.loads(found["index.json"])["manifests"]
        assert (entry["digest"], entry["annotations"]["io.containerd.image.name"]) == (index, f"{NAME}:latest")
        (table,) = json.loads(found["manifest.json"])
        assert (table["Config"][13:], table["RepoTags"]) == (AMD64.image_id[7:], ["multi:latest"])
    async with running_engine(tmp_path / "two", registry_port=registry) as engine:
        lines = await engine.lines("POST", "/images/load", archive)
        assert [line["stream"] for line in lines] == ["Loaded image: multi:latest\n"]
        (row,) = await listed(engine, "manifests=1")
        assert (row["Id"], row["Descriptor"]["digest"]) == (AMD64.image_id, index)
        assert [one["Available"] for one in row["Manifests"]] == [True, True, False]
        await engine.lines("POST", pull("multi", platform="linux/s390x"))
        await engine.ask("POST", f"/images/multi/tag?repo={REPOSITORY}")
        assert (await push(engine))[-1]["aux"]["Digest"] == index


async def test_single_platforms_are_saved_and_loaded(tmp_path: Path) -> None:
    """IMG-14, IMG-15: one as an image of its own, several as the index; what is not there is refused."""
    registry = MemoryRegistry()
    index = multi(registry)
    mine = ARM.replace("arm64", "amd64")
    async with running_engine(tmp_path / "one", registry_port=registry) as engine:
        await both(engine)
        everything = await saved(engine, "names=multi")
        archive = await saved(engine, f"names=multi&platform={ARM}")
        (entry,) = json.loads(members(archive)["index.json"])["manifests"]
        assert entry["digest"] == digest(ARM64.manifest)
        two = members(await saved(engine, f"names=multi&platform={ARM}&platform={mine}"))
        (entry,) = json.loads(two["index.json"])["manifests"]
        assert entry["digest"] == index
        missing = ARM.replace("arm64", "s390x")
        assert (await engine.ask("GET", f"/images/get?names=multi&platform={missing}"))[0] == 404
        assert (await engine.ask("GET", f"/v1.51/images/get?names=multi&platform={ARM}&platform={mine}"))[0] == 400
    async with running_engine(tmp_path / "two", registry_port=registry) as engine:
        lines = await engine.lines("POST", f"/images/load?platform={mine}", archive)
        assert "not for linux/amd64" in lines[-1]["error"]
        assert await listed(engine, "all=1") == []
        assert "error" not in (await engine.lines("POST", f"/images/load?platform={ARM}", everything))[-1]
        assert [one["Id"] for one in await listed(engine, "all=1")] == [ARM64.image_id]
