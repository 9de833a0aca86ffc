"""The engine itself, as far as it is told: one stream by the engine's id, with what its configuration became.

The configuration in force is the file's and the flags', never the log's: an event only says what was reloaded, for
`/events` and for whoever asks later. Small aggregate in one module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import msgspec

from engine.aggregates.decider import Command, Decider, Event


class ReportReloaded(Command, frozen=True, kw_only=True):
    """attributes: the values of all that can be reloaded, in Docker's words."""

    engine_id: str
    attributes: Mapping[str, str]

    @property
    def key(self) -> str:
        return self.engine_id


class DaemonReloaded(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "daemon.reloaded"
    attributes: Mapping[str, str]


class DaemonState(msgspec.Struct, frozen=True, kw_only=True):
    """How often, and what the last one made of it."""

    engine_id: str
    reloads: int = 0
    attributes: Mapping[str, str] = {}


def evolve(state: DaemonState, event: DaemonReloaded) -> DaemonState:
    return DaemonState(engine_id=state.engine_id, reloads=state.reloads + 1, attributes=event.attributes)


def decide(_state: DaemonState, command: ReportReloaded) -> tuple[Event, ...]:
    return (DaemonReloaded(attributes=command.attributes),)


DECIDER: Decider[DaemonState] = Decider(
    name="daemon",
    initial=lambda key: DaemonState(engine_id=key),
    decide=decide,
    evolve=evolve,
    terminal=lambda _state: False,
    commands=(ReportReloaded,),
    events=(DaemonReloaded,),
)
