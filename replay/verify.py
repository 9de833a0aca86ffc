"""`replay verify`: does the log prove itself?

Owns: recomputing the chain (engine/chain.py) from the stored bytes, and naming what does not fit, by position.
Refuses to know: what events say; a row is bytes here, so that damaged ones can still be looked at.

Every event is hashed and compared with its leaf, every commit with its seal. Where they differ, the seal decides
whether the event or the leaf was changed. An event found under another leaf was moved. SQLite's own structures (pages,
indexes) are checked too. Rows are read one by one where SQLite calls the file malformed.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from engine import chain
from engine.archive.segment import SegmentError
from engine.archive.store import FOLDER, Archive, manifest
from replay import segments
from replay.reader import UNREADABLE, open_read_only

FINDINGS_MAX = 200

_EVENTS = (
    "SELECT rowid, originator_id, originator_version, topic, state,"
    " typeof(originator_id)='text' AND typeof(originator_version)='integer'"
    " AND typeof(topic)='text' AND typeof(state)='blob' FROM stored_events"
)
_CHAIN = (
    "SELECT first, last, leaves, seal,"
    " typeof(first)='integer' AND typeof(last)='integer' AND typeof(leaves)='blob' AND typeof(seal)='blob' FROM chain"
)


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something that does not fit. position: the first event concerned, 0 where none can be named. kind: `changed`,
    `lost`, `inserted`, `moved` (events), `chain` (the proof itself), `tail` (the end is missing), `file` (SQLite),
    `segment` (a file of the archive)."""

    position: int
    kind: str
    message: str


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """The result. seal: hexadecimal, of the last commit; keep it elsewhere to catch a rewritten chain."""

    events: int
    commits: int
    position: int
    seal: str
    findings: tuple[Finding, ...]

    @property
    def whole(self) -> bool:
        return not self.findings


class _Commit(NamedTuple):
    first: int
    last: int
    leaves: bytes
    seal: bytes


def verify(
    path: Path, *, expect: Sequence[tuple[int, str]] = (), views: Path | None = None, processes: int = 1
) -> Verification:
    """Check a log file. expect: (position, seal) of heads noted earlier. views: a views.db whose head is compared.
    processes: that share a long archive; they are forked, so whoever has threads has one.
    Raises OSError when there is no file to read; damage is never an exception."""
    # Read first: the views of a living engine only ever remember what its log already holds.
    remembered = _head_of(views) if views is not None else None
    wanted = frozenset(position for position, _ in (*expect, *((remembered,) if remembered else ())))
    with contextlib.ExitStack() as stack:
        checker = _Checker()
        try:
            connection = stack.enter_context(contextlib.closing(open_read_only(path, stack)))
            connection.text_factory = bytes
            # One snapshot for chain and events, whatever a living engine appends meanwhile.
            connection.execute("BEGIN")
            checker.check_archive(Archive(path.parent / FOLDER), connection, wanted, processes)
            checker.check(connection)
        except (*UNREADABLE, TypeError, ValueError, OverflowError) as error:
            # A damaged schema makes columns of other types, or other columns; nothing more can be said by position.
            checker.find(0, "file", f"the log can not be read as one: {error}")
        for position, seal in expect:
            checker.compare_head(position, seal, origin="the expected head")
        if remembered is not None:
            checker.compare_head(*remembered, origin="views.db")
        return checker.result()


