"""One client connection: hypercorn's HTTP protocols over one trio stream, with what an engine needs beside.

Owns: who the peer is (SO_PEERCRED), the correlation id of each request, back-pressure between socket and route,
half-closing politely, and letting go of the socket for a hijack. Refuses to know: routes, versions, JSON. Plain
requests never reach hypercorn (lane.py).

It subclasses hypercorn's trio `TCPServer` and replaces five of its choices, each for a reason met in practice:
the idle timer (an engine's clients keep connections for hours, and a task per request costs 60 us); the message channel
into the app (bounded by count, and its sender waits for ever once a route has answered without reading its body); the
`Upgrade: h2c` switch (BuildKit's clients mean a gRPC hijack by it); websockets (a route decides before the handshake
whether there is anything at the other end); closing with unread input (a unix socket then gives the client a reset
instead of the answer).
"""

from __future__ import annotations

import http.client
import logging
import os
import secrets
import select
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, cast

import h11
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.events import Body, EndBody
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import Request as RequestEvent
from hypercorn.protocol.events import Response as ResponseEvent
from hypercorn.protocol.h11 import STREAM_ID, H2ProtocolAssumedError, H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ASGIReceiveEvent, ASGISendEvent, ConnectionState, Scope
from hypercorn.utils import parse_socket_addr

from engine.api.errors import is_bug, status_and_message, unwrap
from engine.api.lane import Lane
from engine.api.plain import Plain

log = logging.getLogger(__name__)

READ_BYTES = 65536
INBOX_BYTES_MAX = 1 << 18
LINGER_S = 0.5
HANG_UP_POLL_S = 0.05
HEAD_BYTES_MAX = 1 << 20
"""As net/http: registry credentials of many registries travel in one header."""


class Peer:
    """Who is at the other end. The executable's path is read when first asked for: most requests are reads, and only
    commands record their actor."""

    def __init__(self, *, uid: int = -1, gid: int = -1, pid: int = 0, address: str = "") -> None:
        self.uid, self.gid, self.pid, self.address = uid, gid, pid, address
        self._actor = ""

    @classmethod
    def of(cls, sock: Any) -> Peer:
        """From a connected socket. A unix peer's credentials are those of the process that connected."""
        if sock.family == socket.AF_UNIX:
            pid, uid, gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            return cls(uid=uid, gid=gid, pid=pid)
        host, port = sock.getpeername()[:2]
        return cls(address=f"{host}:{port}")

    @property
    def actor(self) -> str:
        """`uid=0 gid=0 pid=412 exe=/usr/bin/docker`, or `tcp:127.0.0.1:5333`. The exe is left out when the process has
        gone or may not be looked at."""
        if not self._actor:
            self._actor = f"tcp:{self.address}" if self.address else self._describe()
        return self._actor

    def _describe(self) -> str:
        text = f"uid={self.uid} gid={self.gid} pid={self.pid}"
        try:
            return f"{text} exe={os.readlink(f'/proc/{self.pid}/exe')}"
        except OSError:
            return text


