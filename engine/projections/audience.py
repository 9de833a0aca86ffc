"""Who hears of an event: the projections that follow its aggregate.

Owns: finding them by event, once, and sparing a view of states the fold that its teller has made already.
Refuses to know: where events come from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from engine.aggregates.decider import Event, Recorded
from engine.projections.base import Projection, follows
from engine.projections.states import States

Follow = Callable[[Recorded, Any], None]
"""(event, the state of its stream after it)."""


class Audience:
    """Projections, told of each event in the order in which they were given."""

    def __init__(self, projections: Sequence[Projection]) -> None:
        self._projections = tuple(projections)
        self._followers: dict[type[Event], tuple[Follow, ...]] = {}

    def tell(self, recorded: Recorded, after: Any) -> None:
        """after: the state of the event's stream after it."""
        event = type(recorded.event)
        followers = self._followers.get(event)
        if followers is None:
            followers = self._followers[event] = tuple(
                projection.take if isinstance(projection, States) else _without_state(projection)
                for projection in self._projections
                if follows(projection, recorded.kind, event)
            )
        for follow in followers:
            follow(recorded, after)


def _without_state(projection: Projection) -> Follow:
    return lambda recorded, _: projection.apply(recorded)
