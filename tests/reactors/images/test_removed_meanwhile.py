"""Removals beside what brings, or reads, the same content."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from engine.aggregates.decider import Cause, Command
from engine.aggregates.image import ReportImageRemoved
from engine.application import Committed
from tests.support.images import image_of, layer_of
from tests.support.served_engine import MemoryRegistry, TestEngine, running_engine

pytestmark = pytest.mark.root

BASE = layer_of({"bin": None, "bin/sh": b"#!" + bytes(50_000)})
TOP = layer_of({"etc": None, "etc/motd": b"hello\n"})
TAR = {"Content-Type": "application/x-tar"}
IMPORT = "/images/create?fromSrc=-&repo=app&tag=v1"


def then(method: Callable[..., Any], other: Callable[[], Awaitable[None]]) -> Callable[..., Any]:
    """A method of the archives, and something else before its caller hears of it."""

    async def imported(*arguments: Any) -> Any:
        layer = await method(*arguments)
        await other()
        return layer

    @asynccontextmanager
    async def loading(*arguments: Any) -> AsyncIterator[Any]:
        async with method(*arguments) as images:
            await other()
            yield images

    return imported if inspect.iscoroutinefunction(method) else loading


async def is_empty(engine: TestEngine) -> bool:
    inventory = await engine.storage.layers.inventory()
    return not (inventory.blobs or inventory.layers)


@pytest.mark.parametrize("verb", ["load", "import_layer"])
async def test_what_comes_stays_when_an_image_with_the_same_content_is_removed_meanwhile(
    tmp_path: Path, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """IMG-15, IMG-16: the removal ends between the arrival of the blobs and the making of the image."""
    path, body = ("/images/load", image_of(BASE, TOP).docker_archive("app:v1")) if verb == "load" else (IMPORT, BASE)
    async with running_engine(tmp_path) as engine:
        await engine.lines("POST", path, body, headers=TAR)

        async def remove() -> None:
            assert (await engine.ask("DELETE", "/images/app:v1"))[0] == 200

        with monkeypatch.context() as patched:
            patched.setattr(engine.storage.archives, verb, then(getattr(engine.storage.archives, verb), remove))
            lines = await engine.lines("POST", path, body, headers=TAR)
        assert not [line for line in lines if "error" in line]
        state = engine.hands.views.images.find("app:v1")
        inventory = await engine.storage.layers.inventory()
        assert (set(inventory.blobs), set(inventory.layers)) == (state.blobs, set(state.chain))
        await remove()
        assert await is_empty(engine)


async def test_what_was_read_while_its_image_was_removed_goes_when_it_has_been_read(tmp_path: Path) -> None:
    """IMG-07, IMG-12: a push goes on with an image that is removed."""
    registry = MemoryRegistry()
    async with running_engine(tmp_path, registry_port=registry) as engine:
        await engine.lines("POST", "/images/load", image_of(BASE).docker_archive("app:v1"), headers=TAR)
        state = engine.hands.views.images.find("app:v1")
        gate = registry.gates[state.config.digest] = trio.Event()
        pushed: list[dict[str, Any]] = []

        async def push() -> None:
            pushed.extend(await engine.lines("POST", "/images/app/push?tag=v1"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(push)
            await engine.until(lambda: (state.config.digest, 0) in registry.begun)
            assert (await engine.ask("DELETE", "/images/app:v1"))[0] == 200
            assert await engine.storage.blobs.has(state.config.digest)
            gate.set()
        assert "aux" in pushed[-1]
        with trio.fail_after(10):
            while not await is_empty(engine):
                await trio.sleep(0.001)


async def test_of_two_removals_at_once_the_later_takes_the_layer_they_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """IMG-12: also when the log is slow to take the end of the first."""
    async with running_engine(tmp_path) as engine:
        for name, top in (("one", b"1"), ("two", b"2")):
            archive = image_of(BASE, layer_of({"top": top})).docker_archive(name)
            await engine.lines("POST", "/images/load", archive, headers=TAR)
        append = engine.hands.application.execute

        async def slow(*commands: Command, cause: Cause) -> Committed:
            if isinstance(commands[0], ReportImageRemoved):
                await trio.testing.wait_all_tasks_blocked(0.01)
            return await append(*commands, cause=cause)

        monkeypatch.setattr(engine.hands.application, "execute", slow)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.ask, "DELETE", "/images/one")
            nursery.start_soon(engine.ask, "DELETE", "/images/two")
        assert await is_empty(engine)
