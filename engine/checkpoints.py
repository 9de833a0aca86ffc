"""Derived state between two lives of the engine: what is written to views.db, and what of it is believed again.

Owns: the list of projections with our own one (which streams live), state snapshots that are due, and the judgement
whether views.db belongs to this log and this code.
Refuses to know: commands, commits, when a checkpoint is due (the application says so).
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from engine.aggregates.decider import Decider, Recorded
from engine.archive.retention import MORTAL
from engine.archive.states import kept_before
from engine.archive.store import Archive
from engine.catching_up import Batches, catch_up
from engine.codec import EventCodec, LogError
from engine.fingerprint import fingerprint_of
from engine.folds import Fold, Folds, key_of, kind_of
from engine.projections.base import (
    Checkpoint,
    Head,
    Projection,
    Rest,
    SealAt,
    ViewStore,
    restore,
)
from engine.projections.states import States

_LOGGER = logging.getLogger("ishmael.log")


class Checkpoints:
    """views.db as the application uses it. `open`, `save`, `close` block; the others are for the loop."""

    def __init__(
        self,
        path: Path,
        *,
        deciders: Mapping[str, Decider[Any]],
        projections: Sequence[Projection],
        snapshot_from: int,
    ) -> None:
        self._views = ViewStore(path)
        self._deciders = deciders
        self._views_of = {kind: view for view in projections if isinstance(view, States) for kind in view.kinds}
        # What has a view of its states is known to live by being in it.
        self._live = LiveStreams({kind: each for kind, each in deciders.items() if kind not in self._views_of})
        self._projections: tuple[Projection, ...] = (*projections, self._live)
        self._snapshot_from = snapshot_from
        self._fingerprints = {name: fingerprint_of(decider) for name, decider in deciders.items()}
        """Of each aggregate; of each projection in `_views_fingerprints`."""
        self._views_fingerprints = {each.name: self._fingerprint(each) for each in self._projections}
        self._due: dict[str, Fold] = {}
        self._ended: set[str] = set()
        self.position = 0
        """Of the last checkpoint; after `open`, the lowest that a projection was restored at."""
        self.restored: dict[str, int] = {}
        """Where each projection was restored at this start; 0 means folded from the beginning."""

    def open(
        self, folds: Folds, archive: Archive, *, head: int, codec: EventCodec, batches: Batches, seal_at: SealAt
    ) -> None:
        """Bring all projections to the head of the log."""
        self._views.open()
        seen = self._views.head()
        if seen is not None and head == 0 < seen.position:
            # An empty file is a valid one: without this a new history would begin over what the old one owned.
            raise LogError(
                f"it is empty, and views.db has seen position {seen.position} of it (delete views.db to begin anew)"
            )
        if seen is not None and seal_at(seen.position) != seen.seal:
            _LOGGER.error(
                "views.db has seen position %d of another log than the one that ends at %d: the log was replaced or "
                "lost its tail; views are folded anew",
                seen.position,
                head,
            )
            self._views.clear()
        self.restored = restore(
            self._projections, self._views, fingerprints=self._views_fingerprints, seal_at=seal_at
        )
        self._restore_from(archive)
        catch_up([(each, self.restored[each.name]) for each in self._projections], codec, batches)
        self._live.ask(lambda stream: folds.ended(stream, folds.get(stream).state))
        self.position = min(self.restored.values())

    def _restore_from(self, archive: Archive) -> None:
        """What has no checkpoint begins with the state snapshots of sealed history."""
        known: list[States[Any] | LiveStreams] = [*self._views_of.values(), self._live]
        lost = [view for view in known if not self.restored[view.name]]
        kinds = frozenset[str]().union(*(view.kinds for view in lost))
        if not kinds or not archive.segments:
            return
        kept = kept_before(archive, [self._deciders[kind] for kind in kinds], archive.floor)
        for view in lost:
            own = {kind: kept[kind] for kind in view.kinds if kind in kept}
            if own.keys() == view.kinds and len(positions := {each.position for each in own.values()}) == 1:
                try:
                    view.restore(msgspec.msgpack.encode(view.dump_of({k: each.states for k, each in own.items()})))
                    self.restored[view.name] = positions.pop()
                except (msgspec.MsgspecError, LookupError, ValueError):
                    view.reset()

    def _fingerprint(self, projection: Projection) -> str:
        if projection is not self._live:
            return fingerprint_of(type(projection))
        own = sorted(self._fingerprints[kind] for kind in self._live.kinds)
        return "-".join((fingerprint_of(LiveStreams), hashlib.sha256("".join(own).encode()).hexdigest()))

    def close(self) -> None:
        self._views.close()

    def live(self, kind: str) -> tuple[str, ...]:
        """Keys of the streams of an aggregate that have begun and not ended, sorted."""
        view = self._views_of.get(kind)
        return tuple(sorted(view.keys())) if view is not None else self._live.of(kind)

    def load_snapshot(self, stream: str) -> Fold | None:
        """A stream's state snapshot, if this code made it and it can be read."""
        saved = self._views.snapshot(stream, self._fingerprints[kind_of(stream)])
        if saved is None:
            return None
        state_type = type(self._deciders[kind_of(stream)].initial(key_of(stream)))
        try:
            return Fold(msgspec.msgpack.decode(saved[1], type=state_type), saved[0])
        except msgspec.MsgspecError:
            return None

    def known_state(self, stream: str) -> Any:
        """The state of a stream that lives, where a view has it; else None."""
        view = self._views_of.get(kind_of(stream))
        return view.get(key_of(stream)) if view is not None else None

    @property
    def has_due(self) -> bool:
        """Whether state snapshots wait for the next checkpoint."""
        return bool(self._due)

    def remember(self, stream: str, fold: Fold) -> None:
        """A stream was long to load: its state is kept with the next checkpoint."""
        self._due[stream] = fold

    def note(self, kind: str, stream: str, fold: Fold, *, ended: bool) -> None:
        """A stream of an aggregate has moved."""
        if kind in self._live.kinds:
            self._live.note(stream, ended=ended)
        if fold.version < self._snapshot_from:
            return
        if ended:
            self._due.pop(stream, None)
            self._ended.add(stream)
        else:
            self._due[stream] = fold
            self._ended.discard(stream)

    def take(self, head: Head) -> Checkpoint:
        """Everything as of now, to be saved in another thread. Call it between two commits."""
        checkpoint = Checkpoint(
            head=head,
            views={each.name: Rest(0, self._views_fingerprints[each.name], each.dump()) for each in self._projections},
            snapshots={
                stream: Rest(fold.version, self._fingerprints[kind_of(stream)], fold.state)
                for stream, fold in self._due.items()
            },
            ended=tuple(self._ended),
        )
        self._due = {}
        self._ended = set()
        self.position = head.position
        return checkpoint

    def save(self, checkpoint: Checkpoint) -> None:
        """Failing costs the next start time, and no truth."""
        try:
            self._views.save(checkpoint)
        except sqlite3.Error as error:
            _LOGGER.warning("derived state is not checkpointed, the next start takes longer: %s", error)


