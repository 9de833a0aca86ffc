"""Reading a log file: no engine, no root, no keys, and never a byte written beside it.

Owns: opening `events.db` read-only wherever it lies, and turning rows into `Recorded`.
Refuses to know: what events mean.

A log of a living engine is read through its write-ahead log; a copied file, or one in a directory where nothing may be
made, is opened as immutable; a copied pair of file and write-ahead log is read from a private copy.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar
from urllib.parse import quote

from engine.aggregates.decider import Event, Recorded
from engine.archive.segment import Row
from engine.archive.store import FOLDER, Archive, manifest
from engine.codec import EventCodec, LogError, UnknownEventError, split_topic

UNREADABLE = (sqlite3.Error, UnicodeDecodeError)
"""What a damaged file raises: Python can not even decode some of the names and messages that SQLite finds in it."""

ROWS_AT_ONCE = 1024

SELECT = "SELECT rowid, originator_id, originator_version, topic, state FROM stored_events"


class UnknownEvent(Event, frozen=True, kw_only=True):
    """An event this version has no class for: shown as it was stored, never folded."""

    NAME: ClassVar[str] = "unknown"
    stored_name: str
    schema: int
    payload: dict[str, Any]


def name_of(event: Event) -> str:
    """The stored name."""
    return event.stored_name if isinstance(event, UnknownEvent) else event.NAME


class LogReader:
    """A log file open for reading; a context manager. Raises LogError when it is no log."""

    def __init__(self, path: Path, codec: EventCodec) -> None:
        self.path = path
        self._codec = codec
        self._stack = contextlib.ExitStack()
        self._connection: sqlite3.Connection | None = None
        self.archive = Archive(path.parent / FOLDER)
        """Sealed history, in the folder beside the file."""

    def __enter__(self) -> LogReader:
        try:
            self._connection = self._stack.enter_context(contextlib.closing(open_read_only(self.path, self._stack)))
            self._connection.execute(f"{SELECT} LIMIT 1").fetchall()
            # One moment for manifest and rows: an engine may be sealing meanwhile.
            self._connection.execute("BEGIN")
            self.archive.use(manifest(self._connection))
        except (*UNREADABLE, OSError, LogError) as error:
            self._stack.close()
            raise LogError(f"{self.path} can not be read as a log: {error}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._connection = None

    @property
    def head(self) -> int:
        """The last position; 0 for an empty log."""
        return int(next(self._query("SELECT MAX(rowid) FROM stored_events"))[0] or self.archive.floor)

    def events(
        self, *, after: int = 0, upto: int | None = None, kinds: Collection[str] | None = None
    ) -> Iterator[Recorded]:
        """Events past a position, in order, up to and with another one. kinds: only of these aggregates."""
        last = upto if upto is not None else self.head
        rows = self.rows(after=after, upto=last)
        if kinds is not None:
            rows = (row for row in rows if row[1].partition(":")[0] in kinds)
        yield from map(self._recorded, rows)

    def rows(self, *, after: int, upto: int) -> Iterator[Row]:
        """As stored. Raises LogError where a segment is damaged, or was not copied with the file."""
        floor = self.archive.floor
        yield from self.archive.rows(after + 1, min(upto, floor))
        yield from self._query(f"{SELECT} WHERE rowid>? AND rowid<=? ORDER BY rowid", max(after, floor), upto)

    def newest_first(self, *, upto: int) -> Iterator[Recorded]:
        floor = self.archive.floor
        statement = f"{SELECT} WHERE rowid<=? AND rowid>? ORDER BY rowid DESC"
        yield from map(self._recorded, self._query(statement, upto, floor))
        yield from map(self._recorded, self.archive.rows_backwards(min(upto, floor)))

    def history(self, stream: str, *, upto: int | None = None) -> Iterator[Recorded]:
        """One stream's events, in order."""
        last = upto if upto is not None else self.head
        floor = self.archive.floor
        yield from map(self._recorded, self.archive.rows_of(stream, 0, last))
        statement = f"{SELECT} WHERE originator_id=? AND rowid>? AND rowid<=? ORDER BY originator_version"
        yield from map(self._recorded, self._query(statement, stream, floor, last))

    def event(self, position: int) -> Recorded | None:
        return next(self.events(after=position - 1, upto=position), None)

    def position_at(self, time_ns: int) -> int:
        """The last position recorded at or before a time; 0 when none was."""
        low, high = 0, self.head
        while low < high:
            middle = (low + high + 1) // 2
            # Retention leaves gaps: what comes next stands for what is no longer there.
            found = next(self.events(after=middle - 1, upto=high), None)
            if found is None:
                high = middle - 1
            elif found.time_ns <= time_ns:
                low = found.position
            else:
                high = middle - 1
        return low

    def _recorded(self, row: Row) -> Recorded:
        position, stream, version, topic, state = row
        try:
            time_ns, cause, event = self._codec.decode(topic, state)
        except UnknownEventError:
            name, schema = split_topic(topic)
            time_ns, cause, payload = self._codec.decode_plain(topic, state)
            event = UnknownEvent(stored_name=name, schema=schema, payload=payload)
        except LogError as error:
            raise LogError(f"position {position}: {error} (see `replay verify`)") from error
        return Recorded(position=position, stream=stream, version=version, time_ns=time_ns, cause=cause, event=event)

    def _query(self, statement: str, *parameters: object) -> Iterator[Any]:
        assert self._connection is not None, "the reader is not open"
        try:
            cursor = self._connection.execute(statement, parameters)
            while rows := cursor.fetchmany(ROWS_AT_ONCE):
                yield from rows
        except UNREADABLE as error:
            raise LogError(f"{self.path} can not be read: {error} (see `replay verify`)") from error


def open_read_only(path: Path, stack: contextlib.ExitStack) -> sqlite3.Connection:
    """A connection that changes nothing beside the file. `stack` owns a private copy, where one is needed."""
    with path.open("rb"):
        pass  # an honest error for what is missing or forbidden
    journal = Path(f"{path}-wal")
    if not journal.exists() or journal.stat().st_size == 0:
        # Nothing to replay; plain `mode=ro` would leave -wal and -shm files beside a copied log.
        return sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1", uri=True)
    if Path(f"{path}-shm").exists():
        connection = sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True)
        try:
            connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchall()
        except UNREADABLE:
            connection.close()
        else:
            return connection
    copy = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="replay-"))) / path.name
    shutil.copyfile(path, copy)
    shutil.copyfile(journal, f"{copy}-wal")
    return sqlite3.connect(copy)
