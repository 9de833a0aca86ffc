"""Where the body of an HTTP/1.1 request ends: bytes as they come from a socket become the bytes of its body.

Owns the two ways a length is told. Refuses to know: sockets, and who reads them; the engine does, and workers that were
lent a client's socket. Stdlib only. Source: RFC 9112, 6.3 and 7.1; Go's net/http/internal for the bounds.
"""

from __future__ import annotations

import re

LINE_BYTES_MAX = 4096
TRAILERS_BYTES_MAX = 1 << 16

_SIZE, _DATA, _DATA_END, _TRAILERS = range(4)
_HEX = frozenset(b"0123456789abcdefABCDEF")
_HEX_DIGITS_MAX = 15
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*")


class FramingError(ValueError):
    """What comes is no body in chunks."""


class Framing:
    """Feed it what was read, in order. length: of the body; None: it comes in chunks."""

    def __init__(self, length: int | None) -> None:
        self._chunked = length is None
        self._left = length or 0
        """Of the body, or of the chunk."""
        self._state = _SIZE
        self._line = b""
        """The beginning of a line whose end has not come."""
        self._trailers = 0
        self.over = length == 0
        self.behind = b""
        """What was fed behind the body, once it is over."""

    @property
    def wanted(self) -> int | None:
        """How many bytes are certain to belong to the body; None where that cannot be told."""
        return None if self._chunked else self._left

    def feed(self, data: bytes) -> bytes:
        """The bytes of the body among these; none may be fed once it is over. Raises FramingError."""
        assert not self.over, "the body is over"
        if self._chunked:
            return self._feed_chunks(data)
        part = data[: self._left]
        self._left -= len(part)
        if not self._left:
            self.over, self.behind = True, data[len(part) :]
        return part

    def _feed_chunks(self, data: bytes) -> bytes:
        parts: list[bytes] = []
        position = 0
        while position < len(data) and not self.over:
            if self._state == _DATA:
                part = data[position : position + self._left]
                parts.append(part)
                position += len(part)
                self._left -= len(part)
                if not self._left:
                    self._state = _DATA_END
                continue
            end = data.find(b"\n", position)
            stop = end + 1 if end >= 0 else len(data)
            self._line += data[position:stop]
            position = stop
            if len(self._line) > LINE_BYTES_MAX:
                raise FramingError("header line too long")
            if end >= 0:
                line, self._line = self._line, b""
                if not line.endswith(b"\r\n"):
                    raise FramingError("malformed chunked encoding")
                self._take_line(line[:-2])
        if self.over:
            self.behind = data[position:]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _take_line(self, line: bytes) -> None:
        if self._state == _DATA_END:
            if line:
                raise FramingError("malformed chunked encoding")
            self._state = _SIZE
        elif self._state == _TRAILERS:
            self._trailers += len(line)
            if self._trailers > TRAILERS_BYTES_MAX:
                raise FramingError("http: suspiciously long trailer after chunked body")
            if line and not _TRAILER.fullmatch(line):
                raise FramingError("malformed trailer after chunked body")
            self.over = not line
        else:
            self._left = _chunk_size(line)
            self._state = _DATA if self._left else _TRAILERS


def _chunk_size(line: bytes) -> int:
    """Of a line without its end; extensions mean nothing to us."""
    digits = line.partition(b";")[0].rstrip(b" \t")
    if not digits or len(digits) > _HEX_DIGITS_MAX or not _HEX.issuperset(digits):
        raise FramingError("invalid byte in chunk length")
    return int(digits, 16)
