"""Which execs a sweep removes."""

from __future__ import annotations

from engine.aggregates.exec import ExecState, ExecStatus
from engine.aggregates.values.ids import ContainerID, ExecID
from engine.reactors.execs import overdue

SECOND = 1_000_000_000
NOW = 1_700_000_000 * SECOND
HERE, GONE = ContainerID("a" * 64), ContainerID("b" * 64)


def exec_of(name: str, status: ExecStatus, container: ContainerID = HERE, ended_s: int = 0) -> ExecState:
    return ExecState(exec_id=ExecID(name), status=status, container_id=container, finished_at=NOW - ended_s * SECOND)


def test_an_exec_is_kept_for_five_minutes_after_its_end() -> None:
    """EXE-08: and those of a container that is gone go with the next sweep, unless they still run."""
    execs = [
        exec_of("old", ExecStatus.EXITED, ended_s=300),
        exec_of("young", ExecStatus.EXITED, ended_s=299),
        exec_of("running", ExecStatus.RUNNING, ended_s=10_000),
        exec_of("never begun", ExecStatus.CREATED, ended_s=10_000),
        exec_of("orphan", ExecStatus.EXITED, GONE),
        exec_of("orphan never begun", ExecStatus.CREATED, GONE),
        exec_of("orphan running", ExecStatus.RUNNING, GONE),
    ]
    assert overdue(execs, {HERE}, NOW) == ["old", "orphan", "orphan never begun"]
