"""The driver gelf: GELF 1.1 over UDP (compressed, in chunks of 1,420 bytes) or TCP (each message ended by a zero byte).

Source: moby daemon/logger/gelf, Graylog2/go-gelf. A message that would need more than 128 chunks is dropped, as there.
Empty lines are not sent.
"""

from __future__ import annotations

import os
import zlib

from .json_file import escape
from .outlet import Outlet
from .remote import Remote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..loop import Loop
    from .lines import Line

ERROR, INFO = 3, 6
CHUNK_SIZE, CHUNK_DATA, CHUNKS_MAX = 1420, 1408, 128
WINDOWS = {"gzip": 31, "zlib": 15}


def open_gelf(spec: dict[str, Any], fd: int, loop: Loop, on_room: Callable[[], None]) -> Remote:
    return Remote(Gelf(spec), Outlet(spec, fd, loop, on_room))


class Gelf:
    """spec: `host` (JSON string), `extra` (JSON members, encoded), `compression` (gzip, zlib, none), `level`."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._before = b'{"version":"1.1","host":' + spec["host"] + b',"short_message":"'
        self._extra = spec["extra"]
        self._datagrams = spec["server"]["network"] == "udp"
        self._compression, self._level = spec["compression"], spec["level"]

    def __call__(self, stream: str, lines: list[Line], now_ns: int) -> list[bytes]:
        level = ERROR if stream == "stderr" else INFO
        after = f'","timestamp":{now_ns // 1_000_000 / 1000:.15g},"level":{level},'.encode() + self._extra + b"}"
        messages = [self._before + escape(line) + after for line, _ in lines if line]
        if not self._datagrams:
            return [message + b"\0" for message in messages]
        return [chunk for message in messages for chunk in chunks(self._compressed(message))]

    def _compressed(self, message: bytes) -> bytes:
        if self._compression == "none":
            return message
        packer = zlib.compressobj(self._level, wbits=WINDOWS[self._compression])
        return packer.compress(message) + packer.flush()


def chunks(message: bytes) -> list[bytes]:
    if len(message) <= CHUNK_SIZE:
        return [message]
    count = (len(message) + CHUNK_DATA - 1) // CHUNK_DATA
    if count > CHUNKS_MAX:
        return []
    ident = os.urandom(8)
    return [
        b"\x1e\x0f" + ident + bytes((number, count)) + message[number * CHUNK_DATA : (number + 1) * CHUNK_DATA]
        for number in range(count)
    ]
