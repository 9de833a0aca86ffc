"""What a projection is, and where its state rests between two lives of the engine.

Owns: the `Projection` protocol, `ViewStore` (views.db: checkpoints of projections, state snapshots of streams, the head
of the log as last seen), and `restore`, which gives projections what is there of theirs.
Refuses to know: what a view means, how the log is written and read.

A projection is a pure fold in memory. Its checkpoint is an optimisation: it is used only when it was made by the same
code, from this very log (the seal of the log at its position is compared), and its digest is right. Everything else is
folded anew. Deleting views.db loses nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import msgspec
import sqlite_utils

from engine.aggregates.decider import Event, Recorded


class Projection(Protocol):
    """A read model: a pure fold of the log, kept in memory.

    `apply` is called once for every event of its kinds, in order, and must neither block nor fail. `dump` gives the
    whole state as something msgpack can encode; it is encoded later in another thread, so it must be made of frozen
    values or fresh containers. `restore` gets those bytes back; an exception means "fold anew", after `reset`.
    """

    @property
    def name(self) -> str:
        """Unique among projections; the key of the checkpoint."""
        ...

    @property
    def kinds(self) -> frozenset[str]:
        """The aggregates whose events it is told of; empty for all of them."""
        ...

    def apply(self, recorded: Recorded) -> None: ...

    def dump(self) -> object: ...

    def restore(self, dumped: bytes) -> None: ...

    def reset(self) -> None: ...


@runtime_checkable
class Spilling(Protocol):
    """A projection that keeps most of itself in a file of its own."""

    def spill(self) -> None:
        """Move what has gathered in memory to the file. Called while the projection catches up with a long history,
        between two batches of it; blocking."""
        ...


@runtime_checkable
class Choosing(Protocol):
    """A projection that is told of some events of its kinds only."""

    @property
    def chosen(self) -> Collection[type[Event]]: ...


def follows(projection: Projection, kind: str, event: type[Event]) -> bool:
    """Whether it is told of an aggregate's event."""
    if projection.kinds and kind not in projection.kinds:
        return False
    return not isinstance(projection, Choosing) or event in projection.chosen


class View(msgspec.Struct, frozen=True, kw_only=True):
    """One thing at rest in views.db. seal: of the log at `position`. fingerprint: of the code that made it."""

    name: str
    position: int
    seal: bytes
    fingerprint: str
    data: bytes


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """Where the log ended when views.db was last written."""

    position: int
    seal: bytes


