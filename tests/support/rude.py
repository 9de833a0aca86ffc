"""One raw request with a deadline, as no client library would send it; the answer is read as far as it goes."""

from __future__ import annotations

import contextlib
import socket
import time

import msgspec

from tests.support.engine import Engine

HEAD_S = 30.0
"""How long an answer may take to begin. Longer is a hang."""
REST_S = 0.2
"""How long a stream is listened to."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """status 0: the connection was closed without an answer."""

    status: int
    headers: dict[str, str]
    body: bytes


def ask(
    engine: Engine, method: str, target: str, headers: dict[str, str], body: bytes | None, *, stream: bool
) -> Answer:
    """stream: the answer may go on for ever, so only its beginning is read. Raises TimeoutError on a hang."""
    lines = [f"{method} {target} HTTP/1.1", "Host: engine", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    with socket.socket(socket.AF_UNIX) as wire:
        wire.settimeout(HEAD_S)
        wire.connect(str(engine.socket))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            wire.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b""))
        head, _, rest = _until(wire, b"\r\n\r\n").partition(b"\r\n\r\n")
        if not head:
            return Answer(status=0, headers={}, body=b"")
        first, *others = head.decode("latin-1").split("\r\n")
        found = dict(line.lower().split(": ", 1) for line in others if ": " in line)
        status = int(first.split()[1])
        if stream and status < 300:
            wire.settimeout(REST_S)
            with contextlib.suppress(TimeoutError, ConnectionResetError):
                rest += wire.recv(65536)
        else:
            rest += _rest(wire)
    return Answer(status=status, headers=found, body=_unchunked(rest) if "transfer-encoding" in found else rest)


def _until(wire: socket.socket, mark: bytes) -> bytes:
    data = b""
    while mark not in data:
        try:
            more = wire.recv(65536)
        except ConnectionResetError:
            more = b""
        if not more:
            return b""
        data += more
    return data


def _rest(wire: socket.socket) -> bytes:
    parts, deadline = [], time.monotonic() + HEAD_S
    with contextlib.suppress(ConnectionResetError):
        while more := wire.recv(65536):
            parts.append(more)
            if time.monotonic() > deadline:
                raise TimeoutError("the answer does not end")
    return b"".join(parts)


def _unchunked(data: bytes) -> bytes:
    out = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        if not size:
            break
        length = int(size, 16)
        out, data = out + data[:length], data[length + 2 :]
    return out