class LiveStreams:
    """A projection: which streams of some aggregates have begun and not ended. What recovery looks at, whatever the
    length of history.

    Those that begin while it catches up are folded for it; of others that move it only notes who, and `ask` looks at
    their states. Asking for all of them would look up every stream of the whole history, one by one."""

    name = "live-streams"

    def __init__(self, deciders: Mapping[str, Decider[Any]]) -> None:
        self.kinds = frozenset(deciders)
        self.deciders = deciders
        self._keys: dict[str, set[str]] = {kind: set() for kind in deciders}
        self._restored = False
        self._moved: set[str] = set()
        self._folding: dict[str, Any] = {}

    def of(self, kind: str) -> tuple[str, ...]:
        return tuple(sorted(self._keys[kind]))

    def note(self, stream: str, *, ended: bool) -> None:
        keys = self._keys[kind_of(stream)]
        keys.discard(key_of(stream)) if ended else keys.add(key_of(stream))

    def before(self, stream: str, version: int) -> Any:
        if self._restored and version > 1:
            self._moved.add(stream)
            return None
        return self.deciders[kind_of(stream)].initial(key_of(stream))

    def settle(self, stream: str, state: Any) -> None:
        self._moved.discard(stream)
        self.note(stream, ended=state is None)

    def ask(self, ended: Callable[[str], bool]) -> None:
        for stream in self._moved:
            self.note(stream, ended=ended(stream))
        self._moved.clear()

    def apply(self, recorded: Recorded) -> None:
        """Of every event from the first on: for a log that is damaged further on."""
        stream, decider = recorded.stream, self.deciders.get(recorded.kind)
        if decider is None:
            return
        state = decider.evolve(self._folding.get(stream) or decider.initial(recorded.key), recorded.event)
        ended = decider.terminal(state)
        self.note(stream, ended=ended)
        if ended and recorded.kind in MORTAL:
            self._folding.pop(stream, None)
        else:
            self._folding[stream] = state

    def dump(self) -> object:
        return {kind: sorted(keys) for kind, keys in self._keys.items()}

    def dump_of(self, states: Mapping[str, Mapping[str, object]]) -> object:
        """What `dump` would give, of these living states by aggregate and key."""
        return {kind: list(own) for kind, own in states.items()}

    def restore(self, dumped: bytes) -> None:
        for kind, keys in msgspec.msgpack.decode(dumped, type=dict[str, list[str]]).items():
            self._keys[kind].update(keys)
        self._restored = True

    def reset(self) -> None:
        for keys in self._keys.values():
            keys.clear()
        self._restored = False
        self._moved.clear()
        self._folding.clear()
