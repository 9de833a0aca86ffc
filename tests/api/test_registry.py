"""What is asked of a registry itself: an image's platforms, repositories by a term."""

from __future__ import annotations

import json
import urllib.parse
from pathlib import Path

import pytest

from engine.drivers.ports.registry import SearchResult
from tests.support.images import digest, image_of, layer_of
from tests.support.served_engine import MemoryRegistry, running_engine

pytestmark = pytest.mark.root

IMAGE = image_of(layer_of({"file": b"content"}))


async def test_an_images_platform_is_read_from_its_configuration(tmp_path: Path) -> None:
    """IMG-19."""
    registry = MemoryRegistry()
    found = registry.push("docker.io/library/alpine", "latest", IMAGE)
    async with running_engine(tmp_path, registry_port=registry) as engine:
        for name in ("alpine", f"alpine@{found}"):
            assert await engine.ask("GET", f"/distribution/{name}/json") == (
                200,
                {
                    "Descriptor": {"mediaType": IMAGE.media_type, "digest": found, "size": len(IMAGE.manifest)},
                    "Platforms": [{"architecture": "amd64", "os": "linux"}],
                },
            )
        assert (await engine.ask("GET", "/images/json"))[1] == [], "asking brings nothing here"
        registry.blobs.clear()
        registry.blobs[IMAGE.image_id] = b'{"architecture": "forged"}'
        assert (await engine.ask("GET", "/distribution/alpine/json"))[1]["Platforms"] is None


async def test_an_index_tells_every_platform_as_it_stands_there(tmp_path: Path) -> None:
    """IMG-19."""
    registry = MemoryRegistry()
    kind = "application/vnd.oci.image.index.v1+json"
    windows = {"architecture": "amd64", "os": "windows", "os.version": "10.0.17763.1", "os.features": ["win32k"]}
    platforms: list[dict[str, object] | None] = [{"architecture": "arm64", "os": "linux", "variant": "v8"}, windows]
    entry = {"mediaType": IMAGE.media_type, "digest": digest(IMAGE.manifest), "size": len(IMAGE.manifest)}
    entries = [*({**entry, "platform": platform} for platform in platforms), entry]
    body = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": entries}).encode()
    registry.manifests["docker.io/library/many:latest"] = (kind, body)
    async with running_engine(tmp_path, registry_port=registry) as engine:
        _, told = await engine.ask("GET", "/distribution/many/json")
    assert told["Descriptor"] == {"mediaType": kind, "digest": digest(body), "size": len(body)}
    assert told["Platforms"] == [*platforms, {"architecture": "", "os": ""}]


async def test_what_the_registry_has_not_is_404_and_a_bad_name_400(tmp_path: Path) -> None:
    """IMG-19."""
    async with running_engine(tmp_path) as engine:
        assert await engine.ask("GET", "/distribution/nosuch/json") == (
            404,
            {"message": "manifest unknown: manifest unknown"},
        )
        assert (await engine.ask("GET", "/distribution/UPPER/json"))[0] == 400
        assert (await engine.ask("GET", f"/distribution/{'0' * 64}/json"))[0] == 400


def search(term: str, limit: object = "", **filters: list[str]) -> str:
    query = {"term": term, "filters": json.dumps({key.replace("_", "-"): value for key, value in filters.items()})}
    return "/images/search?" + urllib.parse.urlencode({**query, "limit": limit} if limit != "" else query)


async def test_a_search_is_filtered_and_bounded(tmp_path: Path) -> None:
    """IMG-17."""
    registry = MemoryRegistry()
    many = [SearchResult(name=f"whale{number}", star_count=number, is_automated=True) for number in range(30)]
    registry.repositories["docker.io"] = [SearchResult(name="whale", star_count=99, is_official=True), *many]
    registry.repositories["sea:5000"] = [SearchResult(name="whale", description="a fish")]
    async with running_engine(tmp_path, registry_port=registry) as engine:

        async def names(path: str) -> list[str]:
            status, found = await engine.ask("GET", path)
            assert status == 200, found
            return [one["name"] for one in found]

        assert len(await names(search("whale"))) == 25
        assert await names(search("library/whale", 2)) == ["whale", "whale0"]
        assert await names(search("whale", 100, stars=["28"])) == ["whale", "whale28", "whale29"]
        assert await names(search("whale", is_official=["true"])) == ["whale"]
        assert "whale" not in await names(search("whale", is_official=["false"]))
        assert await names(search("whale", is_automated=["true"])) == []
        assert await engine.ask("GET", search("sea:5000/whale")) == (
            200,
            [
                {
                    "name": "whale",
                    "description": "a fish",
                    "star_count": 0,
                    "is_official": False,
                    "is_automated": False,
                }
            ],
        )
        for path, words in (
            (search("whale", 101), "limit 101 is outside the range of [1, 100]"),
            (search("whale", -1), "limit -1 is outside the range of [1, 100]"),
            (search("whale", "x"), 'invalid limit specified: strconv.Atoi: parsing "x": invalid syntax'),
            (search("whale", stars=["x"]), "invalid filter 'stars=x': strconv.Atoi: parsing \"x\": invalid syntax"),
            (search("whale", is_official=["maybe"]), "invalid filter 'is-official=[maybe]'"),
            (search("whale", color=["white"]), "invalid filter 'color'"),
            (
                search("https://sea/whale"),
                "invalid repository name: repository name (https://sea/whale) should not have a scheme",
            ),
            (search("a b.c/whale"), "invalid reference format"),
        ):
            assert await engine.ask("GET", path) == (400, {"message": words})
