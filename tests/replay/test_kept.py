"""`replay why` of images and of content: what keeps it, and what it went with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from replay.cli import main
from tests.reactors.images.test_pull import BASE, TOP, history, once, pull
from tests.support.images import digest, image_of
from tests.support.served_engine import MemoryRegistry, TestEngine, running_engine

pytestmark = pytest.mark.root


class Why:
    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path = directory / "events.db"
        self._capsys = capsys

    def __call__(self, word: str) -> str:
        assert main(["--log", str(self.path), "--json", "why", word]) == 0, self._capsys.readouterr().err
        return str(json.loads(self._capsys.readouterr().out)["verdict"])


async def test_a_layer_is_kept_by_what_names_it_and_goes_with_the_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """IMG-26."""
    registry = MemoryRegistry()
    first, second = image_of(BASE), image_of(BASE, TOP)
    for tag, image in (("1", first), ("2", second)):
        registry.push("docker.io/library/alpine", tag, image)
    why = Why(tmp_path, capsys)
    async with running_engine(tmp_path, registry_port=registry) as engine:
        for tag in ("1", "2"):
            await engine.lines("POST", pull("alpine", tag))
        blob = json.loads(first.manifest)["layers"][0]["digest"]
        for word in (digest(BASE), blob, blob[7:19]):
            verdict = why(word)
            assert "It is kept by " in verdict
            assert "image alpine:1" in verdict
            assert "image alpine:2" in verdict
        assert "image alpine:1" not in why(digest(TOP))
        assert why("alpine:1").startswith("It is here since ")

        await engine.ask("DELETE", "/images/alpine:2")
        await engine.until(lambda: len(list(engine.hands.views.images)) == 1)
        assert "image alpine:2" not in why(digest(BASE))
        verdict = why(digest(TOP))
        assert verdict.startswith("Nothing has a use for it since @")
        assert "image alpine:2" in verdict
        blob = json.loads(second.manifest)["layers"][1]["digest"]
        for word in (digest(TOP), blob):
            assert why(word).endswith("With that it was discarded.")
        assert "With it went 1 layers and 3 blobs" in why("alpine:2")


async def test_a_lease_keeps_and_a_prune_gives_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """IMG-26."""
    registry = MemoryRegistry()
    image = image_of(BASE)
    registry.push("docker.io/library/alpine", "1", image)
    registry.blobs.pop(json.loads(image.manifest)["layers"][0]["digest"])
    why = Why(tmp_path, capsys)
    async with running_engine(tmp_path, registry_port=registry) as engine:
        assert "error" in (await engine.lines("POST", pull("alpine", "1")))[-1]
        assert "the interrupted pull of alpine:1 until " in why(image.image_id)
        assert (await engine.ask("POST", "/images/prune"))[0] == 200
        verdict = why(image.image_id)
        assert "lease released: given up by a prune (the images reactor)" in verdict
        assert verdict.endswith("nothing used it: found by a prune.")


async def test_what_nobody_ever_used_is_told_when_it_goes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """IMG-26: one event for all that a collection finds, and none when there is nothing."""
    why = Why(tmp_path, capsys)

    async def orphaned(engine: TestEngine) -> None:
        for body in (b"one", b"two"):
            await engine.storage.blobs.ingest(once(body))
        assert await engine.images.recover() == 2
        assert await engine.images.recover() == 0

    async with running_engine(tmp_path, prepare=orphaned) as engine:
        told = [one.event for one in history(engine, "content")]
        assert [sorted(event.blobs) for event in told] == [sorted((digest(b"one"), digest(b"two")))]
        assert why(digest(b"one")).endswith("nothing used it: found by a start.")
