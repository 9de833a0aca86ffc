"""What sealed history may forget, by class and size. Pure.

Owns: the rules. A rule looks at one segment and never makes a fold of what is left wrong: what is left out either
changes no state (`noted` events), or is a whole stream, from its first event to its last, of a kind whose ids are drawn
at random and so never live twice. The last event of a stream that goes on stays: it has the stream's version.
Refuses to know: files, when a segment is old.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from engine.aggregates.decider import Decider, Retention
from engine.archive.segment import Commit, Row
from engine.codec import EventCodec, LogError, topic_of


class Level(enum.IntEnum):
    """How much a segment has forgotten. LIVES: also whole lives of containers, networks and transfers."""

    EVERYTHING = 0
    LOW = 1
    LIVES = 2


MORTAL = frozenset({"container", "exec", "network", "transfer"})
"""Kinds whose streams, once ended, never go on: their ids are random."""


def forgettable(rows: Sequence[Row], deciders: Iterable[Decider[Any]], level: Level) -> set[int]:
    """Positions that a level leaves out of a segment with these rows."""
    if level is Level.EVERYTHING:
        return set()
    by_kind = {decider.name: decider for decider in deciders}
    low = {topic_of(event) for decider in by_kind.values() for event in decider.events if _is_low(event)}
    codec = EventCodec(event for decider in by_kind.values() for event in decider.events)
    streams: dict[str, list[Row]] = {}
    for row in rows:
        streams.setdefault(row[1], []).append(row)
    left_out: set[int] = set()
    for stream, own in streams.items():
        ended = _is_whole_life(stream, own, by_kind, codec)
        wholly_low = all(row[3] in low for row in own)
        if ended and (wholly_low or level is Level.LIVES):
            left_out.update(row[0] for row in own)
        elif not wholly_low:
            left_out.update(row[0] for row in own[:-1] if row[3] in low and _changes_nothing(row))
    return left_out


def without(commits: Iterable[Commit], left_out: Collection[int]) -> Iterable[Commit]:
    """The commits with fewer rows; leaves as they were."""
    for commit in commits:
        rows = [row for row in commit.rows if row[0] not in left_out]
        yield commit if len(rows) == len(commit.rows) else commit._replace(rows=rows)


def _is_low(event: type[msgspec.Struct]) -> bool:
    return getattr(event, "RETENTION", Retention.PERMANENT) is Retention.LOW


def _changes_nothing(row: Row) -> bool:
    return row[3].partition("@")[0].endswith(".noted")


def _is_whole_life(stream: str, own: Sequence[Row], deciders: Mapping[str, Decider[Any]], codec: EventCodec) -> bool:
    """Whether a stream has begun and ended here."""
    kind, _, key = stream.partition(":")
    decider = deciders.get(kind)
    if decider is None or kind not in MORTAL or own[0][2] != 1 or own[-1][2] != len(own):
        return False
    state = decider.initial(key)
    try:
        for row in own:
            state = decider.evolve(state, codec.decode(row[3], row[4])[2])
    except LogError:
        return False  # written by a newer engine: it is not ours to forget
    return bool(decider.terminal(state))