class _Checker:
    """One walk over one log."""

    def __init__(self) -> None:
        self._findings: list[Finding] = []
        self._actual: dict[int, bytes] = {}
        self._commits: list[_Commit] = []
        self._seals: dict[int, bytes] = {0: chain.GENESIS}
        self._unproven: set[int] = set()
        self._floor, self._floor_seal = 0, chain.GENESIS
        self._sealed_events = self._sealed_commits = 0

    def find(self, position: int, kind: str, message: str) -> None:
        if len(self._findings) < FINDINGS_MAX:
            self._findings.append(Finding(position=position, kind=kind, message=message))

    def check_archive(
        self, archive: Archive, connection: sqlite3.Connection, wanted: frozenset[int], processes: int
    ) -> None:
        """Sealed history first: the chain in the file goes on where it ends."""
        try:
            archive.use(manifest(connection))
        except SegmentError as error:
            self.find(0, "segment", str(error))
            return
        walked = segments.walk(archive, self.find, wanted=wanted, processes=processes)
        self._floor, self._floor_seal = archive.floor, archive.seal
        self._sealed_events, self._sealed_commits = walked.events, walked.commits
        self._seals.update(walked.seals)

    def check(self, connection: sqlite3.Connection) -> None:
        self._read_commits(connection)
        self._read_events(connection)
        self._check_seals()
        self._check_events()
        self._check_structure(connection)

    def result(self) -> Verification:
        last = self._commits[-1] if self._commits else _Commit(0, self._floor, b"", self._floor_seal)
        return Verification(
            events=self._sealed_events + len(self._actual),
            commits=self._sealed_commits + len(self._commits),
            position=max(self._actual, default=self._floor),
            seal=last.seal.hex(),
            findings=tuple(sorted(self._findings, key=lambda finding: finding.position or 1 << 62)),
        )

    def compare_head(self, position: int, seal: str, *, origin: str) -> None:
        """A head seen earlier must still be the end of a commit here, with the same seal."""
        here = self._seals.get(position)
        last = self._commits[-1].last if self._commits else self._floor
        if position > last:
            self.find(last + 1, "tail", f"{origin} has seen position {position}; the log ends at {last}")
        elif here is None or here.hex() != seal:
            self.find(position, "changed", f"history up to here was rewritten: its seal is not that of {origin}")

    def _read_commits(self, connection: sqlite3.Connection) -> None:
        expected = self._floor + 1
        for first, last, leaves, seal, typed in _rows(connection, _CHAIN, "first", self._unreadable_chain):
            if typed and last <= self._floor:
                continue  # sealed, and about to be deleted
            count = last - first + 1 if typed else 0
            if count < 1 or len(leaves) != count * chain.HASH_BYTES or len(seal) != chain.HASH_BYTES:
                self.find(first if typed else expected, "chain", "the chain's row that should begin here is damaged")
                continue
            if first != expected:
                self._skip(expected, first)
            self._commits.append(_Commit(first, last, leaves, seal))
            expected = last + 1

    def _skip(self, expected: int, first: int) -> None:
        """Commits without a (readable) row in the chain: nothing can be said about their events."""
        self.find(min(first, expected), "chain", f"the chain goes on at {first} where {expected} comes next")
        self._unproven.update(range(expected, first))

    def _read_events(self, connection: sqlite3.Connection) -> None:
        for position, stream, version, topic, state, typed in _rows(
            connection, _EVENTS, "rowid", self._unreadable_event
        ):
            if position <= self._floor:
                continue
            self._actual[position] = chain.leaf(stream, version, topic, state) if typed and version >= 0 else b""

    def _unreadable_event(self, position: int, error: str) -> None:
        self.find(position, "file", f"SQLite can not read the row: {error}")

    def _unreadable_chain(self, position: int, error: str) -> None:
        self.find(position, "chain", f"SQLite can not read the chain's row: {error}")

    def _check_seals(self) -> None:
        """Decide between event, leaf and seal; `self._commits` leaves with the leaves that the seals vouch for."""
        # A seal that was changed would condemn the next commit too: what it should have been is tried as well.
        candidates: tuple[bytes, ...] = (self._floor_seal,)
        for index, commit in enumerate(self._commits):
            if commit.first - 1 in self._unproven:
                # The seal before is not known: this one is taken as it is, the gap is reported already.
                candidates = self._without_predecessor(commit)
                continue
            span = range(commit.first, commit.last + 1)
            actual = b"".join(self._actual.get(position, b"") for position in span)
            fits = [p for p in candidates if chain.seal(p, commit.first, commit.last, commit.leaves) == commit.seal]
            fits_actual = [p for p in candidates if chain.seal(p, commit.first, commit.last, actual) == commit.seal]
            self._seals[commit.last] = commit.seal
            if fits:
                candidates = (commit.seal,)
            elif fits_actual:
                for position in self._differing(commit):
                    self.find(position, "chain", "the event is as it was sealed, its leaf in the chain was changed")
                self._commits[index] = commit._replace(leaves=actual)
                candidates = (commit.seal,)
            else:
                self.find(commit.first, "chain", f"the seal over {commit.first} to {commit.last} does not fit")
                rebuilt = [
                    chain.seal(p, commit.first, commit.last, leaves)
                    for p in candidates
                    for leaves in (commit.leaves, actual)
                ]
                candidates = (commit.seal, *rebuilt)

    def _without_predecessor(self, commit: _Commit) -> tuple[bytes, ...]:
        self._seals[commit.last] = commit.seal
        return (commit.seal,)

    def _differing(self, commit: _Commit) -> Iterator[int]:
        for position, leaf in enumerate(chain.split_leaves(commit.leaves), commit.first):
            if self._actual.get(position) != leaf:
                yield position

    def _check_events(self) -> None:
        expected = {
            position: leaf
            for commit in self._commits
            for position, leaf in enumerate(chain.split_leaves(commit.leaves), commit.first)
        }
        positions = sorted((expected.keys() | self._actual.keys()) - self._unproven)
        wrong = [position for position in positions if expected.get(position) != self._actual.get(position)]
        belongs = {expected[p]: p for p in wrong if p in expected}
        found = {self._actual[p]: p for p in wrong if p in self._actual}
        for position in wrong:
            self._judge(position, expected.get(position), self._actual.get(position), belongs, found)

    def _judge(
        self,
        position: int,
        expected: bytes | None,
        actual: bytes | None,
        belongs: dict[bytes, int],
        found: dict[bytes, int],
    ) -> None:
        origin = belongs.get(actual) if actual is not None else None
        moved_to = found.get(expected) if expected is not None else None
        if actual is None:
            where = f"; it is now at {moved_to}" if moved_to is not None else ""
            self.find(position, "moved" if where else "lost", f"the event recorded here is gone{where}")
        elif origin is not None:
            self.find(position, "moved", f"here is the event that was recorded at {origin}")
        elif expected is None:
            self.find(position, "inserted", "this event was never sealed")
        elif moved_to is not None:
            self.find(position, "inserted", f"this event was never sealed; the one recorded here is at {moved_to}")
        else:
            self.find(position, "changed", "the event is not what was recorded")

    def _check_structure(self, connection: sqlite3.Connection) -> None:
        """SQLite's pages and the index by stream: damage there makes true rows invisible to some readers."""
        try:
            said = [row[0].decode(errors="replace") for row in connection.execute("PRAGMA integrity_check(10)")]
        except UNREADABLE as error:
            said = [str(error)]
        if said == ["ok"]:
            return
        for position in self._lost_from_index(connection):
            self.find(position, "file", "the index by stream does not lead to this event")
        for message in said:
            self.find(0, "file", f"SQLite: {message}")

    def _lost_from_index(self, connection: sqlite3.Connection) -> Iterator[int]:
        lookup = "SELECT rowid FROM stored_events INDEXED BY sqlite_autoindex_stored_events_1 WHERE originator_id=CAST(? AS TEXT) AND originator_version=?"  # noqa: E501
        for position, stream, version, *_ in _rows(connection, _EVENTS, "rowid", lambda position, error: None):
            with contextlib.suppress(*UNREADABLE):
                if connection.execute(lookup, (stream, version)).fetchall() != [(position,)]:
                    yield position


