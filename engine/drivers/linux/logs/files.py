"""The files of one json-file log, oldest first: opening them against rotation, finding the last lines, and reading on.

Blocking; json_file.py calls it in a thread. The copier (another process) renames `x` to `x.1`, `x.1` to `x.2` and may
compress; with one file it truncates. Opening runs from the newest to the oldest: a rotation in between can only show a
file twice, and the inode tells.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import IO, cast

import msgspec

BLOCK_BYTES = 1 << 16
FIRST_LINE_BYTES_MAX = 1 << 18
"""A line of 16 KiB, every byte of it escaped, with its attributes."""

Identity = tuple[int, int]


class _Timed(msgspec.Struct):
    time: str = ""


class LogSource:
    """One open file, read forward from `position`."""

    def __init__(self, file: IO[bytes], identity: Identity, *, compressed: bool) -> None:
        self.file = file
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
        """Go to where the last `lines` complete lines begin; how many there are, at most `lines`."""
        self._make_seekable()
        end = position = self.file.seek(0, os.SEEK_END)
        found = -1  # the newline that ends the last line is not one between two
        while position > 0:
            size = min(BLOCK_BYTES, position)
            position -= size
            self.file.seek(position)
            block = self.file.read(size)
            count = block.count(b"\n")
            if found + count >= lines:
                return self._stop_in(block, position, lines - found, lines)
            found += count
        self.file.seek(end if lines == 0 else 0)
        return max(found + 1, 0)

    def _stop_in(self, block: bytes, position: int, wanted: int, lines: int) -> int:
        """Stand behind the `wanted`-th newline of the block, counted from its end."""
        cut = len(block)
        for _ in range(wanted):
            cut = block.rindex(b"\n", 0, cut)
        self.file.seek(position + cut + 1)
        return lines

    def _make_seekable(self) -> None:
        """Seeking backwards in gzip would decompress again and again: unpack once, to an unnamed file."""
        if self.compressed:
            plain = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the source
            shutil.copyfileobj(self.file, plain)
            self.file.close()
            self.file, self.compressed = plain, False

    def first_time(self) -> str:
        """When the first line was written, as stored; "" for an empty file."""
        if not self._first_time:
            place = self.file.tell()
            self.file.seek(0)
            line = self.file.read(FIRST_LINE_BYTES_MAX).partition(b"\n")[0]
            self.file.seek(place)
            with contextlib.suppress(msgspec.DecodeError):
                self._first_time = msgspec.json.decode(line, type=_Timed).time
        return self._first_time

    def close(self) -> None:
        self.file.close()


def open_sources(path: str, *, since_ns: int) -> list[LogSource]:
    """Every file of the log, oldest first; files last written before `since_ns` are left out."""
    found: dict[Identity, LogSource] = {}
    for source in _newest_first(path):
        if found and os.fstat(source.file.fileno()).st_mtime_ns < since_ns:
            source.close()
            break
        if found.setdefault(source.identity, source) is not source:
            source.close()
    return list(reversed(found.values()))


def next_source(path: str, current: LogSource) -> LogSource | None:
    """The file written after `current`; None while `current` is the newest.

    Told by inode. A file that was compressed meanwhile has another one: then the next is the oldest that begins later
    than ours did."""
    newer: LogSource | None = None
    begun = current.first_time()
    for source in _newest_first(path):
        if source.identity == current.identity or (newer is not None and source.first_time() <= begun):
            source.close()
            return newer
        if newer is not None:
            newer.close()
        newer = source
    return newer


def _newest_first(path: str) -> Iterator[LogSource]:
    """Open `x`, `x.1`, ... until one is not there. `x` itself may be away for a moment, in the middle of a rotation."""
    number = 0
    while True:
        source = _open(path) if number == 0 else _open(f"{path}.{number}") or _open(f"{path}.{number}.gz")
        if source is not None:
            yield source
        elif number:
            return
        number += 1


def _open(name: str) -> LogSource | None:
    compressed = name.endswith(".gz")
    try:
        # Kept open by the source; unbuffered, because another process appends.
        file = cast(IO[bytes], gzip.open(name, "rb") if compressed else open(name, "rb", buffering=0))  # noqa: SIM115
    except FileNotFoundError:
        return None
    status = os.fstat(file.fileno())
    return LogSource(file, (status.st_dev, status.st_ino), compressed=compressed)
