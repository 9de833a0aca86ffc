"""A websocket over a hijacked connection (EXE-05): the handshake, and frames to and from a byte stream.

Owns RFC 6455 by way of wsproto. The stream's other end is a socket that the copier takes over, so this is the one
attachment whose bytes pass through the engine: no other process speaks websocket.
"""

from __future__ import annotations

import codecs
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.events import Request as Handshake
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from engine.aggregates.decider import Reason, Rejected
from engine.api.hijack import Hijacked, hijack
from engine.api.request import Request
from engine.api.versions import COMMON_HEADERS

BINARY_SINCE = (1, 28)
"""Older clients get text frames. Source: moby container_routes.go."""
READ_BYTES = 65536
NORMAL_CLOSURE = 1000
CLOSE_WAIT_S = 2.0
"""How long a client has to answer a close: one that is cut off while it answers reports an error."""


class WebSocket:
    """One client. Messages go out whole; what comes in is a stream of bytes, whatever its frames."""

    def __init__(self, client: Hijacked, connection: WSConnection, *, binary: bool) -> None:
        self._client = client
        self._connection = connection
        self._sending = trio.Lock()
        self._text = None if binary else codecs.getincrementaldecoder("utf-8")("replace")

    async def send(self, data: bytes) -> None:
        """One message."""
        if self._text is None:
            await self._put(BytesMessage(data=data))
        elif text := self._text.decode(data):
            await self._put(TextMessage(data=text))

    async def close(self) -> None:
        await self._put(CloseConnection(code=NORMAL_CLOSURE))

    async def received(self) -> AsyncIterator[bytes]:
        """What the client sends, until it closes or goes. Pings are answered meanwhile."""
        while True:
            try:
                self._connection.receive_data(await self._client.receive() or None)
                events = list(self._connection.events())
            except RemoteProtocolError:
                return
            for event in events:
                match event:
                    case BytesMessage(data=data):
                        yield bytes(data)
                    case TextMessage(data=text):
                        yield text.encode()
                    case Ping():
                        await self._put(event.response())
                    case CloseConnection():
                        await self._put(event.response())
                        return
                    case _:
                        pass

    async def _put(self, event: BytesMessage | TextMessage | CloseConnection | Pong) -> None:
        async with self._sending:
            try:
                data = self._connection.send(event)
            except LocalProtocolError:
                return  # closed already: nothing may follow
            await self._client.send_all(data)


@asynccontextmanager
async def websocket(request: Request) -> AsyncIterator[WebSocket]:
    """Shake hands and take the connection over. Raises Rejected(INVALID) for what is no websocket request."""
    connection = WSConnection(ConnectionType.SERVER)
    headers = [(name.lower().encode(), value.encode()) for name, value in request.headers.items()]
    try:
        connection.initiate_upgrade_connection(headers, request.path)
        if not any(isinstance(event, Handshake) for event in connection.events()):
            raise Rejected(Reason.INVALID, "bad websocket handshake: no upgrade was asked for")
        extra = [(name.encode(), value.encode()) for name, value in COMMON_HEADERS.items()]
        head = connection.send(AcceptConnection(extra_headers=extra))
    except (RemoteProtocolError, LocalProtocolError) as error:
        raise Rejected(Reason.INVALID, f"bad websocket handshake: {error}") from error
    async with hijack(request, multiplexed=False, answer=head) as client:
        yield WebSocket(client, connection, binary=request.api_version >= BINARY_SINCE)


async def bridge(client: WebSocket, ours: socket.socket) -> None:
    """Copy both ways until the output ends or the client closes: a websocket has no half-close, so that is the end of
    the input and of the attachment."""
    ours.setblocking(False)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))

    async with stream, trio.open_nursery() as nursery:

        async def inwards() -> None:
            async for data in client.received():
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # the process takes no more
                    await stream.send_all(data)
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await stream.send_eof()
            nursery.cancel_scope.cancel()

        nursery.start_soon(inwards, name="websocket input")
        with suppress(trio.BrokenResourceError):  # the copier has gone, and with it the output
            while data := await stream.receive_some(READ_BYTES):
                await client.send(bytes(data))
        await client.close()
        await trio.sleep(CLOSE_WAIT_S)  # the client's own close comes first, and ends this
        nursery.cancel_scope.cancel()
