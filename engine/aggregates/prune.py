"""Prunes: one stream for each kind of thing (`container`, `image`, ...), which tells when one was done and what it won.

What a prune removed is told by the removals themselves. Small aggregate in one module.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from engine.aggregates.decider import Command, Decider, Event


class ReportPruned(Command, frozen=True, kw_only=True):
    """kind: `container`, `image`, `volume`, `network`, `builder`."""

    kind: str
    reclaimed_bytes: int

    @property
    def key(self) -> str:
        return self.kind


class Pruned(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "prune.done"
    reclaimed_bytes: int


class PruneState(msgspec.Struct, frozen=True, kw_only=True):
    """How many there were, and what they won in all."""

    kind: str
    count: int = 0
    reclaimed_bytes: int = 0


def evolve(state: PruneState, event: Pruned) -> PruneState:
    return PruneState(
        kind=state.kind, count=state.count + 1, reclaimed_bytes=state.reclaimed_bytes + event.reclaimed_bytes
    )


def decide(_state: PruneState, command: ReportPruned) -> tuple[Event, ...]:
    return (Pruned(reclaimed_bytes=command.reclaimed_bytes),)


DECIDER: Decider[PruneState] = Decider(
    name="prune",
    initial=lambda key: PruneState(kind=key),
    decide=decide,
    evolve=evolve,
    terminal=lambda _state: False,
    commands=(ReportPruned,),
    events=(Pruned,),
)
