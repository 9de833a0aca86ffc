"""Health checks (CTR-23): probes in running containers, and what their results mean.

Owns: when a probe is due, running it, and judging. A probe that changes nothing is no event: it is kept among the last
five, for `inspect`, and gone with the engine. One that changes the status or the failing streak is reported to the log,
so that health survives a restart of the engine.
Source: moby daemon/health.go.
"""

from __future__ import annotations

import socket
from collections import deque
from functools import partial

import msgspec
import trio

from engine.aggregates.container.commands import ReportHealth
from engine.aggregates.container.events import ContainerExited, ContainerStarted
from engine.aggregates.container.lifecycle import Status
from engine.aggregates.container.state import ContainerState
from engine.aggregates.exec import ExecSpec
from engine.aggregates.values.config import HealthConfig
from engine.aggregates.values.health import Health, HealthResult, HealthStatus
from engine.aggregates.values.ids import ContainerID
from engine.drivers.ports.runtime import ExecLaunch, Exit, Runtime, Stdio, Streams
from engine.errors import PortError
from engine.reactors.base import Hands, Works
from engine.reactors.processes import Processes

NAME = "health"
NS = 1_000_000_000
SIGKILL = 9
OUTPUT_BYTES_MAX = 4096
RESULTS_KEPT = 5
TIMED_OUT = -1
KILL_WAIT_S = 10.0


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """A health configuration with its defaults put in, in seconds."""

    interval_s: float
    timeout_s: float
    start_period_s: float
    start_interval_s: float
    retries: int


def schedule(config: HealthConfig) -> Schedule:
    return Schedule(
        interval_s=(config.interval or 30 * NS) / NS,
        timeout_s=(config.timeout or 30 * NS) / NS,
        start_period_s=config.start_period / NS,
        start_interval_s=(config.start_interval or 5 * NS) / NS,
        retries=config.retries or 3,
    )


def probe_command(state: ContainerState) -> tuple[str, ...]:
    """What to run, or () when the container has no health check."""
    config = state.config.healthcheck
    test = config.test or () if config is not None else ()
    match test:
        case ("CMD", *words) if words:
            return tuple(words)
        case ("CMD-SHELL", line, *_):
            shell = state.config.shell or ("/bin/sh", "-c")
            return (*shell, line)
        case _:
            return ()


def judge(health: Health, result: HealthResult, *, in_start_period: bool, retries: int) -> tuple[HealthStatus, int]:
    """(status, failing streak) after a result. A failure in the start period does not count, a success ends it."""
    if result.exit_code == 0:
        return HealthStatus.HEALTHY, 0
    if in_start_period and health.status is HealthStatus.STARTING:
        return HealthStatus.STARTING, health.failing_streak
    streak = health.failing_streak + 1
    return (HealthStatus.UNHEALTHY if streak >= retries else health.status), streak


