"""Drift: what is told of differences, and what stays open."""

from __future__ import annotations

from engine.aggregates import drift
from engine.aggregates.decider import Command, Event
from engine.aggregates.drift import DriftEnded, DriftFound, DriftLeft, DriftMended, DriftState
from engine.aggregates.values.drift import Deviation, Difference

VETH = Difference(kind="veth", deviation=Deviation.MISSING, subject="veth1234567", owner="c" * 64)
BRIDGE = Difference(kind="bridge", deviation=Deviation.STRAY, subject="br-0123456789ab")


def when(state: DriftState, command: Command) -> tuple[DriftState, tuple[Event, ...]]:
    events = drift.DECIDER.decide(state, command)
    for event in events:
        state = drift.evolve(state, event)  # type: ignore[arg-type]
    return state, events


def found(*differences: Difference) -> tuple[DriftState, tuple[Event, ...]]:
    return when(drift.initial("host"), drift.ReportDrift(at=1, differences=differences))


def test_nothing_found_is_no_event() -> None:
    assert found() == (drift.initial("host"), ())


def test_what_is_found_is_open_until_it_is_mended() -> None:
    state, events = found(VETH, BRIDGE)
    assert events == (DriftFound(at=1, differences=(VETH, BRIDGE)),)
    state, events = when(state, drift.ReportMended(at=2, difference=VETH))
    assert events == (DriftMended(at=2, difference=VETH),)
    assert (list(state.open.values()), state.mended) == ([BRIDGE], 1)
    assert when(state, drift.ReportMended(at=3, difference=VETH))[1] == ()


def test_what_can_not_be_mended_stays_open_and_is_found_once() -> None:
    state, _ = found(BRIDGE)
    state, events = when(state, drift.ReportUnmended(at=2, difference=BRIDGE, error="it has ports"))
    assert events == (DriftLeft(at=2, difference=BRIDGE, error="it has ports"),)
    assert when(state, drift.ReportDrift(at=3, differences=(BRIDGE,)))[1] == ()


def test_what_others_mended_has_ended() -> None:
    state, _ = found(BRIDGE)
    state, events = when(state, drift.ReportDrift(at=2, differences=(VETH,)))
    assert events == (DriftEnded(at=2, differences=(BRIDGE,)), DriftFound(at=2, differences=(VETH,)))
    assert list(state.open.values()) == [VETH]