def correlation_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The trace id of a W3C `traceparent`, an `X-Request-Id`, or 16 random bytes in hex."""
    named = {name.lower(): value for name, value in headers if name.lower() in (b"traceparent", b"x-request-id")}
    trace = named.get(b"traceparent", b"").decode("latin-1").split("-")
    if len(trace) >= 4 and len(trace[1]) == 32 and trace[1].strip("0"):
        return trace[1]
    return named.get(b"x-request-id", b"").decode("latin-1")[:128] or secrets.token_hex(16)


class Inbox:
    """Messages on their way into one request's route, bounded in bytes. A disconnect overtakes everything, and once the
    route is done `put` throws away, so that the socket's reader is never held by somebody who has left."""

    def __init__(self) -> None:
        self._messages: deque[ASGIReceiveEvent] = deque()
        self._bytes = 0
        self._disconnected = False
        self._finished = False
        self._changed = trio.Event()

    async def put(self, message: ASGIReceiveEvent) -> None:
        if message["type"] == "http.disconnect":
            self._disconnected = True
        else:
            while self._bytes > INBOX_BYTES_MAX and not (self._finished or self._disconnected):
                await self._changed.wait()
            if self._finished or self._disconnected:
                return
            self._messages.append(message)
            self._bytes += len(cast(dict[str, Any], message).get("body", b""))
        self._wake()

    async def take(self) -> ASGIReceiveEvent:
        while not self._messages and not self._disconnected:
            await self._changed.wait()
        if self._disconnected:
            return {"type": "http.disconnect"}
        message = self._messages.popleft()
        self._bytes -= len(cast(dict[str, Any], message).get("body", b""))
        self._wake()
        return message

    def finish(self) -> None:
        self._finished = True
        self._messages.clear()
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class RequestTasks(TaskGroup):
    """Where the requests of one connection run. A route's bug ends its response and is logged; never the connection's
    siblings, never the engine."""

    def __init__(self, nursery: trio.Nursery) -> None:
        super().__init__()
        self._nursery = nursery
        self._requests = nursery

    async def spawn_app(
        self,
        app: AppWrapper,
        config: Config,
        scope: Scope,
        send: Callable[[ASGISendEvent | None], Awaitable[None]],
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        inbox = Inbox()
        self._requests.start_soon(self._run_app, app, scope, inbox, send)
        return inbox.put

    async def _run_app(
        self,
        app: AppWrapper,
        scope: Scope,
        inbox: Inbox,
        send: Callable[[ASGISendEvent | None], Awaitable[None]],
    ) -> None:
        try:
            await app(scope, inbox.take, send, trio.to_thread.run_sync, trio.from_thread.run)
        except Exception as error:
            _tell_of_break(error)
        finally:
            inbox.finish()
            await send(None)


def _tell_of_break(error: Exception) -> None:
    """A response ended in its middle; its client hears nothing but that."""
    if is_bug(error):
        log.error("a response broke off", exc_info=error)
    else:
        log.warning("a response broke off: %s", status_and_message(error)[1])


class EngineProtocol(H11Protocol):
    """HTTP/1.1 that treats `Upgrade: h2c` as any other upgrade, can let go of a request, names its statuses (docker-py
    shows the reason to people), and sends the head of a response of known length together with its body."""

    _head = b""

    async def stream_send(self, event: StreamEvent) -> None:
        if isinstance(event, ResponseEvent) and event.status_code >= 200:
            await self._send_head(event)
        elif self._head and isinstance(event, Body | EndBody):
            part = h11.Data(data=event.data) if isinstance(event, Body) else h11.EndOfMessage()
            head, self._head = self._head, b""
            await self.send(RawData(data=head + self._encode(part)))
        elif isinstance(event, EndBody):
            if end := self._encode(h11.EndOfMessage()):
                await self.send(RawData(data=end))
        else:
            await super().stream_send(event)

    async def _send_head(self, event: ResponseEvent) -> None:
        headers = [*event.headers, *self.config.response_headers("h11")]
        reason = http.client.responses.get(event.status_code, "").encode()
        head = self._encode(h11.Response(status_code=event.status_code, headers=headers, reason=reason))
        if any(name == b"content-length" for name, _ in event.headers):
            self._head = head
        else:
            await self.send(RawData(data=head))  # a stream: its client acts on the head alone

    def _encode(self, event: h11.Event) -> bytes:
        """The bytes of an event; none when the client has broken the protocol meanwhile and nothing may be sent."""
        try:
            return self.connection.send(cast(Any, event)) or b""
        except h11.LocalProtocolError:
            if self.connection.their_state != h11.ERROR:
                raise
            return b""

    async def _create_stream(self, request: h11.Request) -> None:
        """As hypercorn's, for which a websocket is something of its own: here it is a hijack like any other."""
        end = (self.ssl, self.client, self.server, self.stream_send, STREAM_ID)
        self.stream = HTTPStream(self.app, self.config, self.context, self.task_group, *end)
        await self.stream.handle(
            RequestEvent(
                stream_id=STREAM_ID,
                headers=list(request.headers),
                http_version=request.http_version.decode(),
                method=request.method.decode("ascii").upper(),
                raw_path=request.target,
                state=self.connection_state,
            )
        )
        self.keep_alive_requests += 1
        await self.context.mark_request()

    async def _check_protocol(self, event: h11.Request) -> None:
        if event.method == b"PRI" and event.target == b"*" and event.http_version == b"2.0":
            raise H2ProtocolAssumedError(b"PRI * HTTP/2.0\r\n\r\n" + self.connection.trailing_data[0])

    def forget_stream(self) -> bytes:
        """Let go of the current request for a hijack: nothing it sends from now on reaches the socket. What was read
        behind the request is the result."""
        assert self.stream is not None
        self.stream.closed = True
        self.stream.send = _discard
        self.stream = None
        return bytes(self.connection.trailing_data[0])


def _has_hung_up(sock: Any) -> bool:
    poll = select.poll()
    if sock.fileno() < 0:
        return True  # closed under us: whoever closed it is done with the client
    poll.register(sock.fileno(), 0)  # POLLHUP and POLLERR are always told
    return bool(poll.poll(0))


async def _discard(event: object) -> None:
    """Where the rest of a hijacked request's HTTP goes."""


Write = Callable[[bytes], Awaitable[None]]
ServePlain = Callable[[Scope, bytes, Write], Awaitable[None]]
"""Answer a request, given its body, by writing."""


class EngineServer(TCPServer):
    """Serves one connection: `await EngineServer(app, serve_plain, config, context, live, stream).run()`. `live` is the
    set of open connections, which the listener closes at shutdown."""

    def __init__(
        self,
        app: AppWrapper,
        serve_plain: ServePlain,
        config: Config,
        context: WorkerContext,
        live: set[EngineServer],
        stream: Any,
    ) -> None:
        super().__init__(app, config, context, {}, stream)
        self._live = live
        self._serve_plain = serve_plain
        self._read_scope = trio.CancelScope()
        self._released: trio.Event | None = None
        self._lingering = False
        self._half_closed = False
        self._hypercorn_idle = True

    @property
    def idle(self) -> bool:
        """Between two requests: may be closed at any time."""
        return self._hypercorn_idle and self._lane.idle

    async def run(self) -> None:
        self._live.add(self)
        try:
            await self._serve()
        except OSError:
            pass  # the peer has gone
        except Exception as error:
            if not isinstance(unwrap(error), OSError):
                log.exception("a connection broke")
        finally:
            self._live.discard(self)
            await trio.aclose_forcefully(self.stream)

    async def _serve(self) -> None:
        sock = self.stream.socket
        state = ConnectionState({"server": self, "peer": Peer.of(sock)})
        client = parse_socket_addr(sock.family, sock.getpeername())
        server = parse_socket_addr(sock.family, sock.getsockname())
        async with trio.open_nursery() as nursery:
            tasks = RequestTasks(nursery)
            end = (False, client, server, self.protocol_send)
            self.protocol = ProtocolWrapper(self.app, self.config, self.context, tasks, state, *end, "http/1.1")
            self.protocol.protocol = EngineProtocol(self.app, self.config, self.context, tasks, state, *end)
            await self.protocol.initiate()
            self._lane = Lane(nursery, partial(self._answer, state, client, server), self._rest, self._pass_on)
            await self._read_data()

    async def _answer(self, state: ConnectionState, client: Any, server: Any, request: Plain) -> None:
        scope = cast(Scope, request.scope(client, server, {**state}))
        try:
            await self._serve_plain(scope, request.body, self._send)
        except Exception as error:
            _tell_of_break(error)
            await self.linger()

    async def _rest(self) -> None:
        """After the last plain request: go, if that is asked for."""
        if self._half_closed or self.context.terminated.is_set():
            await self.linger()

    async def _pass_on(self, data: bytes) -> None:
        await self.protocol.handle(RawData(data))

    async def _read_data(self) -> None:
        with self._read_scope:
            while True:
                try:
                    data = await self.stream.receive_some(READ_BYTES)
                except (trio.ClosedResourceError, trio.BrokenResourceError):
                    break
                if not self._lingering:
                    await (self._lane.take(bytes(data)) if data else self._lane.end())
                if not data:
                    self._half_closed = True
                    await self._hang_up()
                    break
            self._lane.leave()
            await self.protocol.handle(Closed())
        if self._released is not None:
            await self._released.wait()

    async def _hang_up(self) -> None:
        """After the client's end of input: wait while it still listens (`... | nc -U`, stdin of a hijack to be). Only a
        unix socket tells the two apart, and epoll cannot wait for it alone: such clients are few, so they are polled.
        Over TCP the end of input is taken for the end, as net/http does."""
        sock = self.stream.socket
        while sock.family == socket.AF_UNIX and not self._lingering and not _has_hung_up(sock):  # noqa: ASYNC110 - above
            await trio.sleep(HANG_UP_POLL_S)

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, RawData):
            await self._send(event.data)
        elif isinstance(event, Updated):
            self._hypercorn_idle = event.idle
            protocol = self.protocol.protocol
            if event.idle and isinstance(protocol, EngineProtocol) and not protocol.connection.trailing_data[0]:
                self._lane.reopen()
            if event.idle and self.context.terminated.is_set():
                await self.linger()
        elif isinstance(event, Closed):
            await self.linger()
            await self.protocol.handle(Closed())

    async def _send(self, data: bytes) -> None:
        if self._released is not None:
            return  # what a route says behind a hijack is nobody's
        gone = False
        async with self.send_lock:
            try:
                await self.stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                gone = True
            except trio.Cancelled:
                self.stream.socket.close()  # half a chunk may be out: nothing may follow it
                raise
        if gone:
            self._lane.leave()
            await self.protocol.handle(Closed())

    async def linger(self) -> None:
        """Say that we are done, and let the reader throw away what the client still sends, for a while: closing over
        unread bytes resets a connection, and the client would not see the answer that made us close."""
        if self._lingering or self._released is not None:
            return  # a hijacked stream is only let go of: shutdown(2) would end it for the process that has it
        self._lingering = True
        self._read_scope.deadline = trio.current_time() + (0 if self._half_closed else LINGER_S)
        try:
            # Shielded: the end of a response cancels the request it belongs to, and we are still part of that.
            with trio.move_on_after(LINGER_S, shield=True):
                async with self.send_lock:
                    await self.stream.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._read_scope.cancel()  # they are gone already

    async def release(self) -> tuple[trio.SocketStream, bytes]:
        """Stop reading and give the stream with what was read too far. `finish` must follow."""
        protocol = self.protocol.protocol
        if not isinstance(protocol, EngineProtocol) or self._released is not None:
            raise RuntimeError("only an HTTP/1.1 request can be hijacked, and only once")
        self._released = trio.Event()
        self._read_scope.cancel()
        early_input = self._lane.give_away() if self._lane.running else protocol.forget_stream()
        async with self.send_lock:
            pass  # nothing of ours is on its way
        return cast(trio.SocketStream, self.stream), early_input

    def finish(self) -> None:
        """The hijacked stream has found its owner or its end: our descriptor of it may be closed."""
        assert self._released is not None
        self._released.set()
