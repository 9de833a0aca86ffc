"""Forwarding of DNS questions to upstream servers, one after another, as they came.

Owns: the order, deadlines and bounds. Source: moby daemon/libnetwork/resolver.go (forwardExtDNS).
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence

import dnslib
import trio

UPSTREAMS_MAX = 3
TIMEOUT_S = 4.0
CONCURRENT_MAX = 1024
_PORT = 53
_ANSWER_BYTES_MAX = 65535
_SERVFAIL, _REFUSED = dnslib.RCODE.SERVFAIL, dnslib.RCODE.REFUSED


class Forwarder:
    """The upstreams of one sandbox. Sockets are the calling thread's, so of the engine's namespace."""

    def __init__(self, upstreams: Sequence[str]) -> None:
        self._upstreams = tuple(upstreams)[:UPSTREAMS_MAX]
        self._outstanding = 0

    async def forward(
        self, query: dnslib.DNSRecord, packet: bytes, send: Callable[[bytes], Awaitable[None]], stream: bool
    ) -> None:
        """Ask each upstream until one answers other than SERVFAIL or REFUSED; else SERVFAIL. Beyond 1024 questions
        under way: REFUSED at once."""
        if self._outstanding >= CONCURRENT_MAX:
            await send(_failure(query, _REFUSED))
            return
        self._outstanding += 1
        try:
            answer = await self._ask_all(packet, stream=stream)
        finally:
            self._outstanding -= 1
        await send(answer if answer is not None else _failure(query, _SERVFAIL))

    async def _ask_all(self, packet: bytes, *, stream: bool) -> bytes | None:
        for upstream in self._upstreams:
            answer = None
            with trio.move_on_after(TIMEOUT_S):
                try:
                    answer = await (_ask_tcp if stream else _ask_udp)(upstream, packet)
                except (OSError, trio.BrokenResourceError, EOFError):
                    continue
            if answer is not None and answer[3] & 0xF not in (_SERVFAIL, _REFUSED):
                return answer
        return None


def _failure(query: dnslib.DNSRecord, code: int) -> bytes:
    reply = query.reply(aa=0)
    reply.header.rcode = code
    packed: bytes = reply.pack()
    return packed


async def _ask_udp(upstream: str, packet: bytes) -> bytes:
    """A connected socket takes answers of that server only; the question's number must match too."""
    with trio.socket.socket(_family(upstream), socket.SOCK_DGRAM) as client:
        await client.connect((upstream, _PORT))
        await client.send(packet)
        while True:
            answer = await client.recv(_ANSWER_BYTES_MAX)
            if len(answer) >= 12 and answer[:2] == packet[:2] and answer[2] & 0x80:
                return answer


async def _ask_tcp(upstream: str, packet: bytes) -> bytes:
    with trio.socket.socket(_family(upstream), socket.SOCK_STREAM) as client:
        await client.connect((upstream, _PORT))
        stream = trio.SocketStream(client)
        await stream.send_all(struct.pack(">H", len(packet)) + packet)
        buffered = bytearray()
        while len(buffered) < 2 or len(buffered) < 2 + int.from_bytes(buffered[:2], "big"):
            data = await stream.receive_some(_ANSWER_BYTES_MAX)
            if not data:
                raise EOFError
            buffered += data
        answer = bytes(buffered[2 : 2 + int.from_bytes(buffered[:2], "big")])
        if len(answer) < 12:
            raise EOFError
        return answer


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET if ipaddress.ip_address(address).version == 4 else socket.AF_INET6
