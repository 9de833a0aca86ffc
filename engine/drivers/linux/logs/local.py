"""The driver local: what its options mean to the writer, and how its entries are found in bytes and decoded.

The format is in runtime/supervisor/logs/local.py. A cache of another driver (LOG-06) is such a log as well.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from typing import IO, Any

from engine.aggregates.values import go_values as go
from engine.aggregates.values.log_subject import LogSubject, file_attributes
from engine.aggregates.values.rfc3339 import fixed_time_of
from engine.drivers.linux.runtime.supervisor.logs import local as writer
from engine.drivers.ports.logs import LogEntry
from engine.drivers.ports.runtime import LogSpec

MAX_SIZE_BYTES = 20 << 20
MAX_FILES = 5
ENTRY_BYTES_MAX = 1_000_000
"""As moby's reader: what claims to be longer is garbage."""
_LENGTH = struct.Struct(">I")
_AROUND = 2 * _LENGTH.size


def plan(log: LogSpec) -> dict[str, Any]:
    return _plan(log.path, log.subject.config, log.subject)


def cache_plan(log: LogSpec) -> dict[str, Any] | None:
    """The copy for `docker logs`; its options are those of local behind `cache-`."""
    if not log.cache_path:
        return None
    options = {
        name.removeprefix("cache-"): value for name, value in log.subject.config.items() if name.startswith("cache-")
    }
    return _plan(log.cache_path, options, log.subject)


def _plan(path: str, options: Mapping[str, str], subject: LogSubject) -> dict[str, Any]:
    attributes = file_attributes(subject)
    return {
        "driver": "local",
        "path": path,
        "max_size": go.decimal_bytes(options["max-size"]) if "max-size" in options else MAX_SIZE_BYTES,
        "max_files": int(options.get("max-file", MAX_FILES)),
        "compress": go.boolean(options.get("compress", "true")),
        "attrs": b"".join(_attribute(name, value) for name, value in attributes.items()),
    }


def _attribute(name: str, value: str) -> bytes:
    inside = writer.text(b"\x0a", name.encode()) + writer.text(b"\x12", value.encode())
    return b"\x32" + writer.varint(len(inside)) + inside


class LocalFormat:
    """One reader's decoding; what it is given are a file's bytes in order.

    Entries written at once differ in their line only: what was before and behind the last one's (source and time;
    attributes) is kept, and compared instead of decoded again."""

    def __init__(self) -> None:
        self._rest = b""
        self._before = b""
        self._said: tuple[str, str] = ("", "")
        self._behind: dict[bytes, Mapping[str, str] | None] = {b"": None}

    def begin(self) -> None:
        """Another file: the unfinished end of the last one stays unfinished."""
        self._rest = b""

    def entries(self, data: bytes) -> list[LogEntry]:
        data = self._rest + data if self._rest else data
        found: list[LogEntry] = []
        position = 0
        while True:
            size = _size_at(data, position)
            if size is None:
                break
            if size < 0:
                position = _resume(data, position + 1)
                continue
            start = position + _LENGTH.size
            entry = self._like_the_last(data, start, start + size) or self._entry(data[start : start + size])
            if entry is not None:
                found.append(entry)
            position += size + _AROUND
        self._rest = data[position:]
        return found

    def _like_the_last(self, data: bytes, start: int, end: int) -> LogEntry | None:
        """None: decode it."""
        before = self._before
        if not before or not data.startswith(before, start):
            return None
        at = start + len(before)
        size = data[at]
        at += 1
        if size > 0x7F:
            size, at = size & 0x7F | data[at] << 7, at + 1
            if size >= 1 << 14:
                return None
        behind = data[at + size : end]
        if behind not in self._behind:
            return None
        stream, when = self._said
        return LogEntry(data[at : at + size].decode(errors="replace") + "\n", stream, when, self._behind[behind])

    def _entry(self, data: bytes) -> LogEntry | None:
        """None for what is no LogEntry."""
        stream, time_ns, line, partial, last = "", 0, b"", False, False
        before, behind = b"", data
        attrs: dict[str, str] = {}
        try:
            for number, value, start, end in fields(data):
                match number, value:
                    case 1, bytes():
                        stream = value.decode()
                    case 2, int():
                        time_ns = value
                    case 3, bytes():
                        line, before, behind = value, data[: start + 1], data[end:]
                    case 4, int():
                        partial = bool(value)
                    case 5, bytes():
                        last = any(number == 1 and value for number, value, _, _ in fields(value))
                    case 6, bytes():
                        pair = {number: value for number, value, _, _ in fields(value) if isinstance(value, bytes)}
                        attrs[pair.get(1, b"").decode()] = pair.get(2, b"").decode()
        except (ValueError, IndexError):
            return None
        when = fixed_time_of(time_ns)
        if not partial and before:
            self._before, self._said = before, (stream, when)
            self._behind = {b"": None, behind: attrs or None}
        text = line.decode(errors="replace")
        return LogEntry(text if partial and not last else text + "\n", stream, when, attrs or None)

    @staticmethod
    def seek_last(file: IO[bytes], lines: int) -> int:
        """Go to where the last `lines` entries begin; how many there are, at most `lines`. A tail that was torn is
        left behind; what lies before garbage is not looked for."""
        position = file.seek(0, os.SEEK_END)
        found = 0
        while found < lines and position >= _AROUND:
            size = _length(file, position - _LENGTH.size)
            start = position - size - _AROUND
            if size > ENTRY_BYTES_MAX or start < 0 or _length(file, start) != size:
                if found:
                    break
                return _seek_from_start(file, lines)
            position = start
            found += 1
        file.seek(position)
        return found

    @staticmethod
    def first_time(head: bytes) -> str:
        """When the first entry was written; "" when that can not be told."""
        entries = LocalFormat().entries(head)
        return entries[0].time if entries else ""


