"""The files of one log, oldest first: opening them against rotation, finding the last entries, and reading on.

Blocking; reading.py calls it in a thread. What an entry looks like is the format's to know. The copier (another
process) renames `x` to `x.1`, `x.1` to `x.2` and may compress; with one file it truncates. Opening runs from the newest
to the oldest: a rotation in between can only show a file twice, and the inode tells.
"""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import IO, Protocol, cast

from engine.drivers.ports.logs import LogEntry

FIRST_BYTES = 1 << 18
"""Enough for a first entry: a line of 16 KiB, every byte of it escaped, with its attributes."""

Identity = tuple[int, int]


class Format(Protocol):
    """How entries lie in a file. One reader has one, and gives it the bytes of its files in order."""

    def begin(self) -> None:
        """Another file."""
        ...

    def entries(self, data: bytes) -> list[LogEntry]:
        """What is complete, garbage left out; the rest waits for the next bytes."""
        ...

    def seek_last(self, file: IO[bytes], lines: int) -> int: ...

    def first_time(self, head: bytes) -> str: ...


class LogSource:
    """One open file, read forward from `position`."""

    def __init__(self, file: IO[bytes], identity: Identity, entry_format: Format, *, compressed: bool) -> None:
        self.file = file
        self._format = entry_format
        self.identity = identity
        self.compressed = compressed
        self._first_time = ""

    def read(self, size: int) -> bytes:
        """The next bytes; b"" at the (present) end. A file that was truncated below our place starts over."""
        data = self.file.read(size)
        if not data and not self.compressed and os.fstat(self.file.fileno()).st_size < self.file.tell():
            self.file.seek(0)
            data = self.file.read(size)
        return data

    def skip_all_but(self, lines: int) -> int:
        """Go to where the last `lines` complete entries begin; how many there are, at most `lines`."""
        self._make_seekable()
        return self._format.seek_last(self.file, lines)

    def _make_seekable(self) -> None:
        """Seeking backwards in gzip would decompress again and again: unpack once, to an unnamed file."""
        if self.compressed:
            plain = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the source
            shutil.copyfileobj(self.file, plain)
            self.file.close()
            self.file, self.compressed = plain, False

    def first_time(self) -> str:
        """When the first entry was written, as stored; "" for an empty file."""
        if not self._first_time:
            place = self.file.tell()
            self.file.seek(0)
            head = self.file.read(FIRST_BYTES)
            self.file.seek(place)
            self._first_time = self._format.first_time(head)
        return self._first_time

    def close(self) -> None:
        self.file.close()


def open_sources(path: str, entry_format: Format, *, since_ns: int) -> list[LogSource]:
    """Every file of the log, oldest first; files last written before `since_ns` are left out."""
    found: dict[Identity, LogSource] = {}
    for source in _newest_first(path, entry_format):
        if found and os.fstat(source.file.fileno()).st_mtime_ns < since_ns:
            source.close()
            break
        if found.setdefault(source.identity, source) is not source:
            source.close()
    return list(reversed(found.values()))


def next_source(path: str, entry_format: Format, current: LogSource) -> LogSource | None:
    """The file written after `current`; None while `current` is the newest.

    Told by inode. A file that was compressed meanwhile has another one: then the next is the oldest that begins later
    than ours did."""
    newer: LogSource | None = None
    begun = current.first_time()
    for source in _newest_first(path, entry_format):
        if source.identity == current.identity or (newer is not None and source.first_time() <= begun):
            source.close()
            return newer
        if newer is not None:
            newer.close()
        newer = source
    return newer


def _newest_first(path: str, entry_format: Format) -> Iterator[LogSource]:
    """Open `x`, `x.1`, ... until one is not there. `x` itself may be away for a moment, in the middle of a rotation."""
    number = 0
    while True:
        names = (path,) if number == 0 else (f"{path}.{number}", f"{path}.{number}.gz")
        source = next(filter(None, (_open(name, entry_format) for name in names)), None)
        if source is not None:
            yield source
        elif number:
            return
        number += 1


def _open(name: str, entry_format: Format) -> LogSource | None:
    compressed = name.endswith(".gz")
    try:
        # Kept open by the source; unbuffered, because another process appends.
        file = cast(IO[bytes], gzip.open(name, "rb") if compressed else open(name, "rb", buffering=0))  # noqa: SIM115
    except FileNotFoundError:
        return None
    status = os.fstat(file.fileno())
    return LogSource(file, (status.st_dev, status.st_ino), entry_format, compressed=compressed)
