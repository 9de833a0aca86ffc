"""Volumes as `volume ls` and `volume inspect` read them."""

from __future__ import annotations

from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.volume import DECIDER, VolumeState, VolumeStatus
from engine.projections.states import States


class Volumes(States[VolumeState]):
    def __init__(self) -> None:
        super().__init__(DECIDER, VolumeState)

    def find(self, name: str) -> VolumeState:
        """By its whole name. Raises Rejected(NOT_FOUND)."""
        state = self.get(name)
        if state is None:
            raise Rejected(Reason.NOT_FOUND, f"get {name}: no such volume")
        return state

    def is_gone(self, name: str) -> bool:
        """Whether it is removed, or being removed: what was about to make its directory leaves that."""
        state = self.get(name)
        return state is None or state.status is not VolumeStatus.READY
