"""Execs: starting further processes in running containers, and sweeping those that have ended.

An exec whose start a crash cut off is reported as ended with 126: the client that waited for it is gone, and running a
command a second time is worse than not running it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Container, Iterable
from contextlib import asynccontextmanager
from functools import partial

import msgspec
import trio

from engine.aggregates.container.lifecycle import Status
from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Command, Rejected
from engine.aggregates.exec import ExecState, ExecStatus, RemoveExec, ReportExecExited, ReportExecStarted
from engine.aggregates.values.ids import ContainerID, ExecID
from engine.drivers.ports.runtime import ExecLaunch, Exit, Runtime, Stdio
from engine.errors import PortError
from engine.reactors.base import Hands, Works, tried
from engine.reactors.processes import Processes

logger = logging.getLogger("ishmael.execs")
NAME = "execs"
SWEEP_INTERVAL_S = 300.0
"""Source: moby's execCommandGC; an exec can be inspected for at least this long after its end."""
NOT_EXECUTABLE = 126
BRIEF_S = 0.005
"""How long the report of a start waits for the end, so that both are one commit: most commands people run end within
milliseconds. Only where nobody waits for the report: an attached client has its output by then."""
EXPECTED_MAX = 16
"""So many execs are kept ready for a start at once."""


class ExecSecret(msgspec.Struct, frozen=True, kw_only=True):
    """What an exec's sealed bytes hold (JSON)."""

    cmd: tuple[str, ...]
    env: tuple[str, ...] = ()


def overdue(execs: Iterable[ExecState], containers: Container[ContainerID], now_ns: int) -> list[ExecID]:
    """What a sweep removes: what ended long enough ago, and what is not running of containers that are gone."""
    horizon = now_ns - int(SWEEP_INTERVAL_S * 1e9)
    return [
        state.exec_id
        for state in execs
        if (state.status is ExecStatus.EXITED and state.finished_at <= horizon)
        or (state.status in (ExecStatus.CREATED, ExecStatus.EXITED) and state.container_id not in containers)
    ]


class _Expected(msgspec.Struct, frozen=True):
    """What a start will need, made before it is asked for. Of use when exec and container are as they were thought."""

    state: ExecState
    container: ContainerState
    launch: ExecLaunch


class _Beginning:
    """A start under way, and its end when that is quicker than the report."""

    def __init__(self) -> None:
        self.over = trio.Event()
        self.exited: Exit | None = None