def _rows(connection: sqlite3.Connection, statement: str, key: str, unreadable: Any) -> Iterator[tuple[Any, ...]]:
    """All rows in order of their key. Where SQLite gives up, on from the next key that it can find."""
    last = 0
    cursor = connection.execute(f"{statement} ORDER BY {key}")
    while True:
        try:
            row = cursor.fetchone()
        except UNREADABLE as error:
            unreadable(last + 1, str(error))
            yield from _one_by_one(connection, statement, key, last + 2, unreadable)
            return
        if row is None:
            return
        last = row[0] if isinstance(row[0], int) else last
        yield row


def _one_by_one(
    connection: sqlite3.Connection, statement: str, key: str, start: int, unreadable: Any
) -> Iterator[tuple[Any, ...]]:
    """The rest, row by row, until a long stretch has nothing readable in it."""
    position, silent = start, 0
    while silent < FINDINGS_MAX:
        try:
            row = connection.execute(f"{statement} WHERE {key}=?", (position,)).fetchone()
        except UNREADABLE as error:
            unreadable(position, str(error))
            row = None
        silent = 0 if row is not None else silent + 1
        if row is not None:
            yield row
        position += 1


def _head_of(views: Path) -> tuple[int, str] | None:
    """The head that views.db remembers; None when it has none to offer."""
    with contextlib.ExitStack() as stack, contextlib.suppress(*UNREADABLE, OSError):
        connection = stack.enter_context(contextlib.closing(open_read_only(views, stack)))
        row = connection.execute("SELECT position, seal FROM head").fetchone()
        match row:
            case int(position), bytes(seal):  # torn pages are read as rows of nulls
                return position, seal.hex()
    return None
