"""HTTP in all its forms, for what plain.py does not read: hypercorn's protocols over one connection.

Owns bodies that flow, HTTP/2, and letting go of a request for a hijack. Refuses to know: sockets, routes, versions.

It replaces some of hypercorn's choices, each for a reason met in practice: the message channel into the app (bounded by
count, and its sender waits for ever once a route has answered without reading its body); the `Upgrade: h2c` switch
(BuildKit's clients mean a gRPC hijack by it); websockets (a route decides before the handshake whether there is
anything at the other end).
"""

from __future__ import annotations

import http.client
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, cast

import h11
import trio
from hypercorn.app_wrappers import ASGIWrapper
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
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ASGIReceiveEvent, ASGISendEvent, ConnectionState, Scope
from hypercorn.utils import parse_socket_addr

from engine.api.app import EngineApp
from engine.api.errors import tell_of_break
from engine.api.framework import Framework
from engine.api.machinery import Line

INBOX_BYTES_MAX = 1 << 18
HEAD_BYTES_MAX = 1 << 20
"""As net/http: registry credentials of many registries travel in one header."""


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


class Workshop:
    """Makes machines for the connections of one application."""

    def __init__(self, app: EngineApp) -> None:
        self._app, self._config, self._context = ASGIWrapper(Framework(app)), hypercorn_config(), WorkerContext(None)

    async def machine(self, line: Line, sock: Any, nursery: trio.Nursery, state: dict[str, Any]) -> HttpMachine:
        machine = HttpMachine(line, self._app, self._config, self._context)
        await machine.begin(sock, nursery, state)
        return machine

    async def close(self) -> None:
        """Every connection ends with its request."""
        await self._context.terminated.set()


class HttpMachine:
    """The protocols of one connection: bytes of its client come by `handle`, answers go to the line."""

    def __init__(self, line: Line, app: AppWrapper, config: Config, context: WorkerContext) -> None:
        self._line = line
        self._app, self._config, self._context = app, config, context
        self._protocol: ProtocolWrapper

    async def begin(self, sock: Any, nursery: trio.Nursery, state: dict[str, Any]) -> None:
        client = parse_socket_addr(sock.family, sock.getpeername())
        server = parse_socket_addr(sock.family, sock.getsockname())
        shared = (self._app, self._config, self._context, RequestTasks(nursery), ConnectionState(state))
        end = (False, client, server, self._take)
        self._protocol = ProtocolWrapper(*shared, *end, "http/1.1")
        self._protocol.protocol = EngineProtocol(*shared, *end)
        await self._protocol.initiate()

    @property
    def takes_a_body(self) -> bool:
        """Whether a request's body is on its way."""
        protocol = self._protocol.protocol
        return isinstance(protocol, EngineProtocol) and protocol.connection.their_state is h11.SEND_BODY

    async def handle(self, data: bytes) -> None:
        await self._protocol.handle(RawData(data))

    async def client_left(self) -> None:
        await self._protocol.handle(Closed())

    def forget_request(self) -> bytes:
        """Let go of the request that runs, for a hijack; the result is what came behind it. Raises RuntimeError over
        HTTP/2, where a request has no connection of its own."""
        protocol = self._protocol.protocol
        if not isinstance(protocol, EngineProtocol):
            raise RuntimeError("only an HTTP/1.1 request can be hijacked")  # noqa: TRY004 - not about types
        return protocol.forget_stream()

    async def _take(self, event: Event) -> None:
        """What the protocol has to say."""
        if isinstance(event, RawData):
            await self._line.send(event.data)
        elif isinstance(event, Updated):
            protocol = self._protocol.protocol
            clean = isinstance(protocol, EngineProtocol) and not protocol.connection.trailing_data[0]
            await self._line.machine_rests(idle=event.idle, clean=event.idle and clean)
        elif isinstance(event, Closed):
            await self._line.linger()
            await self._protocol.handle(Closed())


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
            tell_of_break(error)
        finally:
            inbox.finish()
            await send(None)


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
        fields = [*event.headers, *self.config.response_headers("h11")]
        headers = [(name.title(), value) for name, value in fields]  # as Go writes them: scripts grep for that
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


async def _discard(event: object) -> None:
    """Where the rest of a hijacked request's HTTP goes."""
