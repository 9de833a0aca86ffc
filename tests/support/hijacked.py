"""A raw client that has left HTTP: attach and exec start, byte by byte."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any

from tests.support.containers import frames
from tests.support.engine import Engine

DEADLINE_S = 20.0


class HijackedClient:
    """status and headers (small letters) of the answer; what follows is the stream."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._data = b""
        head = self.read_until(b"\r\n\r\n").decode()
        lines = head.split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}

    def send(self, data: bytes) -> None:
        self._sock.sendall(data)

    def close_input(self) -> None:
        """Half-close: nothing more will come from here."""
        self._sock.shutdown(socket.SHUT_WR)

    def read_until(self, text: bytes) -> bytes:
        """Everything up to and with the text."""
        while text not in self._data:
            chunk = self._sock.recv(65536)
            assert chunk, f"the stream ended before {text!r}: {self._data!r}"
            self._data += chunk
        found, _, self._data = self._data.partition(text)
        return found + text

    def read_all(self) -> bytes:
        """Everything up to the end."""
        while chunk := self._sock.recv(65536):
            self._data += chunk
        found, self._data = self._data, b""
        return found

    def read_streams(self) -> dict[int, bytes]:
        """Everything up to the end, by the streams of its frames."""
        found: dict[int, bytes] = {}
        for stream, data in frames(self.read_all()):
            found[stream] = found.get(stream, b"") + data
        return found


@contextlib.contextmanager
def hijacked(engine: Engine, path: str, body: Any = None, *, upgrade: bool = True) -> Iterator[HijackedClient]:
    """POST and take the connection over. A refusal is a client with its status, whose stream is the body."""
    payload = b"" if body is None else json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(payload)}\r\n"
    head += "Content-Type: application/json\r\n" if payload else ""
    head += "Connection: Upgrade\r\nUpgrade: tcp\r\n" if upgrade else ""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(DEADLINE_S)
        sock.connect(str(engine.socket))
        sock.sendall(head.encode() + b"\r\n" + payload)
        yield HijackedClient(sock)
