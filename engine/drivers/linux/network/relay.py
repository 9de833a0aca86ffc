"""A relay in the engine from a host port to a container port, for what DNAT can not serve (docs/design/network.md).

Owns: copying TCP streams with half-close, and UDP datagrams with one upstream socket per client.
Refuses to know: who bound the socket (hostports.py), who also closes it, after cancelling.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket

import trio

_CHUNK_BYTES = 65536
_CONNECTIONS_MAX = 1024
_UDP_IDLE_S = 90
"""As moby's UDPConnTrackTimeout."""


async def relay(scope: trio.CancelScope, bound: socket.socket, target: tuple[str, int]) -> None:
    """Serve until `scope` is cancelled. A client's error ends that client only. SCTP is reserved but not relayed."""
    with scope:
        served = trio.socket.from_stdlib_socket(bound)
        if served.type == socket.SOCK_DGRAM:
            await _serve_udp(served, target)
        elif served.proto in (0, socket.IPPROTO_TCP):
            await _serve_tcp(trio.SocketListener(served), target)


async def _serve_tcp(listener: trio.SocketListener, target: tuple[str, int]) -> None:
    places = trio.CapacityLimiter(_CONNECTIONS_MAX)

    async def serve(client: trio.SocketStream) -> None:
        async with places:
            with contextlib.suppress(OSError, trio.BrokenResourceError):
                await _join_streams(client, target)

    await trio.serve_listeners(serve, [listener])


async def _join_streams(client: trio.SocketStream, target: tuple[str, int]) -> None:
    upstream = trio.SocketStream(await _connected(socket.SOCK_STREAM, target))
    async with client, upstream, trio.open_nursery() as nursery:
        nursery.start_soon(_copy, client, upstream)
        nursery.start_soon(_copy, upstream, client)


async def _copy(source: trio.SocketStream, sink: trio.SocketStream) -> None:
    try:
        while data := await source.receive_some(_CHUNK_BYTES):
            await sink.send_all(data)
        await sink.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        await sink.aclose()
        await source.aclose()


async def _serve_udp(listener: trio.socket.SocketType, target: tuple[str, int]) -> None:
    clients: dict[tuple[object, ...], trio.socket.SocketType] = {}
    async with trio.open_nursery() as nursery:
        while True:
            try:
                data, address = await listener.recvfrom(_CHUNK_BYTES)
            except ConnectionError:
                continue
            upstream = clients.get(address)
            if upstream is None:
                if len(clients) >= _CONNECTIONS_MAX:
                    continue
                with contextlib.suppress(OSError):
                    upstream = await _connected(socket.SOCK_DGRAM, target)
                if upstream is None:
                    continue
                clients[address] = upstream
                nursery.start_soon(_answer_udp, listener, upstream, address, clients)
            with contextlib.suppress(OSError):
                await upstream.send(data)


async def _answer_udp(
    listener: trio.socket.SocketType,
    upstream: trio.socket.SocketType,
    address: tuple[object, ...],
    clients: dict[tuple[object, ...], trio.socket.SocketType],
) -> None:
    with upstream:
        try:
            while True:
                with trio.fail_after(_UDP_IDLE_S):
                    data = await upstream.recv(_CHUNK_BYTES)
                await listener.sendto(data, address)
        except (OSError, trio.TooSlowError):
            pass
        finally:
            clients.pop(address, None)


async def _connected(kind: int, target: tuple[str, int]) -> trio.socket.SocketType:
    family = socket.AF_INET if ipaddress.ip_address(target[0]).version == 4 else socket.AF_INET6
    opened = trio.socket.socket(family, kind)
    try:
        await opened.connect(target)
    except BaseException:
        opened.close()
        raise
    return opened
