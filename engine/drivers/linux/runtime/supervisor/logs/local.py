"""The driver local: Docker's own binary log, byte for byte.

An entry is a protobuf `LogEntry` (source = 1, time_nano = 2, line = 3, partial = 4, partial_log_metadata = 5, attrs =
6) between its length before and after, 4 bytes big-endian each, so that a reader can go both ways. Source: moby daemon/
logger/local/local.go, internal/logdriver/entry.proto.

Whatever two lines of a chunk share is made once: lines of equal length have the same bytes before the text.
"""

from __future__ import annotations

import struct

from .files import LogFile
from .lines import ByLine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..loop import Loop
    from .lines import Line

_LENGTH = struct.Struct(">I")


def varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def text(tag: bytes, value: bytes) -> bytes:
    """A field of bytes; an empty one is left out."""
    return tag + varint(len(value)) + value if value else b""


def encode(lines: list[Line], stream: bytes, now_ns: int, attrs: bytes) -> bytes:
    """attrs: as fields, ready to be appended."""
    before = text(b"\x0a", stream) + (b"\x10" + varint(now_ns) if now_ns else b"")
    known: dict[int, tuple[bytes, bytes]] = {}
    pieces: list[bytes] = []
    for line, part in lines:
        size = len(line)
        around = known.get(size) if part is None else None
        if around is None:
            head = before + (b"\x1a" + varint(size) if size else b"")
            tail = _partial(part) + attrs if part is not None else attrs
            length = _LENGTH.pack(len(head) + size + len(tail))
            around = length + head, tail + length
            if part is None:
                known[size] = around
        pieces += around[0], line, around[1]
    return b"".join(pieces)


def _partial(part: tuple[str, int, bool]) -> bytes:
    ident, ordinal, last = part
    inside = (b"\x08\x01" if last else b"") + text(b"\x12", ident.encode()) + b"\x18" + varint(ordinal)
    return b"\x20\x01\x2a" + varint(len(inside)) + inside


def entry_end(entries: bytes, at_least: int) -> int:
    """Where the first entry ends that reaches so far."""
    position = 0
    while position < at_least:
        position += _LENGTH.unpack_from(entries, position)[0] + 2 * _LENGTH.size
    return position


class Local(ByLine):
    """The writer."""

    def __init__(self, spec: dict[str, Any], fd: int, loop: Loop, on_room: Callable[[], None]) -> None:
        super().__init__()
        self._attrs = spec["attrs"]
        self._file = LogFile(fd, spec, loop, entry_end, on_room)

    @property
    def full(self) -> bool:
        return self._file.full

    def take(self, stream: str, lines: list[Line], now_ns: int) -> None:
        self._file.write(encode(lines, stream.encode(), now_ns, self._attrs))

    def hurry(self) -> None:
        """A file is only ever full for as long as a compression takes."""

    def leave(self, done: Callable[[], None]) -> None:
        self._file.close()
        done()
