"""Messages of `/events` at rest: views-events.db, a table by cursor with an index by time.

Disposable, as views.db: whoever loses it has it folded anew. A file of its own, because views.db is rewritten whole by
its owner while this one only grows. Every verb blocks.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import msgspec

from engine.projections.feed_messages import FeedMessage

_SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (cursor INTEGER PRIMARY KEY, time_ns INTEGER NOT NULL, message BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS messages_by_time ON messages (time_ns, cursor);
"""


class FeedStore:
    """`open` before use. Messages are written in order and never change: writing them again is no error."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._decoder = msgspec.msgpack.Decoder(FeedMessage)
        self._encoder = msgspec.msgpack.Encoder()

    def open(self) -> None:
        """Open or make the file; a damaged one is made anew. Idempotent."""
        try:
            self._connect()
        except sqlite3.DatabaseError:
            self.clear()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def clear(self) -> None:
        """Forget everything."""
        self.close()
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self._path}{suffix}").unlink(missing_ok=True)
        self._connect()

    def append(self, messages: Sequence[FeedMessage]) -> None:
        connection = self._opened()
        rows = [(message.cursor, message.time_ns, self._encoder.encode(message)) for message in messages]
        with connection:
            connection.executemany("INSERT OR REPLACE INTO messages VALUES (?, ?, ?)", rows)

    def head(self) -> int:
        """The last cursor; 0 for none."""
        row = self._opened().execute("SELECT max(cursor) FROM messages").fetchone()
        return int(row[0] or 0)

    def first_since(self, time_ns: int) -> int:
        """The lowest cursor of a message at or after a time; behind the head when there is none."""
        query = "SELECT min(cursor) FROM messages WHERE time_ns >= ?"
        row = self._opened().execute(query, (time_ns,)).fetchone()
        return int(row[0]) if row[0] is not None else self.head() + 1

    def read(self, after: int, limit: int) -> list[FeedMessage]:
        """At most `limit` messages behind a cursor, in order."""
        query = "SELECT message FROM messages WHERE cursor > ? ORDER BY cursor LIMIT ?"
        return [self._decoder.decode(row[0]) for row in self._opened().execute(query, (after, limit))]

    def _connect(self) -> None:
        if self._connection is not None:
            return
        connection = sqlite3.connect(self._path, check_same_thread=False)
        try:
            # Losing the file costs time, not truth: no write here ever waits for the disk.
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=OFF")
            connection.executescript(_SCHEMA)
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                connection.close()
            raise
        self._connection = connection

    def _opened(self) -> sqlite3.Connection:
        assert self._connection is not None, "the feed store is not open"
        return self._connection