def _seek_from_start(file: IO[bytes], lines: int) -> int:
    """The end is torn: count from the beginning, as far as entries are whole."""
    starts: list[int] = []
    end = file.seek(0, os.SEEK_END)
    position = 0
    while position + _AROUND <= end:
        size = _length(file, position)
        after = position + size + _AROUND
        if size > ENTRY_BYTES_MAX or after > end or _length(file, after - _LENGTH.size) != size:
            break
        starts.append(position)
        position = after
    wanted = starts[-lines:] if lines else []
    file.seek(wanted[0] if wanted else end)
    return len(wanted)


def _length(file: IO[bytes], position: int) -> int:
    file.seek(position)
    data = file.read(_LENGTH.size)
    return int(_LENGTH.unpack(data)[0]) if len(data) == _LENGTH.size else -1


def _size_at(data: bytes, position: int) -> int | None:
    """Of the entry here: None when it is not all there yet, -1 when this is none."""
    start = position + 4
    length = data[position:start]
    size = int.from_bytes(length)
    after = start + size
    if size <= ENTRY_BYTES_MAX and data[after : after + 4] == length and len(length) == 4:
        return size
    if len(length) < 4 or (size <= ENTRY_BYTES_MAX and len(data) - after < 4):
        return None
    return -1


def _resume(data: bytes, position: int) -> int:
    """The next place where an entry begins: its length, then `source` as moby and we write it first."""
    while True:
        found = data.find(b"\x0a\x06std", position + _LENGTH.size)
        if found < 0:
            return max(position, len(data) - 8)
        size = _size_at(data, found - _LENGTH.size)
        if size is None or size >= 0:
            return found - _LENGTH.size
        position = found


def fields(data: bytes) -> Iterator[tuple[int, int | bytes, int, int]]:
    """A protobuf message: number, value (varint or length-delimited), where it begins and ends. Raises ValueError,
    IndexError."""
    position, size = 0, len(data)
    while position < size:
        begin = position
        key = data[position]
        position += 1
        value = shift = 0
        while True:
            byte = data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
        if key & 7 == 0:
            yield key >> 3, value, begin, position
        elif key & 7 == 2:
            if position + value > size:
                raise ValueError("longer than the message")
            position += value
            yield key >> 3, data[position - value : position], begin, position
        else:
            raise ValueError(f"wire type {key & 7}")
