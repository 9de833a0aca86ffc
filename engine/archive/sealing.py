"""Making segments: of rows of events.db, or of a segment that has more to say than it may keep.

Owns: reading the rows, writing the file so that it is whole or not there, and the program that does it beside the
engine (`python -m engine.archive.sealing`): half a second of hashing and compressing is nothing for the engine's
process, whose loop answers clients.
Refuses to know: when (keeper.py). Nothing here writes to events.db: until its manifest names a file, it is nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from engine.aggregates.catalog import ALL_DECIDERS
from engine.aggregates.decider import Decider
from engine.archive import states
from engine.archive.retention import Level, forgettable, without
from engine.archive.segment import Commit, SegmentError, encode, leaf_of
from engine.archive.store import FOLDER, Archive, Sealed, manifest
from engine.codec import LogError

Deciders = Sequence[Decider[Any]]


def seal_next(log: Path, events: int, deciders: Deciders = ALL_DECIDERS) -> Sealed | None:
    """Write the next segment of about so many events, whole commits, the newest commit never; None where there are not
    so many. Raises SegmentError when what is in the file is not what was sealed, OSError, sqlite3.Error."""
    with _opened(log) as connection:
        archive = _archive(log, connection)
        commits = list(_commits(connection, archive.floor, events))
    if not commits:
        return None
    segment = _write(archive, commits, archive.seal, Level.EVERYTHING)
    with contextlib.suppress(OSError):
        living = states.living_at(archive, deciders, archive.floor)
        living.fold(row for commit in commits for row in commit.rows)
        states.save(living, segment, archive.path(segment), deciders)
    return segment


def restate(log: Path, deciders: Deciders = ALL_DECIDERS) -> None:
    """Write the state snapshots that segments keep, by the code that folds now. Raises LogError, OSError."""
    with _opened(log) as connection:
        archive = _archive(log, connection)
    superfluous = frozenset(states.superfluous(archive.segments))
    living = states.Living(deciders)
    for segment in archive.segments:
        living.fold(archive.rows(segment.first, segment.last))
        if segment not in superfluous:
            states.save(living, segment, archive.path(segment), deciders)


def thin(log: Path, first: int, level: Level, deciders: Deciders = ALL_DECIDERS) -> Sealed:
    """Write the segment that begins at a position anew, without what a level leaves out. Raises as `seal_next`."""
    with _opened(log) as connection:
        archive = _archive(log, connection)
    segment = next(segment for segment in archive.segments if segment.first == first)
    file = archive.file(segment)
    commits = [commit for place in file.index.blocks for commit in file.commits(place)]
    rows = [row for commit in commits for row in commit.rows]
    left = without(commits, forgettable(rows, deciders, level))
    made = _write(archive, left, file.index.blocks[0].seal, level)
    if made.seal != segment.seal:
        raise SegmentError(f"{file.path} is not what was sealed: it is left as it is")
    with contextlib.suppress(OSError):
        snapshot = archive.path(segment).with_suffix(states.SUFFIX)
        os.replace(snapshot, archive.path(made).with_suffix(states.SUFFIX))
    return made


def _write(archive: Archive, commits: Iterable[Commit], seal: bytes, level: Level) -> Sealed:
    """The file under its name, on disk with its folder."""
    data, index = encode(commits, seal)
    segment = Sealed(
        first=index.first,
        last=index.last,
        events=index.events,
        size=len(data),
        seal=index.seal,
        digest=hashlib.sha256(data).digest(),
        thinned=level,
    )
    archive.folder.mkdir(mode=0o700, exist_ok=True)
    temporary = archive.folder / f"{segment.name}.new"
    fd = os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, archive.path(segment))
    for folder in (archive.folder, archive.folder.parent):
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    return segment


def _commits(connection: sqlite3.Connection, floor: int, events: int) -> Iterator[Commit]:
    """Commits past the floor, up to `events` events; nothing when there are fewer. Each is compared with its leaves:
    what is damaged is not sealed, for the file would bury it."""
    newest = connection.execute("SELECT MAX(first) FROM chain").fetchone()[0] or 0
    statement = "SELECT first, last, leaves FROM chain WHERE first>? AND first<? ORDER BY first"
    spans: list[tuple[int, int, bytes]] = []
    for first, last, leaves in connection.execute(statement, (floor, newest)):
        spans.append((first, last, leaves))
        if last - floor >= events:
            break
    if not spans or spans[-1][1] - floor < events:
        return
    statement = (
        "SELECT rowid, originator_id, originator_version, topic, state FROM stored_events"
        " WHERE rowid>? AND rowid<=? ORDER BY rowid"
    )
    rows = connection.execute(statement, (floor, spans[-1][1])).fetchall()
    for first, last, leaves in spans:
        own = rows[first - floor - 1 : last - floor]
        if b"".join(leaf_of(row) for row in own) != leaves:
            raise SegmentError(f"positions {first} to {last} are not what was recorded: they are not sealed")
        yield Commit(first, last, own, leaves)


def _archive(log: Path, connection: sqlite3.Connection) -> Archive:
    archive = Archive(log.parent / FOLDER)
    archive.use(manifest(connection))
    return archive


@contextlib.contextmanager
def _opened(log: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(f"file:{quote(str(log))}?mode=ro", uri=True)
    try:
        connection.execute("BEGIN")
        yield connection
    finally:
        connection.close()


def main() -> int:
    """One segment; what the manifest is to say as JSON on standard output."""
    parser = argparse.ArgumentParser(prog="engine.archive.sealing")
    parser.add_argument("log", type=Path)
    parser.add_argument("--events", type=int, default=0, help="seal so many")
    parser.add_argument("--thin", type=int, default=0, help="write the segment that begins here anew")
    parser.add_argument("--states", action="store_true", help="write the state snapshots anew")
    parser.add_argument("--level", type=int, default=0, help="of what to leave out")
    arguments = parser.parse_args()
    os.nice(10)
    try:
        made: Sealed | None = None
        if arguments.states:
            restate(arguments.log)
        elif arguments.thin:
            made = thin(arguments.log, arguments.thin, Level(arguments.level))
        else:
            made = seal_next(arguments.log, arguments.events)
    except (LogError, OSError, sqlite3.Error) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.buffer.write(msgspec.json.encode(made))
    return 0


if __name__ == "__main__":
    sys.exit(main())
