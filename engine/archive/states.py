"""State snapshots between segments: every living state at the end of a segment, so that a fold need not begin at 1.

Disposable and derived, as views.db: a snapshot is believed only when it is of this very log, and of each aggregate only
when this very code made its states; what is missing is folded from the one before. Refuses to know: what states mean.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from engine.aggregates.decider import Decider, Event
from engine.archive.segment import Row
from engine.archive.store import Archive, Sealed
from engine.codec import EventCodec, UnknownEventError
from engine.fingerprint import fingerprint_of

SUFFIX = ".states"
NEWEST_KEPT, EVERY_KEPT = 4, 4
"""Of the newest segments each keeps its snapshot, of older ones every fourth."""


class _Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """fingerprints: of the code that made each aggregate's states."""

    position: int
    seal: bytes
    fingerprints: dict[str, str]
    states: dict[str, dict[str, msgspec.Raw]]


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What a snapshot has of one aggregate: states by key as stored, in the order in which they began."""

    position: int
    states: Mapping[str, msgspec.Raw]


class Living:
    """States of all streams of some aggregates that have begun and not ended, by stream, in the order in which they
    began within each. since: up to where each aggregate is folded already, while others are caught up."""

    def __init__(self, deciders: Iterable[Decider[Any]]) -> None:
        self.deciders = {decider.name: decider for decider in deciders}
        self.codec = EventCodec(event for decider in self.deciders.values() for event in decider.events)
        self.position = 0
        self.states: dict[str, Any] = {}
        self.since = dict.fromkeys(self.deciders, 0)

    def use(self, kind: str, kept: Kept) -> None:
        """Begin with what a snapshot has of an aggregate. Raises msgspec.MsgspecError."""
        decoder = msgspec.msgpack.Decoder(type(self.deciders[kind].initial("")))
        self.states.update({f"{kind}:{key}": decoder.decode(state) for key, state in kept.states.items()})
        self.since[kind] = kept.position

    def fold(self, rows: Iterable[Row]) -> None:
        """Take further rows. What this version does not know is left out. Raises LogError for damage."""
        for position, stream, _, topic, state in rows:
            self.position = position
            if self.since.get(stream.partition(":")[0], position) < position:
                with contextlib.suppress(UnknownEventError):
                    self.take(stream, self.codec.decode(topic, state)[2])

    def take(self, stream: str, event: Event) -> None:
        kind, _, key = stream.partition(":")
        decider = self.deciders.get(kind)
        if decider is None:
            return
        before = self.states.get(stream)
        after = decider.evolve(decider.initial(key) if before is None else before, event)
        if decider.terminal(after):
            self.states.pop(stream, None)
        else:
            self.states[stream] = after


def living_at(archive: Archive, deciders: Sequence[Decider[Any]], position: int) -> Living:
    """What lived of some aggregates at a sealed position, or at the floor when it lies behind it. Blocking; raises
    LogError."""
    living = Living(deciders)
    for kind, kept in kept_before(archive, deciders, position).items():
        with contextlib.suppress(msgspec.MsgspecError):
            living.use(kind, kept)
    living.fold(archive.rows(min(living.since.values(), default=0) + 1, position))
    living.position = min(position, archive.floor)
    return living


def kept_before(archive: Archive, deciders: Sequence[Decider[Any]], position: int) -> dict[str, Kept]:
    """Of each aggregate the newest snapshot at or before a position that is to be believed. Blocking."""
    wanted = {decider.name: fingerprint_of(decider) for decider in deciders}
    found: dict[str, Kept] = {}
    for segment in reversed(archive.segments):
        if len(found) == len(wanted):
            break
        snapshot = _read(archive.path(segment), segment) if segment.last <= position else None
        if snapshot is not None:
            for kind in wanted.keys() - found.keys():
                if snapshot.fingerprints.get(kind) == wanted[kind]:
                    found[kind] = Kept(position=segment.last, states=snapshot.states.get(kind, {}))
    return found


def outdated(archive: Archive, deciders: Sequence[Decider[Any]]) -> bool:
    """Whether other code has made what the newest segment keeps: what is asked of the past would be folded from far
    back. Blocking."""
    if not archive.segments:
        return False
    kept = kept_before(archive, deciders, archive.floor)
    return any(decider.name not in kept or kept[decider.name].position < archive.floor for decider in deciders)


def save(living: Living, segment: Sealed, path: Path, deciders: Sequence[Decider[Any]]) -> None:
    """Write the snapshot of a segment's end beside it. Losing it costs time, no truth."""
    import zstandard

    states: dict[str, dict[str, Any]] = {}
    for stream, state in living.states.items():
        kind, _, key = stream.partition(":")
        states.setdefault(kind, {})[key] = state
    encode = msgspec.msgpack.encode
    document = {
        "position": segment.last,
        "seal": segment.seal,
        "fingerprints": {decider.name: fingerprint_of(decider) for decider in deciders},
        "states": states,
    }
    temporary = path.with_suffix(".states.new")
    temporary.write_bytes(zstandard.ZstdCompressor(level=9, write_checksum=True).compress(encode(document)))
    os.replace(temporary, path.with_suffix(SUFFIX))


def superfluous(segments: Sequence[Sealed]) -> list[Sealed]:
    """Segments whose snapshots may go."""
    old = segments[:-NEWEST_KEPT]
    return [segment for index, segment in enumerate(old) if (index + 1) % EVERY_KEPT]


def _read(path: Path, segment: Sealed) -> _Snapshot | None:
    """A segment's snapshot, if there is one of this log."""
    import zstandard

    try:
        data = zstandard.ZstdDecompressor().decompress(path.with_suffix(SUFFIX).read_bytes())
        snapshot = msgspec.msgpack.decode(data, type=_Snapshot)
    except (OSError, ValueError, zstandard.ZstdError, msgspec.MsgspecError):
        return None
    return snapshot if (snapshot.position, snapshot.seal) == (segment.last, segment.seal) else None