class HealthReactor:
    """Run inside the root nursery. `ended` must be told the exits of probes (their exec ids begin with PROBE)."""

    def __init__(self, hands: Hands, runtime: Runtime, streams: Streams, processes: Processes) -> None:
        self._hands = hands
        self._runtime = runtime
        self._streams = streams
        self._processes = processes
        self._codes: dict[str, int] = {}
        self._waiting: dict[str, trio.Event] = {}
        self._recent: dict[ContainerID, deque[HealthResult]] = {}

    def recent(self, state: ContainerState) -> tuple[HealthResult, ...]:
        """The last five results of the current run, the quiet ones too, oldest first."""
        kept = self._recent.get(state.container_id)
        return tuple(kept) if kept else state.health.log

    def ended(self, exited: Exit) -> None:
        """A probe's process has ended."""
        if (event := self._waiting.get(exited.exec_id)) is not None:
            self._codes[exited.exec_id] = exited.exit_code
            event.set()

    async def run(self, after: int, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            works = Works(nursery)
            for state in self._hands.views.containers:
                self._watch(works, state)
            task_status.started()
            async for recorded in self._hands.pump.subscribe(after, ContainerStarted.NAME, ContainerExited.NAME):
                self._watch(works, self._hands.container(recorded.key))

    def _watch(self, works: Works, state: ContainerState) -> None:
        if not state.alive:
            self._recent.pop(state.container_id, None)
        elif probe_command(state):
            works.begin((state.container_id, state.run), partial(self._follow, state.container_id, state.run))

    async def _follow(self, container_id: ContainerID, run: int) -> None:
        """Probe one run of a container until it ends."""
        stream = f"container:{container_id}"
        async with trio.open_nursery() as nursery:

            async def until_over() -> None:
                await self._hands.pump.until(stream, lambda now: now.run != run or not now.alive)
                nursery.cancel_scope.cancel()

            nursery.start_soon(until_over, name="health end")
            while True:
                state = self._hands.container(container_id)
                await trio.sleep(self._pause_s(state))
                state = self._hands.container(container_id)
                if state.status is Status.RUNNING:
                    await self._probe(state)

    def _pause_s(self, state: ContainerState) -> float:
        assert state.config.healthcheck is not None, "only containers with a health check are followed"
        plan = schedule(state.config.healthcheck)
        young = self._in_start_period(state, plan) and state.health.status is HealthStatus.STARTING
        return plan.start_interval_s if young else plan.interval_s

    def _in_start_period(self, state: ContainerState, plan: Schedule) -> bool:
        return self._hands.clock.now_ns() - state.started_at < plan.start_period_s * NS

    async def _probe(self, state: ContainerState) -> None:
        assert state.config.healthcheck is not None, "only containers with a health check are followed"
        plan = schedule(state.config.healthcheck)
        result = await self._run_probe(state, plan.timeout_s)
        self._recent.setdefault(state.container_id, deque(state.health.log, maxlen=RESULTS_KEPT)).append(result)
        state = self._hands.container(state.container_id)
        status, streak = judge(
            state.health, result, in_start_period=self._in_start_period(state, plan), retries=plan.retries
        )
        if (status, streak) == (state.health.status, state.health.failing_streak):
            return
        report = ReportHealth(
            container_id=state.container_id,
            run=state.run,
            at=result.finished_at,
            status=status,
            failing_streak=streak,
            last=result,
        )
        await self._hands.report_surely(NAME, f"health:{state.container_id}:{state.run}", report)

    async def _run_probe(self, state: ContainerState, timeout_s: float) -> HealthResult:
        started_at = self._hands.clock.now_ns()
        exec_id = self._hands.entropy.hex_id()
        output = bytearray()
        self._waiting[exec_id] = trio.Event()
        try:
            with trio.move_on_after(timeout_s) as limit:
                code = await self._execute(state, exec_id, output)
            if limit.cancelled_caught:
                await self._kill(state.container_id, exec_id)
                code = TIMED_OUT
                output[:] = f"Health check exceeded timeout ({timeout_s:g}s)".encode()
        except PortError as error:
            code, output[:] = error.exit_code or TIMED_OUT, error.message.encode()
        finally:
            self._waiting.pop(exec_id)
            self._codes.pop(exec_id, None)
        return HealthResult(
            started_at=started_at,
            finished_at=self._hands.clock.now_ns(),
            exit_code=code,
            output=bytes(output[:OUTPUT_BYTES_MAX]).decode(errors="replace"),
        )

    async def _execute(self, state: ContainerState, exec_id: str, output: bytearray) -> int:
        """Run the probe to its end, its output into `output`."""
        process = await self._processes.of_exec(state, ExecSpec(), probe_command(state), ())
        launch = ExecLaunch(exec_id=exec_id, container_id=state.container_id, process=process, stdio=Stdio())
        ours, theirs = socket.socketpair()
        refused: PortError | None = None
        with ours, theirs:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._collect, ours, output, name="health output")

                async def attach(task_status: trio.TaskStatus[None]) -> None:
                    await self._streams.attach(
                        state.container_id,
                        theirs.fileno(),
                        exec_id=exec_id,
                        stdin=False,
                        stdout=True,
                        stderr=True,
                        multiplexed=False,
                        registered=task_status.started,
                    )
                    theirs.close()

                await nursery.start(attach, name="health attach")
                try:
                    await self._runtime.execute(launch)
                    await self._waiting[exec_id].wait()
                except PortError as error:
                    refused = error  # Raised inside, it would leave as a group, which nobody expects.
                    nursery.cancel_scope.cancel()
        if refused is not None:
            raise refused
        return self._codes[exec_id]

    @staticmethod
    async def _collect(sock: socket.socket, output: bytearray) -> None:
        """Read to the end, keeping what fits: a probe that floods must not be stopped by a full socket."""
        sock.setblocking(False)
        stream = trio.socket.from_stdlib_socket(socket.socket(fileno=sock.detach()))
        with stream:
            while data := await stream.recv(65536):
                output += data[: max(0, OUTPUT_BYTES_MAX - len(output))]

    async def _kill(self, container_id: ContainerID, exec_id: str) -> None:
        with trio.CancelScope(shield=True), trio.move_on_after(KILL_WAIT_S):
            await self._runtime.signal(container_id, SIGKILL, exec_id=exec_id)
            await self._waiting[exec_id].wait()