class ExecReactor:
    """Run inside the root nursery, after reconciliation. `ended` must be told the exits of execs."""

    def __init__(self, hands: Hands, runtime: Runtime, processes: Processes) -> None:
        self._hands = hands
        self._runtime = runtime
        self._processes = processes
        self._beginning: dict[ExecID, _Beginning] = {}
        self._expected: dict[ExecID, _Expected] = {}

    def ended(self, exited: Exit) -> None:
        """A process has ended. Its exit is reported by whoever says so, unless it is reported with the start."""
        beginning = self._beginning.get(ExecID(exited.exec_id))
        if beginning is not None:
            beginning.exited = exited
            beginning.over.set()

    async def run(self, after: int, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start what is asked for from now on, and sweep."""
        async with trio.open_nursery() as nursery:
            works = Works(nursery)
            nursery.start_soon(self._sweep_forever, name="exec sweep")
            task_status.started()
            async for recorded in self._hands.pump.subscribe(after, "exec"):
                state = self._hands.application.state("exec", recorded.key)
                if state.status is ExecStatus.STARTING:
                    correlation = recorded.cause.correlation
                    works.begin(("start", state.exec_id), partial(self._start, state, correlation))
                elif state.status is ExecStatus.CREATED and state.spec.has_output:
                    works.begin(("expect", state.exec_id), partial(self._expect, state.attached()))

    def approach(self, container_id: ContainerID, exec_id: ExecID) -> None:
        """An exec is created that its client will attach to."""
        self._runtime.approach(container_id, exec_id)

    @asynccontextmanager
    async def expecting(self, state: ExecState) -> AsyncIterator[None]:
        """The attached exec is started within the block, and is in this state then."""
        await self._expect(state)
        try:
            yield
        finally:
            self._expected.pop(state.exec_id, None)

    async def _expect(self, state: ExecState) -> None:
        """Look for what the start of an exec takes, and have the runtime prepare it. Nothing is promised."""
        if self._expected_launch(state) is not None:
            return
        with contextlib.suppress(PortError, Rejected):  # whoever starts it hears why
            container = self._hands.container(state.container_id)
            launch = await self._launch(state, container)
            self._expected[state.exec_id] = _Expected(state, container, launch)
            if len(self._expected) > EXPECTED_MAX:
                del self._expected[next(iter(self._expected))]
            self._runtime.expect(launch)

    def _expected_launch(self, state: ExecState) -> ExecLaunch | None:
        expected = self._expected.get(state.exec_id)
        if expected is None:
            return None
        same = expected.state == state and expected.container is self._hands.container(state.container_id)
        return expected.launch if same else None

    async def _start(self, state: ExecState, correlation: str) -> None:
        beginning = self._beginning[state.exec_id] = _Beginning()
        try:
            launch = self._expected_launch(state)
            if launch is None:
                launch = await self._launch(state, self._hands.container(state.container_id))
            pid = await self._runtime.execute(launch)
            outcome = await self._begun(state, beginning, pid)
        except PortError as error:
            outcome = self._failed(state, error.message, error.exit_code)
        except Exception as error:
            # A client waits for the outcome, and a second try might run the command twice: a bug is a failure too.
            logger.exception("exec %s met a bug", state.exec_id)
            outcome = self._failed(state, f"internal error: {error!r}", 0)
        finally:
            del self._beginning[state.exec_id]
        await self._hands.report_surely(NAME, correlation, *outcome)

    async def _begun(self, state: ExecState, beginning: _Beginning, pid: int) -> tuple[Command, ...]:
        """The start, and the end where that comes at once."""
        started = ReportExecStarted(exec_id=state.exec_id, at=self._hands.clock.now_ns(), pid=pid)
        if not state.detach:
            with trio.move_on_after(BRIEF_S):
                await beginning.over.wait()
        exited = beginning.exited
        return (started,) if exited is None else (started, *self._hands.exec_exited(exited))

    def _failed(self, state: ExecState, error: str, exit_code: int) -> tuple[Command, ...]:
        now, code = self._hands.clock.now_ns(), exit_code or NOT_EXECUTABLE
        report = ReportExecExited(exec_id=state.exec_id, at=now, exit_code=code, error=error)
        return self._hands.end_of_exec(report, state.container_id)

    async def _launch(self, state: ExecState, container: ContainerState) -> ExecLaunch:
        if container.status is not Status.RUNNING:
            raise PortError("exec", f"container {container.container_id} is not running")
        assert state.secret is not None, "a created exec has its command line"
        secret = msgspec.json.decode(self._hands.vault.open(state.secret), type=ExecSecret)
        process = await self._processes.of_exec(container, state.spec, secret.cmd, secret.env)
        spec = state.spec
        return ExecLaunch(
            exec_id=state.exec_id,
            container_id=state.container_id,
            process=process,
            stdio=Stdio(
                tty=spec.tty,
                open_stdin=spec.attach_stdin and not state.detach,
                stdin_once=True,
                height=state.height or spec.height,
                width=state.width or spec.width,
            ),
        )

    async def _sweep_forever(self) -> None:
        while True:
            await trio.sleep(SWEEP_INTERVAL_S)
            await tried(self._sweep, "execs that have ended are not removed")

    async def _sweep(self) -> None:
        living = {container.container_id for container in self._hands.views.containers}
        for exec_id in overdue(list(self._hands.views.execs), living, self._hands.clock.now_ns()):
            await self._hands.report(NAME, "sweep", RemoveExec(exec_id=exec_id))
