"""Messages between engine, supervisor and copier: one value per packet, descriptors beside it.

Owns: the coding (marshal: in C, no import, plain values only) and the passing of descriptors. A value too big for a
packet travels in a memory file whose descriptor comes first.
Refuses to know: verbs. Rough edge: marshal must not be fed by strangers; the socket is for root alone (mode 0600).
"""

from __future__ import annotations

import array
import marshal
import os
import socket

TYPE_CHECKING = False  # importing typing would double the size of the process; mypy knows this name
if TYPE_CHECKING:
    from typing import Any

INLINE_MAX = 96 * 1024
FDS_MAX = 16
_VERSION = 2  # of marshal: no references, readable by every Python 3, so that engine and supervisor may differ
_ANCILLARY = socket.CMSG_SPACE(FDS_MAX * 4)


def encode(value: Any) -> bytes:
    return marshal.dumps(value, _VERSION)


def decode(data: bytes) -> Any:
    return marshal.loads(data)


def pack(value: Any, fds: tuple[int, ...] = ()) -> tuple[bytes, tuple[int, ...], int]:
    """The packet, its descriptors, and a memory file to close after sending (or -1)."""
    data = marshal.dumps(value, _VERSION)
    if len(data) <= INLINE_MAX:
        return b"I" + data, fds, -1
    memory = os.memfd_create("message", os.MFD_CLOEXEC)
    view = memoryview(data)
    while view:
        view = view[os.write(memory, view) :]
    return b"M", (memory, *fds), memory


def ancillary(fds: tuple[int, ...]) -> list[tuple[int, int, array.array[int]]]:
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []


def send(sock: socket.socket, value: Any, fds: tuple[int, ...] = ()) -> None:
    """Raises BlockingIOError when a non-blocking socket is full: nothing was sent then."""
    data, fds, memory = pack(value, fds)
    try:
        sock.sendmsg([data], ancillary(fds))
    finally:
        if memory >= 0:
            os.close(memory)


def unpack(data: bytes, messages: list[tuple[int, int, bytes]]) -> tuple[Any, list[int]]:
    fds = array.array("i")
    for level, kind, payload in messages:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % 4])
    received = list(fds)
    if data[:1] == b"M":
        memory = received.pop(0)
        try:
            data = b"I" + os.pread(memory, os.fstat(memory).st_size, 0)
        finally:
            os.close(memory)
    return marshal.loads(memoryview(data)[1:]), received


def receive(sock: socket.socket) -> tuple[Any, list[int]] | None:
    """The next value and its descriptors (close-on-exec); None at the end. Raises BlockingIOError when none waits."""
    data, messages, _, _ = sock.recvmsg(INLINE_MAX + 4096, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
    return unpack(data, messages) if data else None
