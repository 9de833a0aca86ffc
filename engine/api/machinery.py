"""HTTP that is not plain is somebody else's: hypercorn and quart, loaded when the first such request comes.

They are a quarter of the engine's start and ten megabytes, and engines that see nothing but plain requests are common.
Owns that moment, and what all connections share of them. What the machines do is http_machine.py's.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol

import trio

from engine.api.app import EngineApp

if TYPE_CHECKING:
    from engine.api.http_machine import HttpMachine, Workshop

_MODULE = "engine.api.http_machine"


class Line(Protocol):
    """The connection, as a machine sees it."""

    async def send(self, data: bytes) -> None: ...

    async def machine_rests(self, *, idle: bool, clean: bool) -> None:
        """idle: no request runs. clean: nor has one begun to come."""

    async def linger(self) -> None:
        """No more will be said."""


class Machinery:
    """One for all connections of an application."""

    def __init__(self, app: EngineApp) -> None:
        self._app = app
        self._workshop: Workshop | None = None
        self._loading = trio.Lock()
        self.closing = False

    async def machine(self, line: Line, sock: Any, nursery: trio.Nursery, state: dict[str, Any]) -> HttpMachine:
        """A machine for a connection. state: what each of its requests knows. nursery: where its requests run."""
        async with self._loading:  # a thread loads: meanwhile others are served
            if self._workshop is None:
                module = await trio.to_thread.run_sync(importlib.import_module, _MODULE)
                self._workshop = module.Workshop(self._app)
        if self.closing:
            await self._workshop.close()
        return await self._workshop.machine(line, sock, nursery, state)

    async def close(self) -> None:
        """Connections end with the request they are at."""
        self.closing = True
        if self._workshop is not None:
            await self._workshop.close()
