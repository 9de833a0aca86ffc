"""The driver json-file: encoding whole chunks at once.

Owns: the exact bytes (`{"log":"...\\n","stream":"stdout","attrs":{...},"time":"..."}`), lines longer than 16 KiB as
partials. Refuses to know: where chunks come from, how the file is rotated (files.py), who reads it.

A chunk of 64 KiB holds thousands of lines; encoding them one at a time costs ten times what a few `bytes.replace` over
the chunk cost. All lines of a chunk carry one time.
"""

from __future__ import annotations

import codecs
import time

from .files import LogFile
from .lines import PARTIAL_SIZE, character_boundary

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..loop import Loop

_ESCAPES = (
    (b"\\", b"\\\\"),
    (b'"', b'\\"'),
    (b"<", b"\\u003c"),
    (b">", b"\\u003e"),
    (b"&", b"\\u0026"),
    (b"\r", b"\\r"),
    *((bytes([byte]), b"\\u%04x" % byte) for byte in range(32) if byte not in b"\r\n"),
)


def _lone_byte(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return "\\ufffd" * (error.end - error.start), error.end


codecs.register_error("docker.json", _lone_byte)


def escape(data: bytes) -> bytes:
    """The inside of a JSON string, newlines left alone. As moby: HTML characters escaped, each invalid byte U+FFFD."""
    # Looking for one byte that is not there costs a microsecond: cheaper than any pass that looks at every byte.
    for raw, escaped in _ESCAPES:
        if raw in data:
            data = data.replace(raw, escaped)
    if not data.isascii():
        text = data.decode("utf-8", "surrogateescape")
        data = text.encode("utf-8", "docker.json")
        data = data.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return data


def timestamp(ns: int) -> bytes:
    """RFC 3339 with nanoseconds, trailing zeros cut, as Go prints it."""
    seconds, fraction = divmod(ns, 1_000_000_000)
    base = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    digits = f".{fraction:09d}".rstrip("0") if fraction else ""
    return f"{base}{digits}Z".encode()


class Encoder:
    """Turns the output of one stream into log entries; keeps the unfinished line between chunks."""

    def __init__(self, stream: bytes, attrs: bytes) -> None:
        self._after = b'","stream":"' + stream + b'",' + (b'"attrs":' + attrs + b"," if attrs else b"") + b'"time":"'
        self._rest: list[bytes] = []
        self._rest_size = 0

    def feed(self, data: bytes, now_ns: int) -> bytes:
        """Entries for what is complete in `data`; the rest waits, at most 16 KiB of it."""
        cut = data.rfind(b"\n") + 1
        ending = self._after + timestamp(now_ns) + b'"}\n'
        encoded = b""
        if cut:
            whole = data[:cut]
            if self._rest:
                self._rest.append(whole)
                whole = b"".join(self._rest)
                self._rest, self._rest_size = [], 0
            encoded = self._lines(whole, ending)
        if cut < len(data):
            tail = data[cut:] if cut else data
            self._rest.append(tail)
            self._rest_size += len(tail)
            if self._rest_size >= PARTIAL_SIZE:
                encoded += self._partials(ending)
        return encoded

    def finish(self, now_ns: int) -> bytes:
        """The last line, if no newline ended it: an entry without one."""
        rest, self._rest, self._rest_size = b"".join(self._rest), [], 0
        if not rest:
            return b""
        return b'{"log":"' + escape(rest) + self._after + timestamp(now_ns) + b'"}\n'

    def _lines(self, whole: bytes, ending: bytes) -> bytes:
        if len(whole) > PARTIAL_SIZE and _has_long_line(whole):
            pieces = []
            for line in whole.split(b"\n")[:-1]:
                while len(line) > PARTIAL_SIZE:
                    size = character_boundary(line, PARTIAL_SIZE)
                    pieces.append(b'{"log":"' + escape(line[:size]) + ending)
                    line = line[size:]
                pieces.append(b'{"log":"' + escape(line) + b"\\n" + ending)
            return b"".join(pieces)
        body = escape(whole).replace(b"\n", b"\\n" + ending + b'{"log":"')
        # The last newline opened an entry too many.
        return b'{"log":"' + body[: -len(b'{"log":"')]

    def _partials(self, ending: bytes) -> bytes:
        rest = b"".join(self._rest)
        pieces = []
        while len(rest) >= PARTIAL_SIZE:
            size = character_boundary(rest, PARTIAL_SIZE)
            pieces.append(b'{"log":"' + escape(rest[:size]) + ending)
            rest = rest[size:]
        self._rest, self._rest_size = ([rest], len(rest)) if rest else ([], 0)
        return b"".join(pieces)


def _has_long_line(data: bytes) -> bool:
    """Looks at one byte range per 16 KiB instead of at every line."""
    position, end = 0, len(data)
    while end - position > PARTIAL_SIZE:
        newline = data.rfind(b"\n", position, position + PARTIAL_SIZE + 1)
        if newline < 0:
            return True
        position = newline + 1
    return False


def entry_end(entries: bytes, at_least: int) -> int:
    """Where the first entry ends that reaches so far."""
    return entries.find(b"\n", max(at_least - 1, 0)) + 1


class JsonFile:
    """The writer."""

    def __init__(self, spec: dict[str, Any], fd: int, loop: Loop, on_room: Callable[[], None]) -> None:
        self._attrs = spec["attrs"]
        self._encoders: dict[str, Encoder] = {}
        self._file = LogFile(fd, spec, loop, entry_end, on_room)

    @property
    def full(self) -> bool:
        return self._file.full

    def feed(self, stream: str, data: bytes, now_ns: int) -> None:
        encoder = self._encoders.get(stream)
        if encoder is None:
            encoder = self._encoders[stream] = Encoder(stream.encode(), self._attrs)
        entries = encoder.feed(data, now_ns)
        if entries:
            self._file.write(entries)

    def finish(self, stream: str, now_ns: int) -> None:
        encoder = self._encoders.pop(stream, None)
        rest = encoder.finish(now_ns) if encoder is not None else b""
        if rest:
            self._file.write(rest)

    def hurry(self) -> None:
        """A file is only ever full for as long as a compression takes."""

    def leave(self, done: Callable[[], None]) -> None:
        self._file.close()
        done()
