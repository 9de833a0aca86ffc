"""`plan` is total over every state a container can reach, asks for nothing twice, and always for what leads on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from engine.aggregates.container.decide import DECIDER
from engine.aggregates.container.lifecycle import ALIVE, Status
from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Command, Rejected
from engine.reactors.lifecycle import plan as effects
from engine.reactors.lifecycle.plan import Effect, plan
from tests.aggregates.container import lives

WISHES: tuple[Command, ...] = (
    lives.START, lives.RESTART, lives.stop(), lives.kill(), lives.kill(15), lives.kill(1), lives.PAUSE, lives.UNPAUSE,
    lives.RENAME, lives.UPDATE, lives.CONNECT, lives.DISCONNECT, lives.remove(), lives.remove(force=True), lives.HEALTH,
)  # fmt: skip
REPORTS = (
    "started",
    "failed",
    "exited",
    "paused",
    "unpaused",
    "freeze failed",
    "connected",
    "not connected",
    "left",
    "gone",
    "updated",
    "not updated",
)
UNSETTLED = frozenset(Status) - {
    Status.ABSENT, Status.CREATED, Status.RUNNING, Status.PAUSED, Status.EXITED, Status.REMOVED,
}  # fmt: skip


def report(word: str, state: ContainerState) -> Command:
    """What the world may say of the state's run."""
    run = state.run
    return {
        "started": lives.started(run), "failed": lives.failed(run), "exited": lives.exited(run, code=3),
        "paused": lives.REPORT_PAUSED, "unpaused": lives.REPORT_UNPAUSED, "freeze failed": lives.REPORT_FREEZE_FAILED,
        "connected": lives.CONNECTED, "not connected": lives.CONNECT_FAILED, "left": lives.DISCONNECTED,
        "gone": lives.REPORT_REMOVED, "updated": replace(lives.REPORT_UPDATED, update=state.updates),
        "not updated": replace(lives.REPORT_UPDATE_FAILED, update=state.updates),
    }[word]  # fmt: skip


def after(state: ContainerState, command: Command) -> ContainerState:
    """The state after a command, and the same one when the rules say no."""
    try:
        events = DECIDER.decide(state, command)
    except Rejected:
        return state
    for event in events:
        state = DECIDER.evolve(state, event)
    return state


def reached(policy: str, auto_remove: bool, steps: Sequence[Any]) -> list[ContainerState]:
    """Every state on the way."""
    host: dict[str, Any] = (
        {"auto_remove": True} if auto_remove else {"restart_policy": lives.RestartPolicy(name=policy)}
    )
    states = [DECIDER.initial(lives.ID)]
    states.append(after(states[-1], lives.create(**host)))
    for step in steps:
        command = report(step, states[-1]) if isinstance(step, str) else step
        states.append(after(states[-1], command))
    return states


anything = st.lists(st.sampled_from((*WISHES, *REPORTS)), max_size=30)
walks = st.builds(reached, st.sampled_from(("no", "always", "on-failure")), st.booleans(), anything)


@pytest.mark.parametrize("status", list(Status))
def test_every_status_has_a_plan(status: Status) -> None:
    state = lives.live(*lives.LIVES[status])
    assert state.status is status
    assert bool(plan(state)) == (status in UNSETTLED)


@given(walks)
def test_a_plan_is_total_and_asks_for_nothing_twice(states: list[ContainerState]) -> None:
    for state in states:
        asked = plan(state)
        assert len(set(asked)) == len(asked)  # hashable: effects are the keys of pieces of work
        assert all(effect.container_id == state.container_id for effect in asked)
        assert plan(state) == asked


@given(walks)
def test_what_is_settled_asks_for_nothing_and_what_is_not_asks_for_something(states: list[ContainerState]) -> None:
    for state in states:
        waits = state.kill_signal or state.stop is not None or state.connecting or state.disconnecting or state.updating
        if state.status in UNSETTLED:
            assert plan(state), state
        elif state.status not in ALIVE or not waits:
            assert not plan(state), state


OUTCOMES: dict[type[Effect], tuple[str, ...]] = {
    effects.Start: ("started", "failed"),
    effects.End: ("exited",),
    effects.Kill: ("exited",),
    effects.Freeze: ("paused", "freeze failed", "exited"),
    effects.Thaw: ("unpaused", "freeze failed", "exited"),
    effects.Update: ("updated", "not updated", "exited"),
    effects.JoinNetwork: ("connected", "not connected", "exited"),
    effects.LeaveNetwork: ("left", "exited"),
    effects.Remove: ("gone",),
}


@given(walks)
def test_every_outcome_of_an_effect_takes_it_from_the_plan(states: list[ContainerState]) -> None:
    """So performing plans over and over comes to an end: nothing stays asked for."""
    for state in states:
        for effect in plan(state):
            for outcome in OUTCOMES.get(type(effect), ()):
                assert effect not in plan(after(state, report(outcome, state)))
            if isinstance(effect, effects.StartAgain):
                assert effect not in plan(after(state, lives.START))


def test_every_effect_has_an_outcome() -> None:
    assert set(OUTCOMES) | {effects.StartAgain} == set(Effect.__subclasses__())


@given(walks)
def test_performing_plans_leads_to_a_container_at_rest(states: list[ContainerState]) -> None:
    state = states[-1]
    for _ in range(20):
        asked = plan(state)
        if not asked:
            break
        first = asked[0]
        outcome = OUTCOMES.get(type(first))
        state = after(state, lives.START if outcome is None else report(outcome[0], state))
    assert not plan(state) or state.status is Status.RESTARTING
