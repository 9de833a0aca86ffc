"""Leaving HTTP: a request's connection becomes a raw duplex stream that another process may own.

Owns the head of the answer (101 or 200) and what a route holds afterwards. How the server lets go of the socket is
server.py's. Source: moby daemon/server/router/container (attach, exec start); Engine API "Hijacking".
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, cast

import trio

from engine.api.request import Request
from engine.api.responses import empty
from engine.api.sending import send_at_once
from engine.api.versions import COMMON_HEADERS
from engine.errors import Fault, PortError

if TYPE_CHECKING:
    from engine.api.server import EngineServer

RAW_STREAM = "application/vnd.docker.raw-stream"
MULTIPLEXED_STREAM = "application/vnd.docker.multiplexed-stream"
MULTIPLEXED_SINCE = (1, 42)

HEAD_S, LOOK_AGAIN_S = 1.0, 0.001
"""How long output waits for its client to read the head of the answer, and how often that is looked at."""

HIJACKED = empty(200)
"""What a route returns after `hijack`: there has to be a response, and the connection sends nothing of it."""


class Hijacked:
    """A client's socket outside HTTP. `fd` stays the engine's own and is valid inside the `hijack` block: whoever takes
    the stream over duplicates it. After that nobody here may read or write."""

    def __init__(self, stream: trio.SocketStream, early_input: bytes) -> None:
        self._stream = stream
        self.early_input = early_input
        """What the client sent behind its request before the answer; the first bytes of its input."""
        self.listening = True
        """Whether what follows need not wait until the client has read the head, see supervisor/clients.py."""

    @property
    def fd(self) -> int:
        return self._stream.socket.fileno()

    async def send_all(self, data: bytes) -> None:
        """Write, before the handover or instead of it. A client that has gone is no error: its route goes on to the
        facts (exit codes, events) that others may be waiting for."""
        if not self.listening:
            with trio.move_on_after(HEAD_S):
                while _unread(self.fd):  # noqa: ASYNC110 - nobody tells what the other side reads
                    await trio.sleep(LOOK_AGAIN_S)
            self.listening = True
        rest = send_at_once(self._stream, data)
        try:
            if rest:
                await self._stream.send_all(rest)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    def finish(self) -> None:
        """Tell the client that nothing more comes, ahead of the connection. For a stream nobody else holds."""
        with suppress(OSError):
            self._stream.socket.shutdown(socket.SHUT_WR)

    async def receive(self) -> bytes:
        """The client's next bytes, b"" at its half-close or when it is gone; for streams the engine serves itself."""
        if self.early_input:
            early, self.early_input = self.early_input, b""
            return early
        try:
            return bytes(await self._stream.receive_some(65536))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return b""


def stream_content_type(api_version: tuple[int, int], *, multiplexed: bool) -> str:
    """Before 1.42 both kinds were called raw, and clients of that age compare the text (API-34)."""
    return MULTIPLEXED_STREAM if multiplexed and api_version >= MULTIPLEXED_SINCE else RAW_STREAM


def head(upgrade: str, content_type: str, extra: Mapping[str, str]) -> bytes:
    """The response head: 101 for a client that asked for an upgrade, else a 200 whose body has no length."""
    if upgrade:
        lines = ["HTTP/1.1 101 UPGRADED", f"Content-Type: {content_type}", "Connection: Upgrade", f"Upgrade: {upgrade}"]
    else:
        lines = ["HTTP/1.1 200 OK", f"Content-Type: {content_type}"]
    lines += [f"{name}: {value}" for name, value in {**COMMON_HEADERS, **extra}.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _unread(fd: int) -> int:
    """How much of what was sent the other side has not read; 0 where that is not known."""
    try:
        return int(struct.unpack("i", fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4)))[0])
    except OSError:
        return 0


@asynccontextmanager
async def hijack(
    request: Request, *, multiplexed: bool, headers: Mapping[str, str] | None = None, answer: bytes = b""
) -> AsyncIterator[Hijacked]:
    """Take the connection out of HTTP, answer, and give the socket. Read the request's body before. answer: a head of
    the caller's own, instead of the usual one.

    Until the block is entered an exception is an ordinary HTTP error; do all checks first. Raises PortError
    (NOT_IMPLEMENTED) over HTTP/2 and TLS, where there is no socket of the client's own bytes to hand over."""
    server = cast("EngineServer | None", request.state.get("server"))
    if server is None or request.http_version.startswith("2"):
        raise PortError("hijack", "this connection cannot be hijacked", fault=Fault.NOT_IMPLEMENTED)
    upgrade = request.headers.get("Upgrade", "")
    stream, early_input = await server.release()
    try:
        client = Hijacked(stream, early_input)
        content_type = stream_content_type(request.api_version, multiplexed=multiplexed)
        await client.send_all(answer or head(upgrade, content_type, headers or {}))
        client.listening = False
        yield client
    finally:
        server.finish()
