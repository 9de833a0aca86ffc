"""Accepting connections on listening sockets, and closing them in good order.

Owns the life of all connections together. What one connection does is server.py's.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

import trio

from engine.api.app import EngineApp
from engine.api.machinery import Machinery
from engine.api.server import EngineServer


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
    live: set[EngineServer] = set()
    machinery = Machinery(app)

    async def handle(stream: trio.SocketStream) -> None:
        await EngineServer(app, machinery, live, stream).run()

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
            await machinery.close()  # has no checkpoint in it: safe while cancelled
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
