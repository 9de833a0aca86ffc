"""Containers as `ps` and `inspect` read them, with the indexes lookups need.

Lookup order is Docker's (CTR-04): full id, full name (with or without the leading slash), unique id prefix. A legacy
link gives the linked container one more name, `web/db` (CTR-44).
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.aggregates.container.decide import DECIDER
from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.values.links import Link
from engine.projections.states import States


class Containers(States[ContainerState]):
    def __init__(self) -> None:
        super().__init__(DECIDER, ContainerState)
        self._ids: dict[str, str] = {}
        self._linking: dict[str, dict[str, None]] = {}
        """Linked container -> those that link to it."""

    def reset(self) -> None:
        super().reset()
        self._ids.clear()
        self._linking.clear()

    def changed(self, key: str, before: ContainerState | None, after: ContainerState | None) -> None:
        self.revision += 1
        old = before.name if before is not None else ""
        new = after.name if after is not None else ""
        if old != new:
            if old and self._ids.get(old) == key:
                del self._ids[old]
            if new:
                self._ids[new] = key
        was, now = (state.links if state is not None else () for state in (before, after))
        if was != now:
            for link in was:
                self._linking.get(link.container_id, {}).pop(key, None)
            for link in now:
                self._linking.setdefault(link.container_id, {})[key] = None
            for link in was:
                if not self._linking.get(link.container_id, True):
                    del self._linking[link.container_id]

    def linking_to(self, container_id: str) -> list[tuple[ContainerState, Link]]:
        """The links to a container, each with the container that has it."""
        owners = (self._states[owner] for owner in self._linking.get(container_id, ()))
        return [(owner, link) for owner in owners for link in owner.links if link.container_id == container_id]

    def link_names(self, container_id: str) -> tuple[str, ...]:
        """The names that links give a container, as `web/db`."""
        if container_id not in self._linking:
            return ()
        return tuple(sorted(f"{owner.name}/{link.alias}" for owner, link in self.linking_to(container_id)))

    def find(self, reference: str) -> ContainerState:
        """By id, name or unique prefix. Raises Rejected: NOT_FOUND, or INVALID for an ambiguous prefix."""
        state = self.get(reference)
        if state is None:
            key = self._named(reference.removeprefix("/"))
            state = self.get(key) if key is not None else self.by_prefix(reference)
        if state is None:
            raise Rejected(Reason.NOT_FOUND, f"No such container: {reference}")
        return state

    def _named(self, name: str) -> str | None:
        """The id behind a name of its own, or behind one that a link gives."""
        owner_name, slash, alias = name.partition("/")
        owner = self.get(self._ids.get(owner_name, "")) if slash else None
        if owner is not None:
            return next((link.container_id for link in owner.links if link.alias == alias), None)
        return self._ids.get(name)

    def newest_first(self) -> Sequence[ContainerState]:
        return sorted(self, key=lambda state: state.created_at, reverse=True)

    def using_image(self, image_id: str) -> list[ContainerState]:
        return [state for state in self if state.image_id == image_id]
