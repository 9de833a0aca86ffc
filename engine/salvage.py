"""What is left of a damaged log: every event up to the first that does not prove itself, folded into fresh views.

Owns: the walk through segments and commits, the sentence that says from where on something is wrong, and the stand-in
for the application of an engine that only reads. Refuses to know: what becomes of it; nothing here changes a file.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import trio

from engine import chain
from engine.aggregates.catalog import ALL_DECIDERS
from engine.aggregates.decider import Command, Recorded
from engine.archive.segment import Commit, Row, SegmentError, leaf_of
from engine.archive.store import FOLDER, Archive, manifest
from engine.bisection import position_before
from engine.checkpoints import LiveStreams
from engine.codec import EventCodec, LogError
from engine.errors import Fault, PortError
from engine.folds import Fold, key_of, kind_of
from engine.projections.base import Projection
from engine.pump import Pump

_ROWS = (
    "SELECT rowid, originator_id, originator_version, topic, state FROM stored_events"
    " WHERE rowid>=? AND rowid<=? ORDER BY rowid"
)


class Salvaged(msgspec.Struct, frozen=True, kw_only=True):
    """position: of the last event that is whole; statement: what is damaged, from where."""

    position: int
    statement: str


def salvage(folder: Path, projections: Sequence[Projection], why: str) -> Salvaged:
    """Fold what is whole. why: what the log was refused for. Blocking; never raises for damage."""
    codec = EventCodec(event for decider in ALL_DECIDERS for event in decider.events)
    views = (*projections, LiveStreams({decider.name: decider for decider in ALL_DECIDERS}))
    position, how = 0, why
    try:
        for commit in _commits(folder):
            for row in commit.rows:
                recorded = _recorded(codec, row)
                for view in views:
                    view.apply(recorded)
            position = commit.last
    except (LogError, sqlite3.Error, OSError, LookupError, TypeError, ValueError, AssertionError) as error:
        how = str(error) or why
    return Salvaged(
        position=position,
        statement=f"the log in {folder} is damaged behind position {position}: {how}. Nothing can be changed until it "
        "is restored or mended; `replay verify` tells more, containers run on",
    )


def _recorded(codec: EventCodec, row: Row) -> Recorded:
    position, stream, version, topic, state = row
    time_ns, cause, event = codec.decode(topic, state)
    return Recorded(position=position, stream=stream, version=version, time_ns=time_ns, cause=cause, event=event)


def _readable(folder: Path) -> contextlib.closing[sqlite3.Connection]:
    """The log's file, not to be changed."""
    address = f"file:{quote(str(folder / 'events.db'))}?mode=ro"
    return contextlib.closing(sqlite3.connect(address, uri=True))


def _commits(folder: Path) -> Iterator[Commit]:
    """Whole commits in order. Raises at the first that is not."""
    with _readable(folder) as connection:
        archive = Archive(folder / FOLDER)
        archive.use(manifest(connection))
        yield from _sealed(archive)
        seal = archive.seal
        statement = "SELECT first, last, leaves, seal FROM chain WHERE first>? ORDER BY first"
        expected = archive.floor + 1
        for first, last, leaves, sealed in connection.execute(statement, (archive.floor,)):
            rows = connection.execute(_ROWS, (first, last)).fetchall()
            actual = b"".join(leaf_of(row) for row in rows)
            seal = chain.seal(seal, first, last, actual)
            if first != expected or actual != leaves or seal != sealed:
                raise LogError(f"positions {first} to {last} are not what was recorded")
            yield Commit(first, last, rows, leaves)
            expected = last + 1


def _sealed(archive: Archive) -> Iterator[Commit]:
    seal = chain.GENESIS
    for segment in archive.segments:
        for place in archive.file(segment).index.blocks:
            commits = archive.file(segment).commits(place)
            if place.seal != seal:
                raise SegmentError(f"{archive.path(segment)} does not go on where the one before it ends")
            for commit in commits:
                seal = chain.seal(seal, commit.first, commit.last, commit.leaves)
            yield from commits
        if seal != segment.seal:
            raise SegmentError(f"{archive.path(segment)} is not what was sealed")


class ReadOnlyLog:
    """In the application's place: reads what is whole, and writes nothing."""

    def __init__(self, folder: Path, salvaged: Salvaged) -> None:
        self._folder = folder
        self._statement = salvaged.statement
        self._deciders = {decider.name: decider for decider in ALL_DECIDERS}
        self._codec = EventCodec(event for decider in ALL_DECIDERS for event in decider.events)
        self.position = salvaged.position
        self.archive = Archive(folder / FOLDER)
        with contextlib.suppress(sqlite3.Error, SegmentError), _readable(folder) as connection:
            self.archive.use(manifest(connection))
        self.pump = Pump(
            read=lambda after, limit: (), fold=self._fold, ended=lambda stream, state: False,
            limiter=trio.CapacityLimiter(1),
        )  # fmt: skip

    async def execute(self, *commands: Command, cause: Any) -> Any:
        raise self._refusal()

    def read(self, after: int, limit: int) -> list[Recorded]:
        """As of the application, up to where the log is whole. Blocks."""
        last = min(after + limit, self.position)
        floor = min(self.archive.floor, last)
        try:
            rows = list(self.archive.rows(after + 1, floor)) if after < floor else []
            with _readable(self._folder) as connection:
                rows += connection.execute(_ROWS, (max(after, floor) + 1, last)).fetchall()
        except (sqlite3.Error, SegmentError) as error:
            raise self._refusal() from error
        return [_recorded(self._codec, row) for row in rows]

    def position_before(self, time_ns: int) -> int:
        return position_before(self.read, self.position, time_ns)

    def state(self, kind: str, key: str) -> Any:
        return self._deciders[kind].initial(key)

    newest = state

    def live(self, kind: str) -> tuple[str, ...]:
        return ()

    def _fold(self, stream: str) -> Fold:
        return Fold(self.state(kind_of(stream), key_of(stream)), 0)

    def _refusal(self) -> PortError:
        return PortError("read or write the log", self._statement, fault=Fault.UNAVAILABLE)
