"""The states of one aggregate's living members, kept in memory: the base of the container, image, network views.

Owns: folding a decider's streams and forgetting the ended ones.
Refuses to know: what the states mean; subclasses add their indexes by overriding `changed`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

import msgspec

from engine.aggregates.decider import Decider, Reason, Recorded, Rejected

S = TypeVar("S")

PREFIX_LENGTH_MIN = 1


class States(Generic[S]):
    """A projection (base.Projection) of key -> state. Ended members are dropped after `changed` has seen them."""

    def __init__(self, decider: Decider[S], state_type: type[S]) -> None:
        self._decider = decider
        self._decoder = msgspec.msgpack.Decoder(list[tuple[str, state_type]])  # type: ignore[valid-type]  # a runtime type
        self._states: dict[str, S] = {}
        self.revision = 0
        """Grows with what others may have derived from this view and must derive anew."""

    @property
    def name(self) -> str:
        return f"{self._decider.name}s"

    @property
    def kinds(self) -> frozenset[str]:
        return frozenset((self._decider.name,))

    def apply(self, recorded: Recorded) -> None:
        kind, _, key = recorded.stream.partition(":")
        if kind == self._decider.name:
            self._put(key, self._decider.evolve(self._states.get(key) or self._decider.initial(key), recorded.event))

    def take(self, recorded: Recorded, after: S) -> None:
        """As `apply` for an event of this aggregate, by who has the state after it already."""
        self._put(recorded.key, after)

    def _put(self, key: str, after: S) -> None:
        if self._decider.terminal(after):
            self.changed(key, self._states.pop(key, None), None)
        else:
            before = self._states.get(key)
            self._states[key] = after
            self.changed(key, before, after)

    # Of a long history only the newest states are taken (catching_up.OfStates).

    @property
    def deciders(self) -> Mapping[str, Decider[S]]:
        return {self._decider.name: self._decider}

    def before(self, stream: str, _version: int) -> S:
        key = stream.partition(":")[2]
        return self._states.get(key) or self._decider.initial(key)

    def settle(self, stream: str, state: S | None) -> None:
        key = stream.partition(":")[2]
        if state is not None:
            self._put(key, state)
        elif key in self._states:
            self.changed(key, self._states.pop(key), None)

    def dump(self) -> object:
        return list(self._states.items())

    def dump_of(self, states: Mapping[str, Mapping[str, object]]) -> object:
        """What `dump` would give, of these living states by aggregate and key; encoded ones (`msgspec.Raw`) will do."""
        return list(states[self._decider.name].items())

    def restore(self, dumped: bytes) -> None:
        self.reset()
        for key, state in self._decoder.decode(dumped):
            self._states[key] = state
            self.changed(key, None, state)

    def reset(self) -> None:
        self._states.clear()

    def changed(self, key: str, before: S | None, after: S | None) -> None:
        """Hook for indexes: called once for every event of a member, after None when it ended."""

    def keys(self) -> tuple[str, ...]:
        """Of all living members, oldest first."""
        return tuple(self._states)

    def get(self, key: str) -> S | None:
        return self._states.get(key)

    def __iter__(self) -> Iterator[S]:
        """All living members, oldest first."""
        return iter(list(self._states.values()))

    def __len__(self) -> int:
        return len(self._states)

    def by_prefix(self, prefix: str) -> S | None:
        """The one member whose key begins so. Raises Rejected(INVALID) when several do."""
        if len(prefix) < PREFIX_LENGTH_MIN:
            return None
        found = [key for key in self._states if key.startswith(prefix)]
        if len(found) > 1:
            raise Rejected(Reason.INVALID, f"multiple IDs found with provided prefix: {prefix}")
        return self._states[found[0]] if found else None
