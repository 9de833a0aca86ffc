"""A worker's standard input, or a client's socket that was lent to it, as the bytes of an archive.

Where a socket was lent, stdin brings what the engine had read of the body before, and stays open: its end means that
the engine has gone, or wants no more of this, and then nothing more is read from the client.
"""

from __future__ import annotations

import io
import os
import select
from typing import Any

from engine.drivers.linux.storage.worker import TaskError
from engine.framing import Framing, FramingError

_RECEIVE_BYTES = 256 << 10


def incoming(fields: dict[str, Any]) -> io.RawIOBase:
    """fields: upload: None, or {socket, length (None in chunks), early: how many bytes of stdin come first}."""
    upload = fields["upload"]
    return io.FileIO(0, closefd=False) if upload is None else _Lent(**upload)


def behind(raw: io.RawIOBase) -> str:
    """Reads on to the end: what was read behind the body, in hexadecimal."""
    while raw.read(_RECEIVE_BYTES):
        pass
    return raw.framing.behind.hex() if isinstance(raw, _Lent) else ""


class _Lent(io.RawIOBase):
    def __init__(self, socket: int, length: int | None, early: int) -> None:
        self.framing = Framing(length)
        self._socket = socket
        self._early = early
        self._unread = memoryview(b"")
        self._poll = select.poll()
        self._poll.register(socket, select.POLLIN)
        self._poll.register(0, select.POLLIN)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._unread:
            if self.framing.over:
                return 0
            try:
                self._unread = memoryview(self.framing.feed(self._receive()))
            except FramingError as error:
                raise TaskError("invalid", str(error)) from error
        size = min(len(buffer), len(self._unread))
        buffer[:size], self._unread = self._unread[:size], self._unread[size:]
        return size

    def _receive(self) -> bytes:
        if self._early:
            data = os.read(0, self._early)
            self._early -= len(data)
        else:
            data = self._receive_from_socket()
        if not data:
            raise TaskError("invalid", "unexpected EOF")
        return data

    def _receive_from_socket(self) -> bytes:
        size = min(_RECEIVE_BYTES, self.framing.wanted or _RECEIVE_BYTES)
        while True:
            if any(fd == 0 for fd, _ in self._poll.poll()):
                raise TaskError("unavailable", "nobody waits for this archive any more")
            try:
                return os.read(self._socket, size)
            except BlockingIOError:
                continue
