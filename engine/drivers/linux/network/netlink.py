"""Netlink framing: requests packed with struct, several in one send, every one acknowledged.

Owns: headers, attributes, a transaction over rtnetlink, a batch over nfnetlink, dumps.
Refuses to know: what the messages say (links.py, elements.py).

Sockets are plain blocking ones: the kernel handles a request inside `send`, so its answers are waiting when it returns.
Callers run on a thread of their own (namespaces.py), because the RTNL lock can make `send` wait. pyroute2's
asynchronous API needs asyncio and its synchronous one costs 18 ms a container; packing by hand costs 0.8.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator, Sequence

ROUTE = 0
NETFILTER = 12

REQUEST, ACK, EXCLUSIVE, CREATE = 0x1, 0x4, 0x200, 0x400
DUMP = 0x300

_HEADER = struct.Struct("IHHII")
_ATTRIBUTE = struct.Struct("HH")
_ERRNO = struct.Struct("i")
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NESTED = 0x8000
_TYPE_MASK = 0x3FFF
_RECEIVE_BYTES = 1 << 17
_SO_SNDBUFFORCE = 32
_TRANSACTION_BYTES = 1 << 24


class Request:
    """One message before it has a sequence number."""

    __slots__ = ("body", "flags", "kind")

    def __init__(self, kind: int, flags: int, body: bytes) -> None:
        self.kind = kind
        self.flags = flags
        self.body = body

    def packed(self, sequence: int) -> bytes:
        return (
            _HEADER.pack(16 + len(self.body), self.kind, self.flags, sequence, 0)
            + self.body
            + b"\0" * (-len(self.body) % 4)
        )


class Refused(OSError):  # noqa: N818 - the kernel's answer, as `Rejected` is a rule's
    """The kernel refused one request. `index`: which one of the transaction."""

    def __init__(self, errno: int, index: int) -> None:
        super().__init__(errno, os.strerror(errno))
        self.index = index


def open_socket(protocol: int) -> socket.socket:
    """A netlink socket in the calling thread's network namespace."""
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    if protocol == NETFILTER:
        # A container may publish all 65,535 ports in one transaction, which is one send.
        with contextlib.suppress(PermissionError):
            opened.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _TRANSACTION_BYTES)
    opened.bind((0, 0))
    return opened


def attribute(kind: int, payload: bytes) -> bytes:
    return _ATTRIBUTE.pack(4 + len(payload), kind) + payload + b"\0" * (-len(payload) % 4)


def nested(kind: int, *parts: bytes) -> bytes:
    return attribute(kind | _NESTED, b"".join(parts))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def uint32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("I", value))


def attributes(payload: bytes, offset: int = 0) -> dict[int, bytes]:
    """The attributes of a message or a nest, by kind; the last of equals wins."""
    found = {}
    for kind, value in each_attribute(payload, offset):
        found[kind] = value
    return found


def each_attribute(payload: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    while offset + 4 <= len(payload):
        length, kind = _ATTRIBUTE.unpack_from(payload, offset)
        if length < 4:
            return
        yield kind & _TYPE_MASK, payload[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def transact(route: socket.socket, requests: Sequence[Request]) -> None:
    """Send all requests at once and read all acknowledgements. Requests are independent: those after a refused one are
    still carried out. Raises Refused for the first refused one."""
    if not requests:
        return  # The kernel refuses an empty message.
    route.send(b"".join(request.packed(number) for number, request in enumerate(requests, 1)))
    _acknowledged(route, 1, len(requests))


def batch(netfilter: socket.socket, requests: Sequence[Request]) -> None:
    """One nfnetlink transaction: all requests, or none. Raises Refused for the first refused one."""
    begin = Request(0x10, REQUEST, struct.pack(">BBH", 0, 0, 10))
    end = Request(0x11, REQUEST, struct.pack(">BBH", 0, 0, 10))
    messages = (begin, *requests, end)
    netfilter.send(b"".join(message.packed(number) for number, message in enumerate(messages)))
    _acknowledged(netfilter, 1, len(requests))


def _acknowledged(opened: socket.socket, first: int, count: int) -> None:
    outstanding = count
    refused: tuple[int, int] | None = None
    while outstanding > 0:
        try:
            received = opened.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            # The kernel drops the acknowledgements that follow the failure of a whole batch.
            break
        for kind, sequence, body in messages_in(received):
            if kind != _NLMSG_ERROR:
                continue
            outstanding -= 1
            (negative,) = _ERRNO.unpack_from(body)
            if negative and (refused is None or sequence < refused[1]):
                refused = (-negative, sequence)
    if refused is not None:
        raise Refused(refused[0], max(0, refused[1] - first))
    if outstanding:
        raise OSError(0, "netlink: the kernel did not acknowledge every request")


def query(opened: socket.socket, request: Request) -> list[tuple[int, bytes]]:
    """The answers (kind, body) to one request: a dump to its end, or the one message before an acknowledgement."""
    opened.send(request.packed(1))
    answers: list[tuple[int, bytes]] = []
    dumping = request.flags & DUMP == DUMP
    while True:
        for kind, _, body in messages_in(opened.recv(_RECEIVE_BYTES)):
            if kind == _NLMSG_DONE:
                return answers
            if kind == _NLMSG_ERROR:
                (negative,) = _ERRNO.unpack_from(body)
                if negative:
                    raise Refused(-negative, 0)
                return answers
            answers.append((kind, body))
        if not dumping and not request.flags & ACK and answers:
            return answers


def messages_in(received: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(kind, sequence, body) of each message in a datagram."""
    offset = 0
    while offset + 16 <= len(received):
        length, kind, _, sequence, _ = _HEADER.unpack_from(received, offset)
        if length < 16:
            return
        yield kind, sequence, received[offset + 16 : offset + length]
        offset += (length + 3) & ~3
