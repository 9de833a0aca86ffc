"""Folds of streams: the cache of committed states, and how one is loaded.

Owns: which states are in memory, and the way from (state snapshot, tail of the stream) to a state.
Refuses to know: commands, transactions, what a state means.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from engine.aggregates.decider import Decider, Recorded


class Fold(msgspec.Struct, frozen=True):
    """The state of a stream after `version` events."""

    state: Any
    version: int


LoadSnapshot = Callable[[str], Fold | None]
LoadTail = Callable[[str, int], "list[Recorded]"]
LONG_EVENTS = 256
"""A load of so many events is worth a snapshot."""


class Folds:
    """Committed folds, least recently used ones forgotten first, ended streams before all others."""

    def __init__(
        self,
        deciders: Mapping[str, Decider[Any]],
        *,
        capacity: int,
        load_known: LoadSnapshot,
        load_snapshot: LoadSnapshot,
        load_tail: LoadTail,
        long_load: Callable[[str, Fold], None],
    ) -> None:
        """load_known: the newest fold of a stream, where somebody has it; load_snapshot: an older one, from which
        load_tail goes on; long_load is told of a fold that took many events."""
        self._deciders = deciders
        self._capacity = capacity
        self._load_known = load_known
        self._load_snapshot = load_snapshot
        self._long_load = long_load
        self._load_tail = load_tail
        self._cached: OrderedDict[str, Fold] = OrderedDict()

    def __len__(self) -> int:
        return len(self._cached)

    def get(self, stream: str, *, begins: bool = False) -> Fold:
        """The committed fold; the initial state at version 0 for a stream without events. begins: known to be one."""
        fold = self._cached.get(stream)
        if fold is None:
            if begins:
                return self._initial(stream)
            fold = self._load(stream)
            self.put(stream, fold, ended=self.ended(stream, fold.state))
        else:
            self._cached.move_to_end(stream)
        return fold

    def put(self, stream: str, fold: Fold, *, ended: bool) -> None:
        """ended: as the method of that name has it."""
        self._cached[stream] = fold
        # An ended stream is asked for a last time or two (`wait`, a second `rm`), and one that has not begun perhaps
        # never again, or at every start (the ports of a host that publishes none): they stay until room is needed.
        self._cached.move_to_end(stream, last=bool(fold.version) and not ended)
        while len(self._cached) > self._capacity:
            self._cached.popitem(last=False)

    def ended(self, stream: str, state: Any) -> bool:
        return self._deciders[kind_of(stream)].terminal(state)

    def clear(self) -> None:
        self._cached.clear()

    def _initial(self, stream: str) -> Fold:
        return Fold(self._deciders[kind_of(stream)].initial(key_of(stream)), 0)

    def _load(self, stream: str) -> Fold:
        known = self._load_known(stream)
        if known is not None:
            return known
        decider = self._deciders[kind_of(stream)]
        fold = self._load_snapshot(stream) or self._initial(stream)
        state, version = fold.state, fold.version
        tail = self._load_tail(stream, version)
        for recorded in tail:
            state, version = decider.evolve(state, recorded.event), recorded.version
        loaded = Fold(state, version)
        if len(tail) >= LONG_EVENTS:
            self._long_load(stream, loaded)
        return loaded


def kind_of(stream: str) -> str:
    """`container` of `container:4f5e...`."""
    return stream.partition(":")[0]


def key_of(stream: str) -> str:
    """`4f5e...` of `container:4f5e...`."""
    return stream.partition(":")[2]
