"""The archive: the sealed segments of one log, read as if their rows still stood in the file.

Owns: the manifest (a table in events.db that says which segment has which positions), and looking rows up in segments.
Refuses to know: how a segment comes to be, the rows that are not sealed.

The manifest is the truth: a file that it does not name is nothing, a file that it names and that is not there, or is
not the one, is damage. Nothing is read from the archive before somebody asks for something that old.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from engine import chain
from engine.archive.segment import BlockPlace, Row, SegmentError, SegmentFile, has_stream

FOLDER = "archive"
BLOCKS_CACHED = 4
"""About 2.5 MB each, unpacked."""

CREATE_TABLE = (
    "CREATE TABLE IF NOT EXISTS segments (first INTEGER PRIMARY KEY, last INTEGER NOT NULL, events INTEGER NOT NULL,"
    " size INTEGER NOT NULL, seal BLOB NOT NULL, digest BLOB NOT NULL, thinned INTEGER NOT NULL)"
)
SELECT = "SELECT first, last, events, size, seal, digest, thinned FROM segments ORDER BY first"
INSERT = "INSERT OR REPLACE INTO segments VALUES (?,?,?,?,?,?,?)"


class Sealed(msgspec.Struct, frozen=True, kw_only=True):
    """A segment as the manifest has it. events: how many are still there; size: of the file in bytes; seal: of the log
    after it; digest: SHA-256 of the file; thinned: what retention has left out so far (retention.py's levels)."""

    first: int
    last: int
    events: int
    size: int
    seal: bytes
    digest: bytes
    thinned: int = 0

    @property
    def name(self) -> str:
        """Of the file: a segment that is made anew has another one."""
        return f"{self.first:012d}-{self.last:012d}-{self.digest.hex()[:12]}.segment"

    @classmethod
    def of(cls, row: Sequence[object]) -> Sealed:
        """From a row of `SELECT`. Raises SegmentError."""
        try:
            return msgspec.convert(dict(zip(cls.__struct_fields__, row, strict=True)), cls)
        except msgspec.ValidationError as error:
            raise SegmentError(f"the list of segments is damaged: {error}") from error

    def row(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.__struct_fields__)


def manifest(connection: sqlite3.Connection) -> list[Sealed]:
    """What a log's file says of its segments; nothing for a file from before there were any. Raises SegmentError,
    sqlite3.Error."""
    known = connection.execute("SELECT COUNT(*) FROM sqlite_master WHERE name='segments'").fetchone()[0]
    return [Sealed.of(row) for row in connection.execute(SELECT)] if known else []


class Archive:
    """Rows of sealed positions. Blocking; safe in threads. Raises SegmentError where a segment is damaged or gone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.segments: tuple[Sealed, ...] = ()
        self._files: dict[str, SegmentFile] = {}
        self._blocks: OrderedDict[tuple[str, int], list[Row]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def floor(self) -> int:
        """The last sealed position; 0 when nothing is sealed."""
        return self.segments[-1].last if self.segments else 0

    @property
    def seal(self) -> bytes:
        """Of the log at the floor."""
        return self.segments[-1].seal if self.segments else chain.GENESIS

    def use(self, segments: Sequence[Sealed]) -> None:
        """Take up a manifest. Raises SegmentError when its positions do not adjoin."""
        expected = 1
        for segment in segments:
            if segment.first != expected or segment.last < segment.first:
                raise SegmentError(f"the list of segments is damaged: {segment.first} where {expected} should be")
            expected = segment.last + 1
        with self._lock:
            self.segments = tuple(segments)
            names = {segment.name for segment in segments}
            self._files = {name: file for name, file in self._files.items() if name in names}

    def path(self, segment: Sealed) -> Path:
        return self.folder / segment.name

    def file(self, segment: Sealed) -> SegmentFile:
        """The segment opened. Raises SegmentError."""
        with self._lock:
            found = self._files.get(segment.name)
        if found is None:
            found = SegmentFile(self.path(segment))
            with self._lock:
                self._files[segment.name] = found
        return found

    def places(self, first: int, last: int) -> Iterator[tuple[SegmentFile, BlockPlace]]:
        """The blocks that have positions from first to last, in order."""
        segments = self.segments
        for segment in segments[bisect_left(segments, first, key=lambda segment: segment.last) :]:
            if segment.first > last:
                return
            file = self.file(segment)
            for place in file.index.blocks:
                if place.last >= first and place.first <= last:
                    yield file, place

    def rows(self, first: int, last: int) -> Iterator[Row]:
        """Rows from position first to last, both inclusive, in order."""
        for rows in self.batches(first, last):
            yield from rows

    def batches(self, first: int, last: int) -> Iterator[list[Row]]:
        """As `rows`, some thousands at a time, none of them empty."""
        for file, place in self.places(first, min(last, self.floor)):
            rows = self._rows(file, place)
            whole = first <= place.first and place.last <= last
            if found := rows if whole else [row for row in rows if first <= row[0] <= last]:
                yield found

    def rows_backwards(self, last: int) -> Iterator[Row]:
        """Rows from a position back to the first."""
        for segment in reversed(self.segments):
            if segment.first <= last:
                file = self.file(segment)
                for place in reversed(file.index.blocks):
                    yield from (row for row in reversed(self._rows(file, place)) if row[0] <= last)

    def rows_of(self, stream: str, after_version: int, last: int) -> Iterator[Row]:
        """Rows of a stream past a version, up to a position, in order. Blocks are read from the newest back to the
        one that has that version: a long past is not read for what came last."""
        found: list[list[Row]] = []
        for file, place in reversed(list(self.places(1, min(last, self.floor)))):
            if has_stream(place, stream):
                own = [row for row in self._rows(file, place) if row[1] == stream and row[0] <= last]
                found.append([row for row in own if row[2] > after_version])
                if own and own[0][2] <= after_version + 1:
                    break
        for rows in reversed(found):
            yield from rows

    def last_version(self, stream: str) -> int:
        """The version of a stream's newest sealed event; 0 where there is none."""
        for file, place in reversed(list(self.places(1, self.floor))):
            if has_stream(place, stream):
                newest = next((row[2] for row in reversed(self._rows(file, place)) if row[1] == stream), 0)
                if newest:
                    return newest
        return 0

    def seal_at(self, position: int) -> bytes | None:
        """The seal of the commit that ended at a sealed position; None when none did."""
        for segment in self.segments:
            if segment.last == position:
                return segment.seal
        for file, place in self.places(position, position):
            seal = place.seal
            for commit in file.commits(place):
                seal = chain.seal(seal, commit.first, commit.last, commit.leaves)
                if commit.last == position:
                    return seal
        return None

    def _rows(self, file: SegmentFile, place: BlockPlace) -> list[Row]:
        key = (file.path.name, place.first)
        with self._lock:
            rows = self._blocks.get(key)
            if rows is not None:
                self._blocks.move_to_end(key)
                return rows
        rows = [row for commit in file.commits(place, trusting=True) for row in commit.rows]
        with self._lock:
            self._blocks[key] = rows
            while len(self._blocks) > BLOCKS_CACHED:
                self._blocks.popitem(last=False)
        return rows


def digest_of(path: Path) -> bytes:
    """SHA-256 of a file. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
