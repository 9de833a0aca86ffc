"""Docker's json-file log: encoding whole chunks at once, and the file with its rotation.

Owns: the exact bytes (`{"log":"...\\n","stream":"stdout","attrs":{...},"time":"..."}`), lines longer than 16 KiB as
partials, `max-size`, `max-file`, `compress`. Refuses to know: where chunks come from, who reads the file.

A chunk of 64 KiB holds thousands of lines; encoding them one at a time costs ten times what a few `bytes.replace` over
the chunk cost. All lines of a chunk carry one time.
"""

from __future__ import annotations

import codecs
import os
import time
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PARTIAL_SIZE = 16 * 1024
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
                    size = _character_boundary(line, PARTIAL_SIZE)
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
            size = _character_boundary(rest, PARTIAL_SIZE)
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


def _character_boundary(data: bytes, size: int) -> int:
    """The largest cut <= size that splits no UTF-8 character (moby cuts blindly and loses the character)."""
    if size >= len(data):
        return len(data)
    for cut in range(size, size - 4, -1):
        if data[cut] & 0xC0 != 0x80:
            return cut
    return size


class LogFile:
    """The current file, opened by the supervisor before the start (so that failing to open it fails the start)."""

    def __init__(self, fd: int, spec: dict[str, Any]) -> None:
        self._fd = fd
        self._path = spec["path"]
        self._max_size = spec["max_size"]
        self._max_files = spec["max_files"]
        self._compress = spec["compress"]
        self._size = os.fstat(fd).st_size
        self.lost = 0
        """Bytes dropped because the disk was full: the container goes on, as under moby."""

    def write(self, entries: bytes) -> None:
        while self._max_size > 0 and self._size + len(entries) > self._max_size:
            if self._size < self._max_size:
                # moby rotates before the first entry that finds the file full.
                cut = entries.find(b"\n", max(self._max_size - self._size - 1, 0)) + 1
                self._append(entries[:cut])
                entries = entries[cut:]
            if not entries:
                return
            if self._size >= self._max_size:
                self._rotate()
        self._append(entries)

    def _append(self, entries: bytes) -> None:
        view = memoryview(entries)
        try:
            while view:
                written = os.write(self._fd, view)
                self._size += written
                view = view[written:]
        except OSError:
            self.lost += len(view)

    def _rotate(self) -> None:
        if self._max_files < 2:
            os.ftruncate(self._fd, 0)
            self._size = 0
            return
        suffix = ".gz" if self._compress else ""
        for number in range(self._max_files - 1, 1, -1):
            try:
                os.rename(f"{self._path}.{number - 1}{suffix}", f"{self._path}.{number}{suffix}")
            except FileNotFoundError:
                continue
        rotated = f"{self._path}.1"
        try:
            os.rename(self._path, rotated)
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        except OSError:
            self._size = 0  # try again a file's length later rather than at every line
            return
        os.close(self._fd)
        self._fd, self._size = fd, 0
        if self._compress:
            compress_beside(rotated)

    def close(self) -> None:
        os.close(self._fd)


def compress_beside(path: str) -> None:
    """gzip in a child of its own: compressing in the copier would hold up every container's output. The child is
    waited for by the copier's loop."""
    if os.fork():
        return
    try:
        packer = zlib.compressobj(wbits=31)
        with open(path, "rb") as source, open(path + ".gz.new", "wb") as target:
            while chunk := source.read(1 << 18):
                target.write(packer.compress(chunk))
            target.write(packer.flush())
        os.rename(path + ".gz.new", path + ".gz")
        os.unlink(path)
    finally:
        os._exit(0)
