"""Accepting connections on listening sockets, and closing them in good order.

Owns hypercorn's settings and the life of all connections together. What one connection does is server.py's.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext

from engine.api.app import EngineApp
from engine.api.server import HEAD_BYTES_MAX, EngineServer


def hypercorn_config() -> Config:
    """Hypercorn's defaults suit web sites; an engine's clients keep connections for hours, send credentials in long
    headers, and read the Server header of this engine."""
    config = Config()
    config.accesslog = None
    config.errorlog = None
    config.include_server_header = False
    config.keep_alive_max_requests = 1 << 62
    config.h11_max_incomplete_size = HEAD_BYTES_MAX
    return config


async def serve_api(
    app: EngineApp,
    sockets: Sequence[socket.socket],
    *,
    grace_s: float = 5.0,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled: then accept nothing more, close idle connections, give running requests `grace_s`, and
    cut off the rest. The sockets stay the caller's (close_listeners removes their files). `started` when connections
    are accepted."""
    context = WorkerContext(None)
    live: set[EngineServer] = set()
    wrapped, config = ASGIWrapper(app), hypercorn_config()

    async def handle(stream: trio.SocketStream) -> None:
        await EngineServer(wrapped, app.serve_plain, config, context, live, stream).run()

    listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(sock.dup())) for sock in sockets]
    closing = trio.Event()
    async with trio.open_nursery() as nursery:
        connections = await nursery.start(_keep_connections, closing)
        try:
            await trio.serve_listeners(
                handle,
                listeners,
                handler_nursery=connections,
                task_status=task_status,  # type: ignore[arg-type]  # the listeners are of no use to the caller
            )
        finally:
            await context.terminated.set()  # has no checkpoint in it: safe while cancelled
            connections.cancel_scope.deadline = trio.current_time() + grace_s
            with trio.CancelScope(shield=True):
                for server in [server for server in live if server.idle]:
                    await server.linger()
            closing.set()


async def _keep_connections(closing: trio.Event, task_status: trio.TaskStatus[trio.Nursery]) -> None:
    """Hold the nursery of all connections past the listener's end: running requests get their grace."""
    with trio.CancelScope(shield=True):
        async with trio.open_nursery() as connections:
            task_status.started(connections)
            await closing.wait()
