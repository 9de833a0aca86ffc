"""Execs: one start each, and an end that is told once."""

from __future__ import annotations

import pytest

from engine.aggregates.decider import Command, Reason, Retention
from engine.aggregates.exec import (
    DECIDER,
    CreateExec,
    ExecCreated,
    ExecExited,
    ExecSpec,
    ExecStatus,
    RemoveExec,
    ReportExecExited,
    ReportExecStarted,
    StartExec,
)
from engine.aggregates.values.sealed import Sealed
from tests.support.memory import Story, outcome

ID, CONTAINER = "ee" * 32, "4f5e" * 16
SECRET = Sealed(owner=f"container:{CONTAINER}", box=b"x")
CREATE = CreateExec(exec_id=ID, at=1, container_id=CONTAINER, spec=ExecSpec(tty=True), secret=SECRET, entrypoint="sh")
START = StartExec(exec_id=ID, at=2, detach=True, tty=True, height=24, width=80)
STARTED = ReportExecStarted(exec_id=ID, at=3, pid=4711)
EXITED = ReportExecExited(exec_id=ID, at=4, exit_code=3)
REMOVE = RemoveExec(exec_id=ID)
LIVES: dict[ExecStatus, tuple[Command, ...]] = {
    ExecStatus.ABSENT: (),
    ExecStatus.CREATED: (CREATE,),
    ExecStatus.STARTING: (CREATE, START),
    ExecStatus.RUNNING: (CREATE, START, STARTED),
    ExecStatus.EXITED: (CREATE, START, STARTED, EXITED),
    ExecStatus.REMOVED: (CREATE, START, STARTED, EXITED, REMOVE),
}
UNKNOWN, BUSY = "no: not found", "no: conflict"
TABLE = {
    ExecStatus.ABSENT: (UNKNOWN, "nothing", "nothing", "nothing"),
    ExecStatus.CREATED: ("start_requested", "nothing", "nothing", "removed"),
    ExecStatus.STARTING: (BUSY, "started", "exited", "nothing"),
    ExecStatus.RUNNING: (BUSY, "nothing", "exited", "nothing"),
    ExecStatus.EXITED: (BUSY, "nothing", "nothing", "removed"),
    ExecStatus.REMOVED: (UNKNOWN, "nothing", "nothing", "nothing"),
}


def after(*commands: Command):
    state = DECIDER.initial(ID)
    for command in commands:
        for event in DECIDER.decide(state, command):
            state = DECIDER.evolve(state, event)
    return state


@pytest.mark.parametrize("status", ExecStatus, ids=lambda status: status.value)
def test_every_command_in_every_status(status: ExecStatus) -> None:
    state = after(*LIVES[status])
    assert state.status is status
    assert tuple(outcome(DECIDER, state, each) for each in (START, STARTED, EXITED, REMOVE)) == TABLE[status]


def test_an_exec_keeps_its_command_line_sealed() -> None:
    state = (
        Story(DECIDER, ID)
        .when(CREATE)
        .then(ExecCreated(at=1, container_id=CONTAINER, spec=ExecSpec(tty=True), secret=SECRET, entrypoint="sh"))
    )
    assert (state.secret, state.entrypoint) == (SECRET, "sh")


@pytest.mark.parametrize(
    ("status", "reason", "words"),
    [
        (ExecStatus.RUNNING, Reason.CONFLICT, f"exec command {ID} is already running"),
        (ExecStatus.EXITED, Reason.CONFLICT, f"exec command {ID} has already run"),
        (ExecStatus.REMOVED, Reason.NOT_FOUND, f"No such exec instance: {ID}"),
    ],
)
def test_a_second_start_is_refused_in_dockers_words(status: ExecStatus, reason: Reason, words: str) -> None:
    Story(DECIDER, ID).when(*LIVES[status], START).rejected(reason, words)


def test_a_start_that_failed_ends_with_its_code_and_error() -> None:
    failed = ReportExecExited(exec_id=ID, at=4, exit_code=127, error="no such file")
    state = Story(DECIDER, ID).when(CREATE, START, failed).then(ExecExited(at=4, exit_code=127, error="no such file"))
    assert (state.exit_code, state.error, state.started_at, state.settled) == (127, "no such file", 0, True)


def test_a_start_has_no_outcome_before_its_process_runs() -> None:
    assert [after(*LIVES[status]).settled for status in ExecStatus] == [False, False, False, True, True, True]


def test_an_exec_that_ended_has_no_process() -> None:
    assert after(*LIVES[ExecStatus.RUNNING]).pid == 4711
    assert after(*LIVES[ExecStatus.EXITED]).pid == 0


def test_an_id_is_used_once() -> None:
    with pytest.raises(AssertionError, match="random"):
        DECIDER.decide(after(CREATE), CREATE)


def test_history_forgets_execs_early() -> None:
    assert {event.RETENTION for event in DECIDER.events} == {Retention.LOW}
