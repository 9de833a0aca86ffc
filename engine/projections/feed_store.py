"""Messages of `/events` at rest: views-events.db, the newer ones a row each, with an index by time, older ones packed
by the thousand, which makes them ten times smaller.

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
CREATE TABLE IF NOT EXISTS packed (last INTEGER PRIMARY KEY, last_ns INTEGER NOT NULL, messages BLOB NOT NULL);
"""
PACK_MESSAGES, LOOSE_MESSAGES = 1024, 8192
"""How many are packed together, and how many of the newest never are."""
PACK_LEVEL = 3
"""zstd's: 9 takes several times as long, which a history that is folded anew feels."""
_INSERT_PACK = "INSERT OR REPLACE INTO packed VALUES (?, ?, ?)"


class FeedStore:
    """`open` before use. Messages are written in order and never change: writing them again is no error."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._decoder = msgspec.msgpack.Decoder(FeedMessage)
        self._pack_decoder = msgspec.msgpack.Decoder(list[FeedMessage])
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
        loose = connection.execute("SELECT COUNT(*) FROM messages").fetchone()[0]
        for _ in range((loose - LOOSE_MESSAGES) // PACK_MESSAGES):
            self._pack(connection)

    def append_packed(self, messages: Sequence[FeedMessage]) -> int:
        """Append old messages, by whole thousands; how many are stored now. For who folds a long history anew: a row
        each, to be packed at once, would cost more than the fold."""
        connection = self._opened()
        if connection.execute("SELECT COUNT(*) FROM messages").fetchone()[0]:
            self.append(messages)
            return len(messages)
        whole = len(messages) - len(messages) % PACK_MESSAGES
        packs = [self._packed(messages[at : at + PACK_MESSAGES]) for at in range(0, whole, PACK_MESSAGES)]
        with connection:
            connection.executemany(_INSERT_PACK, packs)
        return whole

    def _pack(self, connection: sqlite3.Connection) -> None:
        """The oldest loose messages."""
        query = "SELECT message FROM messages ORDER BY cursor LIMIT ?"
        messages = [self._decoder.decode(row[0]) for row in connection.execute(query, (PACK_MESSAGES,))]
        with connection:
            connection.execute(_INSERT_PACK, self._packed(messages))
            connection.execute("DELETE FROM messages WHERE cursor<=?", (messages[-1].cursor,))

    def _packed(self, messages: Sequence[FeedMessage]) -> tuple[int, int, bytes]:
        import zstandard  # here: a young engine has nothing to pack

        data = zstandard.ZstdCompressor(level=PACK_LEVEL).compress(self._encoder.encode(messages))
        return messages[-1].cursor, max(message.time_ns for message in messages), data

    def _unpacked(self, data: bytes) -> list[FeedMessage]:
        import zstandard

        try:
            return self._pack_decoder.decode(zstandard.ZstdDecompressor().decompress(data))
        except (zstandard.ZstdError, msgspec.MsgspecError) as error:
            raise sqlite3.DatabaseError(f"packed messages can not be read: {error}") from error

    def head(self) -> int:
        """The last cursor; 0 for none."""
        query = "SELECT max(ifnull((SELECT max(last) FROM packed), 0), ifnull((SELECT max(cursor) FROM messages), 0))"
        row = self._opened().execute(query).fetchone()
        return int(row[0])

    def first_since(self, time_ns: int) -> int:
        """The lowest cursor of a message at or after a time; behind the head when there is none."""
        query = "SELECT messages FROM packed WHERE last_ns >= ? ORDER BY last LIMIT 1"
        for (data,) in self._opened().execute(query, (time_ns,)):
            return min(message.cursor for message in self._unpacked(data) if message.time_ns >= time_ns)
        query = "SELECT min(cursor) FROM messages WHERE time_ns >= ?"
        row = self._opened().execute(query, (time_ns,)).fetchone()
        return int(row[0]) if row[0] is not None else self.head() + 1

    def read(self, after: int, limit: int) -> list[FeedMessage]:
        """At most `limit` messages behind a cursor, in order; none only when there are no more."""
        query = "SELECT messages FROM packed WHERE last > ? ORDER BY last LIMIT 1"
        for (data,) in self._opened().execute(query, (after,)):
            return [message for message in self._unpacked(data) if message.cursor > after][:limit]
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
