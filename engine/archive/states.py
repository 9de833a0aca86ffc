"""State snapshots between segments: every living state at the end of a segment, so that a fold need not begin at 1.

Disposable and derived, as views.db: a snapshot is believed only when this very code made it, of this very log, and a
missing one is folded from the one before it. Refuses to know: what states mean.
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
    position: int
    seal: bytes
    fingerprint: str
    states: dict[str, dict[str, msgspec.Raw]]


class Living:
    """States of all streams that have begun and not ended, by stream, in the order in which they began."""

    def __init__(self, deciders: Iterable[Decider[Any]]) -> None:
        self.deciders = {decider.name: decider for decider in deciders}
        self.codec = EventCodec(event for decider in self.deciders.values() for event in decider.events)
        self.position = 0
        self.states: dict[str, Any] = {}

    def fold(self, rows: Iterable[Row]) -> None:
        """Take further rows. What this version does not know is left out. Raises LogError for damage."""
        for position, stream, _, topic, state in rows:
            self.position = position
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
    """What lived at a sealed position, or at the floor when it lies behind it. Blocking; raises LogError."""
    living = Living(deciders)
    fingerprint = fingerprint_of(deciders)
    for segment in reversed(archive.segments):
        if segment.last <= position and _load(archive.path(segment), segment, fingerprint, living):
            break
    living.fold(archive.rows(living.position + 1, position))
    living.position = min(position, archive.floor)
    return living


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
        "fingerprint": fingerprint_of(deciders),
        "states": states,
    }
    temporary = path.with_suffix(".states.new")
    temporary.write_bytes(zstandard.ZstdCompressor(level=9, write_checksum=True).compress(encode(document)))
    os.replace(temporary, path.with_suffix(SUFFIX))


def superfluous(segments: Sequence[Sealed]) -> list[Sealed]:
    """Segments whose snapshots may go."""
    old = segments[:-NEWEST_KEPT]
    return [segment for index, segment in enumerate(old) if (index + 1) % EVERY_KEPT]


def _load(path: Path, segment: Sealed, fingerprint: str, living: Living) -> bool:
    import zstandard

    try:
        data = zstandard.ZstdDecompressor().decompress(path.with_suffix(SUFFIX).read_bytes())
        snapshot = msgspec.msgpack.decode(data, type=_Snapshot)
        if (snapshot.position, snapshot.seal, snapshot.fingerprint) != (segment.last, segment.seal, fingerprint):
            return False
        living.states = dict(_decoded(snapshot.states, living.deciders))
    except (OSError, ValueError, LookupError, zstandard.ZstdError, msgspec.MsgspecError):
        return False
    living.position = segment.last
    return True


def _decoded(
    states: Mapping[str, Mapping[str, msgspec.Raw]], deciders: Mapping[str, Decider[Any]]
) -> Iterable[tuple[str, Any]]:
    for kind, own in states.items():
        decoder = msgspec.msgpack.Decoder(type(deciders[kind].initial("")))
        for key, state in own.items():
            yield f"{kind}:{key}", decoder.decode(state)
