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
    """One reader's decoding; what it is given are a file's bytes in order."""

    def __init__(self) -> None:
        self._rest = b""
        self._attributes: dict[bytes, tuple[str, str]] = {}
        self._times: tuple[int, str] = (0, "")

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
            entry = self._entry(data[start : start + size])
            if entry is not None:
                found.append(entry)
            position += size + _AROUND
        self._rest = data[position:]
        return found

    def _entry(self, data: bytes) -> LogEntry | None:
        """None for what is no LogEntry."""
        stream, time_ns, line, last = "", 0, b"", True
        attrs: dict[str, str] = {}
        try:
            for number, value in fields(data):
                if number == 3:
                    line = _bytes(value)
                elif number == 1:
                    stream = _bytes(value).decode()
                elif number == 2:
                    time_ns = _int(value)
                elif number == 4:
                    last = not value
                elif number == 5:
                    last = bool(dict(fields(_bytes(value))).get(1, 0))
                elif number == 6:
                    name, text = self._attribute(_bytes(value))
                    attrs[name] = text
        except (ValueError, IndexError, TypeError):
            return None
        text = line.decode(errors="replace")
        return LogEntry(text + "\n" if last else text, stream, self._time(time_ns), attrs or None)

    def _attribute(self, data: bytes) -> tuple[str, str]:
        """The same few in every entry."""
        known = self._attributes.get(data)
        if known is None:
            pair = dict(fields(data))
            known = _bytes(pair.get(1, b"")).decode(), _bytes(pair.get(2, b"")).decode()
            self._attributes = {data: known, **(self._attributes if len(self._attributes) < 64 else {})}
        return known

    def _time(self, time_ns: int) -> str:
        if self._times[0] != time_ns:
            self._times = time_ns, fixed_time_of(time_ns)
        return self._times[1]

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
    if len(data) - position < _LENGTH.size:
        return None
    (size,) = _LENGTH.unpack_from(data, position)
    if size > ENTRY_BYTES_MAX:
        return -1
    after = position + _LENGTH.size + size
    if len(data) - after < _LENGTH.size:
        return None
    return int(size) if _LENGTH.unpack_from(data, after)[0] == size else -1


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


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """A protobuf message: numbers and values of kind varint and length-delimited. Raises ValueError, IndexError."""
    position, end = 0, len(data)
    while position < end:
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
            yield key >> 3, value
        elif key & 7 == 2:
            if position + value > end:
                raise ValueError("longer than the message")
            yield key >> 3, data[position : position + value]
            position += value
        else:
            raise ValueError(f"wire type {key & 7}")


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise TypeError("a number where bytes are due")
    return value


def _int(value: int | bytes) -> int:
    if isinstance(value, bytes):
        raise TypeError("bytes where a number is due")
    return value