class Rest(NamedTuple):
    """Something derived, to rest in views.db. version: of a stream, 0 of a projection; fingerprint: of its code."""

    version: int
    fingerprint: str
    state: object


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Everything derived that is to rest in views.db, as of `head`. views: by projection; snapshots: by stream;
    ended: streams whose snapshots are of no more use."""

    head: Head
    views: Mapping[str, Rest]
    snapshots: Mapping[str, Rest]
    ended: tuple[str, ...]


_VIEWS = {"name": str, "position": int, "seal": bytes, "fingerprint": str, "data": bytes, "digest": bytes}
_SNAPSHOTS = {"stream": str, "version": int, "fingerprint": str, "data": bytes, "digest": bytes}
_HEAD = {"id": int, "position": int, "seal": bytes}


class ViewStore:
    """views.db. Every verb blocks; a damaged or missing file reads as empty and is made anew when written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database: sqlite_utils.Database | None = None
        self._reader: sqlite_utils.Database | None = None
        self._snapshotted: set[str] = set()
        """Streams that have a snapshot: most have none, and are looked for whenever one begins."""

    def open(self) -> None:
        """Open or make the file. Idempotent."""
        try:
            self._open()
        except sqlite3.DatabaseError:
            self._discard()
            self._open()

    def close(self) -> None:
        for database in (self._database, self._reader):
            if database is not None:
                database.conn.close()
        self._database = self._reader = None

    def views(self) -> dict[str, View]:
        """All checkpoints whose bytes are whole, by name."""
        rows = self._query("SELECT name, position, seal, fingerprint, data, digest FROM views")
        return {
            row["name"]: View(**{key: row[key] for key in View.__struct_fields__})
            for row in rows
            if _is_whole(row, _VIEWS) and _digest(row["name"], row["position"], row["data"]) == row["digest"]
        }

    def snapshot(self, stream: str, fingerprint: str) -> tuple[int, bytes] | None:
        """(version, state bytes) of a stream's snapshot, if this code made it."""
        if stream not in self._snapshotted:
            return None
        rows = self._query("SELECT * FROM state_snapshots WHERE stream=? AND fingerprint=?", stream, fingerprint)
        for row in rows:
            if _is_whole(row, _SNAPSHOTS) and _digest(stream, row["version"], row["data"]) == row["digest"]:
                return row["version"], row["data"]
        return None

    def head(self) -> Head | None:
        for row in self._query("SELECT * FROM head"):
            if _is_whole(row, _HEAD):
                return Head(position=row["position"], seal=row["seal"])
        return None

    def save(self, checkpoint: Checkpoint) -> None:
        """Encode and store everything as one transaction. Blocking, meant for a thread; raises sqlite3.Error."""
        encode = msgspec.msgpack.Encoder().encode
        head = checkpoint.head
        views = []
        for name, view in checkpoint.views.items():
            data = encode(view.state)
            digest = _digest(name, head.position, data)
            views.append((name, head.position, head.seal, view.fingerprint, data, digest))
        snapshots = []
        for stream, fold in checkpoint.snapshots.items():
            data = encode(fold.state)
            snapshots.append((stream, fold.version, fold.fingerprint, data, _digest(stream, fold.version, data)))
        ended = [(stream,) for stream in checkpoint.ended]
        self._snapshotted.update(checkpoint.snapshots)
        with self._opened.conn as transaction:
            transaction.executemany("INSERT OR REPLACE INTO views VALUES (?,?,?,?,?,?)", views)
            transaction.executemany("INSERT OR REPLACE INTO state_snapshots VALUES (?,?,?,?,?)", snapshots)
            transaction.executemany("DELETE FROM state_snapshots WHERE stream=?", ended)
            transaction.execute("INSERT OR REPLACE INTO head VALUES (1,?,?)", (head.position, head.seal))

    def clear(self) -> None:
        """Forget everything: the log is another one than these views were folded from."""
        self.close()
        self._discard()
        self._open()

    @property
    def _opened(self) -> sqlite_utils.Database:
        assert self._database is not None, "the view store is not open"
        return self._database

    def _open(self) -> None:
        if self._database is not None:
            return
        database = self._connect()
        try:
            database.table("views").create(_VIEWS, pk="name", if_not_exists=True)
            database.table("state_snapshots").create(_SNAPSHOTS, pk="stream", if_not_exists=True)
            database.table("head").create(_HEAD, pk="id", if_not_exists=True)
            # The loop looks up snapshots while a thread writes: each has a connection, nobody waits for the other.
            self._reader = self._connect()
        except BaseException:
            database.conn.close()
            raise
        self._database = database
        self._snapshotted = {row["stream"] for row in self._query("SELECT stream FROM state_snapshots")}

    def _connect(self) -> sqlite_utils.Database:
        connection = sqlite3.connect(self._path, check_same_thread=False)
        try:
            # Losing views.db costs time, not truth: no commit here ever waits for the disk.
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=OFF")
        except BaseException:
            connection.close()
            raise
        return sqlite_utils.Database(connection)

    def _discard(self) -> None:
        self.close()
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self._path}{suffix}").unlink(missing_ok=True)

    def _query(self, statement: str, *parameters: object) -> list[dict[str, Any]]:
        try:
            reader = self._reader
            assert reader is not None, "the view store is not open"
            return list(reader.query(statement, parameters))
        except sqlite3.DatabaseError:
            self.clear()
            return []


def _is_whole(row: Mapping[str, object], columns: Mapping[str, type]) -> bool:
    """Whether everything is there. SQLite reads a sector that a failure of the power left empty as a row of nulls."""
    return all(isinstance(row[name], kind) for name, kind in columns.items())


SealAt = Callable[[int], bytes | None]


def restore(
    projections: Sequence[Projection], store: ViewStore, *, fingerprints: Mapping[str, str], seal_at: SealAt
) -> dict[str, int]:
    """Give every projection its checkpoint; the position of each (0: it is empty). fingerprints: by projection."""
    views = store.views()
    return {
        projection.name: _restore_one(projection, views, fingerprints[projection.name], seal_at)
        for projection in projections
    }


def _restore_one(projection: Projection, views: Mapping[str, View], fingerprint: str, seal_at: SealAt) -> int:
    view = views.get(projection.name)
    if view is not None and view.fingerprint == fingerprint and seal_at(view.position) == view.seal:
        with contextlib.suppress(Exception):
            projection.restore(view.data)
            return view.position
    projection.reset()
    return 0


def _digest(name: str, position: int, data: bytes) -> bytes:
    return hashlib.sha256(b"%s\0%d\0" % (name.encode(), position) + data).digest()
