"""`compare`: the log's containers against what the supervisor knows, as properties of all pairs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from engine.aggregates.container.lifecycle import Status
from engine.aggregates.container.state import ContainerState
from engine.aggregates.values.ids import ContainerID
from engine.drivers.ports.runtime import Exit, Inventory, Running
from engine.errors import Fault, PortError
from engine.reactors.reconcile import ATTEMPTS, Finding, Reconcile, compare
from tests.aggregates.container import lives

IDS = tuple(ContainerID(digit * 64) for digit in "abc")
ALIVE_OR_STARTING = frozenset(
    {Status.STARTING, Status.STARTING_AGAIN, Status.RUNNING, Status.PAUSING, Status.PAUSED, Status.UNPAUSING}
)

known_states = st.builds(
    lambda container_id, status: replace(lives.live(*lives.LIVES[status]), container_id=container_id),
    st.sampled_from(IDS),
    st.sampled_from([status for status in Status if status not in (Status.ABSENT, Status.REMOVED)]),
)
containers = st.lists(known_states, unique_by=lambda state: state.container_id)
run_numbers = st.integers(1, 3)
exec_ids = st.sampled_from(("", "", "e" * 64))


def key(it: Running | Exit) -> tuple[str, str]:
    return it.container_id, it.exec_id


running = st.lists(
    st.builds(Running, container_id=st.sampled_from(IDS), run=run_numbers, exec_id=exec_ids, pid=st.integers(2, 99)),
    unique_by=key,
)
exits = st.lists(
    st.builds(
        Exit, container_id=st.sampled_from(IDS), run=run_numbers, exec_id=exec_ids, exit_code=st.integers(0, 255),
        finished_at_ns=st.just(1),
    ),
    unique_by=lambda it: (it.container_id, it.exec_id, it.run),
)  # fmt: skip
inventories = st.builds(lambda r, x: Inventory(running=tuple(r), exits=tuple(x)), running, exits)


@given(containers, inventories)
def test_each_container_is_found_once_at_most_and_only_where_something_is_open(
    states: list[ContainerState], inventory: Inventory
) -> None:
    findings = compare(states, inventory)
    by_id = {state.container_id: state for state in states}
    assert len({finding.container_id for finding in findings}) == len(findings)
    for finding in findings:
        state = by_id[finding.container_id]
        assert state.alive or state.starting
        assert (finding.kind == "started") == state.starting


@given(containers, inventories)
def test_whoever_is_adopted_runs_and_whoever_is_lost_is_nowhere(
    states: list[ContainerState], inventory: Inventory
) -> None:
    by_id = {state.container_id: state for state in states}
    pids = {(it.container_id, it.run): it.pid for it in inventory.running if not it.exec_id}
    journal = {(it.container_id, it.run) for it in inventory.exits if not it.exec_id}
    for finding in compare(states, inventory):
        this = finding.container_id, by_id[finding.container_id].run
        match finding.kind:
            case "adopt":
                assert pids[this] == finding.pid
            case "lost":
                assert this not in pids
                assert this not in journal
            case "started":
                assert pids.get(this, 0) == finding.pid
                assert this in pids or this in journal


@given(containers, inventories)
def test_what_the_log_believes_alive_is_adopted_lost_or_about_to_be_reported(
    states: list[ContainerState], inventory: Inventory
) -> None:
    found = {finding.container_id for finding in compare(states, inventory)}
    journal = {(it.container_id, it.run) for it in inventory.exits if not it.exec_id}
    for state in states:
        if state.alive:
            assert (state.container_id in found) != (
                (state.container_id, state.run) in journal
                and all(
                    it.exec_id or (it.container_id, it.run) != (state.container_id, state.run)
                    for it in inventory.running
                )
            )


@given(containers, inventories, st.randoms())
def test_the_order_of_what_is_found_changes_nothing(
    states: list[ContainerState], inventory: Inventory, random: object
) -> None:
    shuffled = Inventory(running=inventory.running[::-1], exits=inventory.exits[::-1])
    assert compare(states, shuffled) == compare(states, inventory)
    assert set(compare(states[::-1], inventory)) == set(compare(states, inventory))


@given(containers)
def test_a_supervisor_that_knows_what_the_log_knows_leaves_nothing_to_settle(states: list[ContainerState]) -> None:
    agreed = Inventory(
        running=tuple(
            Running(container_id=state.container_id, run=state.run, pid=state.pid) for state in states if state.alive
        )
    )
    assert {finding.kind for finding in compare(states, agreed)} <= {"adopt"}


@pytest.mark.parametrize("status", sorted(ALIVE_OR_STARTING, key=lambda status: status.value))
def test_another_run_s_process_does_not_count(status: Status) -> None:
    state = lives.live(*lives.LIVES[status])
    other = Inventory(running=(Running(container_id=state.container_id, run=state.run + 1, pid=7),))
    expected = () if state.starting else (Finding(container_id=state.container_id, kind="lost"),)
    assert compare([state], other) == expected


def test_an_exec_of_a_container_is_not_its_process() -> None:
    state = lives.live(*lives.LIVES[Status.RUNNING])
    only_exec = Inventory(running=(Running(container_id=state.container_id, run=state.run, exec_id="e" * 64, pid=7),))
    assert [finding.kind for finding in compare([state], only_exec)] == ["lost"]


class Refusing:
    """A runtime, and the drift behind it, of a world in which nothing runs; it refuses to be listed so often."""

    def __init__(self, *refusals: PortError) -> None:
        self.refusals = list(refusals)

    async def list(self) -> Inventory:
        if self.refusals:
            raise self.refusals.pop()
        return Inventory(running=(), exits=())

    async def before_recovery(self) -> tuple[()]:
        return ()

    async def prepare(self) -> None: ...

    async def recovered(self, before: tuple[()]) -> tuple[()]:
        return before

    def recovery(self) -> Reconcile:
        views = SimpleNamespace(containers=[], networks=[], execs=[])
        hands = SimpleNamespace(views=views, clock=SimpleNamespace(now_ns=lambda: 0))
        return Reconcile(*cast("Any", (hands, self, self, None, None, None, self)))


async def test_recovery_begins_anew_when_the_supervisor_is_lost_and_not_for_ever() -> None:
    lost = PortError("list", "the supervisor is not reachable", fault=Fault.UNAVAILABLE, retriable=True)
    assert await Refusing(*[lost] * (ATTEMPTS - 1)).recovery().run() == ()
    with pytest.raises(PortError, match="not reachable"):
        await Refusing(*[lost] * ATTEMPTS).recovery().run()
    broken = Refusing(lost, PortError("list", "out of order"))
    with pytest.raises(PortError, match="out of order"):
        await broken.recovery().run()
    assert broken.refusals == [lost], "another trouble is told at once"
