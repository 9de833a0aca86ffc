"""Networks as `network ls` and `network inspect` read them. Lookup: full id, then name, then unique prefix (NET-03)."""

from __future__ import annotations

from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.network import DECIDER, NetworkState, NetworkStatus
from engine.projections.states import States


class Networks(States[NetworkState]):
    def __init__(self) -> None:
        super().__init__(DECIDER, NetworkState)

    def changed(self, key: str, before: NetworkState | None, after: NetworkState | None) -> None:
        """Endpoints come and go without touching the revision: only the set of networks counts."""
        if before is None or after is None:
            self.revision += 1

    def named(self, name: str) -> NetworkState | None:
        return next((state for state in self if state.settings.name == name), None)

    def lookup(self, reference: str) -> NetworkState | None:
        """By id, name or unique prefix; None when there is none. Raises Rejected(INVALID) for an ambiguous prefix."""
        state = self.get(reference) or self.named(reference) or self.by_prefix(reference)
        return state if state is not None and state.status is not NetworkStatus.FAILED else None

    def find(self, reference: str) -> NetworkState:
        """As `lookup`, raising Rejected(NOT_FOUND)."""
        state = self.lookup(reference)
        if state is None:
            raise Rejected(Reason.NOT_FOUND, f"network {reference} not found")
        return state
