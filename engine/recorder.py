"""The SQLite side of the log: one transaction per group of events, and the chain beside them.

Owns: positions, the chain's head, the writer's connection and its durability. `eventsourcing`'s recorder is the base;
its seams (`insert_events`, `select_events`, `select_notifications`) keep their meaning, so that another recorder can
take this one's place.
Refuses to know: what an event says, who waits for it.

Positions are explicit rowids, head + 1 onwards: a rolled back group leaves no gap. There is one writer per file. Old
positions are in the archive (engine/archive): reading goes there and back without the reader's knowing.

What a command waits for, its commit and the look-up of a stream, goes over two connections of our own: those of
`eventsourcing`'s pool remember one compiled statement each, so that every commit would compile its four again.
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from eventsourcing.persistence import PersistenceError, StoredEvent
from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteDatastore, SQLiteFactory

from engine import chain
from engine.archive import store
from engine.archive.segment import Row, SegmentError
from engine.archive.store import Archive, Sealed
from engine.errors import PortError
from engine.sqlite_errors import translated
from engine.write_ahead import make_room

BUSY_TIMEOUT_MS = 5000
WAL_BYTES, WAL_KEPT_BYTES = 8 << 20, 32 << 20
"""Of the write-ahead log: when it is opened, and what it keeps when it begins anew (about one round of commits)."""

BATCH_ROWS = 2048
FORGET_ROWS = 256
"""Deleted at once: about as long as one big group of commands."""

_SELECT = "SELECT rowid, originator_id, originator_version, topic, state FROM stored_events"
_SELECT_STREAM = f"{_SELECT} WHERE originator_id=? AND originator_version>? AND rowid>? ORDER BY originator_version"
_SELECT_VERSION = "SELECT MAX(originator_version) FROM stored_events WHERE originator_id=? AND rowid>?"
_SELECT_BYTES = (
    "SELECT CAST(originator_id AS BLOB), originator_version, CAST(topic AS BLOB), CAST(state AS BLOB)"
    " FROM stored_events"
)
_INSERT = "INSERT INTO stored_events (rowid, originator_id, originator_version, topic, state) VALUES (?,?,?,?,?)"
_INSERT_SEAL = "INSERT INTO chain VALUES (?,?,?,?)"


class LogRecorder(SQLiteApplicationRecorder):
    """Appends groups of events and reads rows back. `open` before use, `close` after; both block."""

    def __init__(self, datastore: SQLiteDatastore, events_table_name: str = "stored_events") -> None:
        super().__init__(datastore, events_table_name)
        self._path = datastore.pool.db_name
        self.archive = Archive(Path(self._path).parent / store.FOLDER)
        """Sealed history: what is at or below its floor is read from there, and only from there."""
        self._stack = contextlib.ExitStack()
        self._writer: sqlite3.Cursor | None = None
        self._reader: sqlite3.Cursor | None = None
        self.position = 0
        """The last committed position."""
        self.seal = chain.GENESIS
        """The seal of the last commit."""

    def construct_create_table_statements(self) -> list[str]:
        return [*super().construct_create_table_statements(), chain.CREATE_TABLE, store.CREATE_TABLE]

    def open(self) -> None:
        """Take the writer's connection and find the head. Raises PortError when the file can not be used."""
        with _translated("open the log"):
            self._writer = self._connected()
            self._reader = self._connected()
            for pragma in ("synchronous=FULL", "wal_autocheckpoint=0", f"journal_size_limit={WAL_KEPT_BYTES}"):
                # Checkpoints are copied to the main file by the housekeeper in a thread, not inside somebody's commit.
                self._writer.execute(f"PRAGMA {pragma}")
            self._load_archive()
            self._load_head()
            self._check_tail()
            make_room(self._path, WAL_BYTES)

    def close(self) -> None:
        """Fold the write-ahead log into the file, so that a copy of the file alone is complete."""
        if self._writer is not None:
            with contextlib.suppress(sqlite3.Error):
                self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._writer = self._reader = None
        self._stack.close()

    def _connected(self) -> sqlite3.Cursor:
        """A connection for as long as the log is open, used by one thread at a time."""
        connection = sqlite3.connect(
            self._path, isolation_level=None, check_same_thread=False, timeout=BUSY_TIMEOUT_MS / 1000
        )
        self._stack.callback(connection.close)
        return connection.cursor()

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int]:
        """Commit all of them as one transaction; their positions. On disk when it returns. Blocking.

        Raises PortError DISK_FULL or SYSTEM; then nothing was appended and the next call may succeed."""
        writer = self._writer
        assert writer is not None, "the recorder is not open"
        first = self.position + 1
        last = self.position + len(stored_events)
        rows = [
            (position, str(event.originator_id), event.originator_version, event.topic, event.state)
            for position, event in enumerate(stored_events, first)
        ]
        leaves = b"".join(
            chain.leaf(stream.encode(), version, topic.encode(), state) for _, stream, version, topic, state in rows
        )
        seal = chain.seal(self.seal, first, last, leaves)
        try:
            writer.execute("BEGIN")
            writer.executemany(_INSERT, rows)
            writer.execute(_INSERT_SEAL, (first, last, leaves, seal))
            writer.execute("COMMIT")
        except BaseException:
            # A failed COMMIT may leave the transaction open, and the head in memory must be the file's again.
            with contextlib.suppress(sqlite3.Error):
                writer.execute("ROLLBACK")
            with contextlib.suppress(PortError), _translated("append to the log"):
                self._load_head()
            with _translated("append to the log"):
                raise
        self.position, self.seal = last, seal
        return range(first, last + 1)

    @contextlib.contextmanager
    def _transaction(self, operation: str) -> Iterator[sqlite3.Cursor]:
        """One of the writer's that is no commit of events. Raises PortError; then nothing of it has happened."""
        assert self._writer is not None, "the recorder is not open"
        with _translated(operation):
            self._writer.execute("BEGIN")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._writer.execute("ROLLBACK")
                raise

    def rows_after(self, after: int, limit: int) -> list[Row]:
        """Up to `limit` rows past a position, in order. None only at the end of the log."""
        floor = self.archive.floor
        if after < floor:
            with _translated("read the log"):
                rows = list(itertools.islice(self.archive.rows(after + 1, floor), limit))
            if rows:
                return rows
        return self._rows(f"{_SELECT} WHERE rowid>? ORDER BY rowid LIMIT ?", max(after, floor), limit)

    def batches(self, after: int) -> Iterator[Sequence[Row]]:
        """All rows past a position, in order, some thousands at a time. Blocking."""
        with _translated("read the log"):
            for rows in self.archive.batches(after + 1, self.archive.floor):
                yield rows
                after = rows[-1][0]
        while rows := self.rows_after(after, BATCH_ROWS):
            yield rows
            after = rows[-1][0]

    def rows_of(self, stream: str, after_version: int) -> list[Row]:
        """All rows of a stream past a version, in order."""
        floor = self.archive.floor
        rows = self._looked_up(_SELECT_STREAM, stream, after_version, floor)
        if not floor:
            return rows
        with _translated("read the log"):
            return [*self.archive.rows_of(stream, after_version, floor), *rows]

    def last_version(self, stream: str) -> int:
        """The version of a stream's newest event; 0 where there is none."""
        newest = self._looked_up(_SELECT_VERSION, stream, self.archive.floor)[0][0]
        if newest is None:
            with _translated("read the log"):
                newest = self.archive.last_version(stream)
        return int(newest)

    def seal_at(self, position: int) -> bytes | None:
        """The seal of the commit that ended at a position; None when none did."""
        if position == 0:
            return chain.GENESIS
        if position <= self.archive.floor:
            with _translated("read the log"):
                return self.archive.seal_at(position)
        statement = "SELECT seal FROM chain WHERE first<=? AND last=? ORDER BY first DESC LIMIT 1"
        rows = self._rows(statement, position, position)
        return rows[0][0] if rows else None

    def adopt(self, segment: Sealed) -> None:
        """Name a segment in the manifest: from then on it is what is read for its positions. On disk when it returns;
        the writer's verb, between two groups. Blocking."""
        assert segment.first in (self.archive.floor + 1, *(known.first for known in self.archive.segments))
        with self._transaction("seal history") as cursor:
            cursor.execute(store.INSERT, segment.row())
        self._load_archive()

    def forget(self) -> bool:
        """Delete some rows that are sealed; whether there are more. The writer's verb, between two groups. Blocking.

        A few at a time, because commands wait meanwhile. The room is used again for new rows."""
        with self._transaction("delete sealed rows") as cursor:
            cursor.execute("SELECT MIN(rowid) FROM stored_events")
            floor = self.archive.floor
            first = cursor.fetchone()[0] or floor + 1
            upto = min(floor, first + FORGET_ROWS - 1)
            cursor.execute("DELETE FROM stored_events WHERE rowid<=?", (upto,))
            # A commit's row goes with its last event.
            cursor.execute("DELETE FROM chain WHERE last<=?", (upto,))
        return first <= floor

    def checkpoint(self) -> None:
        """Copy committed pages from the write-ahead log to the main file, beside the writer. Blocking, any thread."""
        with _translated("checkpoint the log"):
            with self.datastore.get_connection(commit=False) as connection:
                connection.cursor().execute("PRAGMA wal_checkpoint(PASSIVE)")

    def rewind(self) -> bool:
        """Copy what is left and let the write-ahead log begin anew; False when somebody is in the way (a reader,
        a `checkpoint`): try again. Blocking; the writer's verb, between two groups.

        Under steady load `checkpoint` alone is always a few commits behind, and the file would grow for ever."""
        assert self._writer is not None, "the recorder is not open"
        with _translated("checkpoint the log"):
            cursor = self._writer
            # No waiting: somebody who reads the log at leisure must not hold up the writer.
            cursor.execute("PRAGMA busy_timeout=0")
            try:
                cursor.execute("PRAGMA wal_checkpoint(RESTART)")
                return not cursor.fetchone()[0]
            finally:
                cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")

    def _looked_up(self, statement: str, *parameters: Any) -> list[Any]:
        """As `_rows`, of one stream, which a command waits for: taking a connection from the pool and giving it back
        costs several times what the answer does."""
        reader = self._reader
        assert reader is not None, "the recorder is not open"
        try:
            return reader.execute(statement, parameters).fetchall()
        except sqlite3.Error:
            with _translated("read the log"):
                raise

    def _rows(self, statement: str, *parameters: Any) -> list[Any]:
        with _translated("read the log"):
            with self.datastore.get_connection(commit=False) as connection:
                cursor = connection.cursor().sqlite_cursor
                cursor.row_factory = None
                return cursor.execute(statement, parameters).fetchall()

    def _load_archive(self) -> None:
        assert self._writer is not None
        self._writer.execute(store.SELECT)
        self.archive.use([Sealed.of(row) for row in self._writer.fetchall()])

    def _load_head(self) -> None:
        cursor = self._writer
        assert cursor is not None
        cursor.execute("SELECT MAX(rowid) FROM stored_events")
        self.position = cursor.fetchone()[0] or self.archive.floor
        cursor.execute("SELECT last, seal FROM chain ORDER BY first DESC LIMIT 1")
        last, self.seal = cursor.fetchone() or (self.archive.floor, self.archive.seal)
        if last != self.position:
            raise _damaged(f"events end at {self.position}, their chain at {last}")

    def _check_tail(self) -> None:
        """The last commit must prove itself: appending to a torn log would bury the damage."""
        row = self._rows("SELECT first, last, leaves, seal FROM chain ORDER BY first DESC LIMIT 2")
        if not row:
            return
        first, last, leaves, seal = row[0]
        previous = row[1][3] if len(row) > 1 else self.archive.seal
        # As bytes: a damaged text would not even be handed out as text.
        stored = self._rows(f"{_SELECT_BYTES} WHERE rowid>=? ORDER BY rowid", first)
        actual = b"".join(chain.leaf(stream, version, topic, state) for stream, version, topic, state in stored)
        if actual != leaves or chain.seal(previous, first, last, leaves) != seal:
            raise _damaged(f"the last commit, {first} to {last}, does not match its seal")


class LogFactory(SQLiteFactory):
    """Builds LogRecorders for `eventsourcing`'s Application."""

    application_recorder_class = LogRecorder


def _damaged(how: str) -> PortError:
    return PortError("open the log", f"the log is damaged: {how} (see `replay verify`)")


@contextlib.contextmanager
def _translated(operation: str) -> Iterator[None]:
    """As `translated`, where the library wraps SQLite's errors in its own, or a segment is damaged."""
    with translated(operation):
        try:
            yield
        except SegmentError as error:
            raise PortError(operation, f"the log is damaged: {error} (see `replay verify`)") from error
        except PersistenceError as error:
            cause = error.args[0] if error.args else error
            raise cause if isinstance(cause, sqlite3.Error) else sqlite3.OperationalError(str(error)) from error
