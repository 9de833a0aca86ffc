"""Which execs a sweep removes, and when."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import trio

from engine.aggregates.exec import ExecState, ExecStatus, RemoveExec
from engine.aggregates.values.ids import ContainerID, ExecID
from engine.errors import Fault, PortError
from engine.reactors.execs import SWEEP_INTERVAL_S, ExecReactor, overdue

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


async def test_a_sweep_that_the_log_has_no_room_for_comes_again(autojump_clock: object) -> None:
    removed: list[str] = []
    refusals = [PortError("append to the log", "no space left on device", fault=Fault.DISK_FULL, retriable=True)]

    async def report(reactor: str, correlation: str, command: RemoveExec) -> None:
        if refusals:
            raise refusals.pop()
        removed.append(command.exec_id)

    async def nothing(*_: object) -> Any:
        await trio.sleep_forever()
        yield

    hands = SimpleNamespace(
        views=SimpleNamespace(containers=[], execs=[exec_of("old", ExecStatus.EXITED, ended_s=300)]),
        clock=SimpleNamespace(now_ns=lambda: NOW),
        pump=SimpleNamespace(subscribe=nothing),
        report=report,
    )
    reactor = ExecReactor(cast("Any", hands), cast("Any", None), cast("Any", None))
    with trio.move_on_after(2.5 * SWEEP_INTERVAL_S):
        await reactor.run(0)
    assert removed == ["old"]
