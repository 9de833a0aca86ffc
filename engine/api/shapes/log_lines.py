"""Log entries as `docker logs` sends them: frames or plain bytes, with timestamps and attributes when asked.

Source: moby daemon/server/httputils/write_log_stream.go.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from urllib.parse import quote_plus

from engine.aggregates.values.rfc3339 import fixed_time
from engine.drivers.ports.logs import LogEntry

_NUMBERS = {"stdin": 0, "stdout": 1, "stderr": 2}


class LogRenderer:
    """Renders batches of one answer, in order. multiplexed: 8-byte frames, else (tty) bare bytes."""

    def __init__(self, *, multiplexed: bool, timestamps: bool = False, details: bool = False) -> None:
        self._multiplexed = multiplexed
        self._timestamps = timestamps
        self._details = details
        self._unfinished: set[str] = set()
        """Streams whose last entry was a partial one: the next piece goes on in the same line, without a timestamp."""

    def __call__(self, entries: list[LogEntry]) -> bytes:
        line: Callable[[LogEntry], bytes] = self._line if self._timestamps or self._details else _plain
        if not self._multiplexed:
            return b"".join([line(entry) for entry in entries])
        pack = struct.Struct(">BxxxL").pack
        pieces: list[bytes] = []
        for entry in entries:
            data = line(entry)
            pieces.append(pack(_NUMBERS.get(entry.stream, 1), len(data)))
            pieces.append(data)
        return b"".join(pieces)

    def _line(self, entry: LogEntry) -> bytes:
        text = entry.log
        if entry.stream not in self._unfinished:
            if self._details:
                text = f"{attributes(entry.attrs)} {text}"
            if self._timestamps:
                text = f"{fixed_time(entry.time)} {text}"
        if entry.log.endswith("\n"):
            self._unfinished.discard(entry.stream)
        else:
            self._unfinished.add(entry.stream)
        return text.encode()


def attributes(attrs: Mapping[str, str] | None) -> str:
    """`a=b,c=d`, escaped as in a query."""
    return ",".join(f"{quote_plus(key)}={quote_plus(value)}" for key, value in sorted((attrs or {}).items()))


def _plain(entry: LogEntry) -> bytes:
    return entry.log.encode()
