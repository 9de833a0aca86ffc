"""A served application on a temporary unix socket, and small clients that speak to it from threads."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import trio

from engine.api.app import EngineApp, create_app
from engine.api.context import ApiContext
from engine.api.serving import serve_api
from engine.clock import SystemClock
from engine.config import DaemonConfig
from engine.drivers.linux.host import LinuxHost
from engine.entropy import SystemEntropy
from engine.projections.containers import Containers
from engine.projections.events_feed import EventsFeed
from engine.projections.execs import Execs
from engine.projections.images import Images
from engine.projections.networks import Networks
from engine.projections.views import Views
from engine.projections.volumes import Volumes


def context(**changes: Any) -> ApiContext:
    """A context with nothing behind it, for routes that need nothing."""
    nothing = {field.name: None for field in dataclasses.fields(ApiContext) if field.default is dataclasses.MISSING}
    fields: dict[str, Any] = {
        **nothing,
        "views": Views(
            containers=Containers(),
            images=Images(),
            networks=Networks(),
            volumes=Volumes(),
            execs=Execs(),
            events=EventsFeed(),
        ),
        "config": DaemonConfig(storage_driver="overlay2"),
        "clock": SystemClock(),
        "entropy": SystemEntropy(),
        "host": LinuxHost(),
        "engine_id": "b3c1f3a2-0000-4000-8000-000000000000",
    }
    return ApiContext(**{**fields, **changes})


class Client(http.client.HTTPConnection):
    """The standard library's client over a unix socket; blocking."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=20)
        self._path = path

    def connect(self) -> None:
        self.sock = connected(self._path)

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        self.request(method, path, body=body, headers=headers or {})
        response = self.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()


def connected(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    sock.connect(path)
    return sock


class Served:
    """Where the application listens."""

    def __init__(self, path: str, nursery: trio.Nursery) -> None:
        self.path = path
        self.nursery = nursery

    async def ask(self, method: str, path: str, **rest: Any) -> tuple[int, dict[str, str], bytes]:
        """One request on a connection of its own."""

        def run() -> tuple[int, dict[str, str], bytes]:
            with contextlib.closing(Client(self.path)) as client:
                return client.ask(method, path, **rest)

        return await in_thread(run)


async def in_thread(work: Callable[[], Any]) -> Any:
    with trio.fail_after(30):
        return await trio.to_thread.run_sync(work, abandon_on_cancel=True)


@contextlib.asynccontextmanager
async def served(
    register: Callable[[EngineApp], None] | None = None, *, grace_s: float = 0.2, **changes: Any
) -> AsyncIterator[Served]:
    """Serve an application with the system routes and those of `register`."""
    app = create_app(context(**changes))
    if register is not None:
        register(app)
    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory) / "engine.sock")
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path)
        sock.listen(128)
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda *, task_status: serve_api(app, [sock], grace_s=grace_s, task_status=task_status))
            yield Served(path, nursery)
            nursery.cancel_scope.cancel()
        sock.close()
