"""Containers as `ps` and `inspect` read them, with the indexes lookups need.

Lookup order is Docker's (CTR-04): full id, full name (with or without the leading slash), unique id prefix.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.aggregates.container.decide import DECIDER
from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Reason, Rejected
from engine.projections.states import States


class Containers(States[ContainerState]):
    def __init__(self) -> None:
        super().__init__(DECIDER, ContainerState)
        self._ids: dict[str, str] = {}

    def reset(self) -> None:
        super().reset()
        self._ids.clear()

    def changed(self, key: str, before: ContainerState | None, after: ContainerState | None) -> None:
        self.revision += 1
        old = before.name if before is not None else ""
        new = after.name if after is not None else ""
        if old != new:
            if old and self._ids.get(old) == key:
                del self._ids[old]
            if new:
                self._ids[new] = key

    def find(self, reference: str) -> ContainerState:
        """By id, name or unique prefix. Raises Rejected: NOT_FOUND, or INVALID for an ambiguous prefix."""
        state = self.get(reference)
        if state is None:
            key = self._ids.get(reference.removeprefix("/"))
            state = self.get(key) if key is not None else self.by_prefix(reference)
        if state is None:
            raise Rejected(Reason.NOT_FOUND, f"No such container: {reference}")
        return state

    def newest_first(self) -> Sequence[ContainerState]:
        return sorted(self, key=lambda state: state.created_at, reverse=True)

    def using_image(self, image_id: str) -> list[ContainerState]:
        return [state for state in self if state.image_id == image_id]
