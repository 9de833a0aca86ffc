"""Drift: where kernel and disk went their own way, and what the engine did about it. One stream, `drift:host`.

Only what is about to be mended is written down: a look changes nothing and is no event. Small aggregate in one module:
commands, events, state, decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, assert_never

import msgspec
from msgspec.structs import replace

from engine.aggregates.decider import Command, Decider, Event
from engine.aggregates.values.drift import Difference

HOST = "host"


class DriftCommand(Command, frozen=True, kw_only=True):
    @property
    def key(self) -> str:
        return HOST


class ReportDrift(DriftCommand, frozen=True, kw_only=True):
    """All that was found, and is to be mended now."""

    at: int
    differences: tuple[Difference, ...]


class ReportMended(DriftCommand, frozen=True, kw_only=True):
    at: int
    difference: Difference


class ReportUnmended(DriftCommand, frozen=True, kw_only=True):
    """The world refused, or nobody can do it."""

    at: int
    difference: Difference
    error: str


class DriftFound(Event, frozen=True, kw_only=True):
    """The intent to mend these."""

    NAME: ClassVar[str] = "drift.found"
    at: int
    differences: tuple[Difference, ...]


class DriftMended(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "drift.mended"
    at: int
    difference: Difference


class DriftLeft(Event, frozen=True, kw_only=True):
    """It could not be mended and stays as it is."""

    NAME: ClassVar[str] = "drift.left"
    at: int
    difference: Difference
    error: str


class DriftEnded(Event, frozen=True, kw_only=True):
    """Found earlier, and there no more: others mended it, or an engine that did not live to say so."""

    NAME: ClassVar[str] = "drift.ended"
    at: int
    differences: tuple[Difference, ...]


DriftEvent = DriftFound | DriftMended | DriftLeft | DriftEnded


class DriftState(msgspec.Struct, frozen=True, kw_only=True):
    """open: differences found and not mended, by key. mended: how many were, in all."""

    host: str
    open: Mapping[str, Difference] = {}
    mended: int = 0


def initial(key: str) -> DriftState:
    return DriftState(host=key)


def evolve(state: DriftState, event: DriftEvent) -> DriftState:
    match event:
        case DriftFound():
            return replace(state, open={**state.open, **{each.key: each for each in event.differences}})
        case DriftMended():
            return replace(state, open=_without(state, (event.difference,)), mended=state.mended + 1)
        case DriftLeft():
            return state
        case DriftEnded():
            return replace(state, open=_without(state, event.differences))
        case _:
            assert_never(event)


def _without(state: DriftState, gone: tuple[Difference, ...]) -> dict[str, Difference]:
    keys = {each.key for each in gone}
    return {key: each for key, each in state.open.items() if key not in keys}


DriftCommands = ReportDrift | ReportMended | ReportUnmended


def decide(state: DriftState, command: DriftCommands) -> tuple[Event, ...]:
    match command:
        case ReportDrift():
            found = {each.key: each for each in command.differences}
            new = tuple(each for key, each in found.items() if state.open.get(key) != each)
            ended = tuple(each for key, each in state.open.items() if key not in found)
            events: list[Event] = []
            if ended:
                events.append(DriftEnded(at=command.at, differences=ended))
            if new:
                events.append(DriftFound(at=command.at, differences=new))
            return tuple(events)
        case ReportMended():
            known = command.difference.key in state.open
            return (DriftMended(at=command.at, difference=command.difference),) if known else ()
        case ReportUnmended():
            known = command.difference.key in state.open
            left = DriftLeft(at=command.at, difference=command.difference, error=command.error)
            return (left,) if known else ()
        case _:
            assert_never(command)


DECIDER: Decider[DriftState] = Decider(
    name="drift",
    initial=initial,
    decide=decide,
    evolve=evolve,
    terminal=lambda _state: False,
    commands=DriftCommands.__args__,
    events=DriftEvent.__args__,
)
