"""Ends of containers: signals that ask for them, deadlines that enforce them, and exits that report them.

Owns: stop and kill, and the way of an exit from the supervisor's journal into the log. An exit is forgotten by the
supervisor only after it is in the log, so no crash between the two loses one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import trio

from engine import transactions
from engine.aggregates.container import commands as c
from engine.aggregates.container import events as e
from engine.aggregates.container.donors import Kind, donors
from engine.aggregates.container.lifecycle import Status
from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Recorded
from engine.aggregates.values.ids import ContainerID, ExecID
from engine.drivers.ports.network import Resolver, Sandboxes
from engine.drivers.ports.runtime import Exit, OutOfMemory, Runtime, Streams
from engine.reactors.base import Hands, Works
from engine.reactors.lifecycle import plan as effects
from engine.reactors.lifecycle.freezes import Freezes
from engine.reactors.lifecycle.sandbox import joins_of

NAME = "lifecycle"
SIGKILL = 9
DRAIN_S = 2.0
"""How long an exit waits for the last output (a grandchild may hold the pipe for ever). Source: moby monitor.go."""
KILL_AGAIN_S = 10.0
"""How long a killed process has before it is killed once more. Source: moby kill.go."""


class Ends:
    def __init__(
        self,
        hands: Hands,
        runtime: Runtime,
        freezes: Freezes,
        streams: Streams,
        sandboxes: Sandboxes,
        resolver: Resolver,
        exec_ended: Callable[[Exit], None],
    ) -> None:
        self._hands = hands
        self._runtime = runtime
        self._freezes = freezes
        self._streams = streams
        self._sandboxes = sandboxes
        self._resolver = resolver
        self._exec_ended = exec_ended

    async def signal_once(self, recorded: Recorded) -> None:
        """Send a plain signal (`docker kill -s HUP`)."""
        event = recorded.event
        assert isinstance(event, e.ContainerKillRequested)
        await self._runtime.signal(recorded.key, event.signal)

    async def end(self, effect: effects.End) -> None:
        """Signal, wait, kill. A later stop with a sooner deadline is another effect and wins by being first. The kill
        is an event, as moby tells it, and an effect of its own; whoever is killed already needs no second."""
        if self._hands.container(effect.container_id).kill_signal:
            return
        await self._runtime.signal(effect.container_id, effect.signal)
        deadline = trio.CancelScope()
        if effect.deadline:
            left_s = (effect.deadline - self._hands.clock.now_ns()) / 1e9
            deadline = trio.move_on_after(max(0.0, left_s))
        with deadline:
            await self._ended(effect.container_id, effect.run)
        if deadline.cancelled_caught:
            now = self._hands.clock.now_ns()
            overdue = c.ReportStopOverdue(container_id=effect.container_id, run=effect.run, at=now)
            await self._hands.report(NAME, f"stop:{effect.container_id}:{effect.run}", overdue)

    async def kill(self, effect: effects.Kill) -> None:
        await self._kill_until_ended(effect.container_id, effect.run, effect.signal)

    async def _kill_until_ended(self, container_id: ContainerID, run: int, signal: int) -> None:
        """Only SIGKILL is repeated: with any other signal the process may choose to live on, and is waited for."""
        while True:
            await self._runtime.signal(container_id, signal)
            if signal == SIGKILL and self._hands.container(container_id).status in (Status.PAUSED, Status.REMOVING):
                await self._freezes.let_die(container_id, run)
            with trio.move_on_after(KILL_AGAIN_S if signal == SIGKILL else math.inf):
                await self._ended(container_id, run)
                return

    async def _ended(self, container_id: ContainerID, run: int) -> None:
        def over(state: ContainerState) -> bool:
            return state.run != run or not state.alive

        await self._hands.pump.until(f"container:{container_id}", over)

    async def follow_exits(self, works: Works) -> None:
        """Take every exit of the supervisor into the log, each in a task of its own."""
        async for exited in self._runtime.exits():
            key = ("exit", exited.container_id, exited.run, exited.exec_id)
            work = self._exec_exited if exited.exec_id else self._exited
            # Wanted for ever: an exit that can not be reported now (a full disk, a firewall that refuses) is still one.
            works.begin(key, partial(work, exited), lambda: True)

    async def follow_ooms(self, works: Works) -> None:
        """Tell of every container that runs out of memory, whether or not it survives."""
        async for oom in self._runtime.ooms():
            works.begin(("oom", oom.container_id, oom.run, oom.count), partial(self._ran_out_of_memory, oom))

    async def _ran_out_of_memory(self, oom: OutOfMemory) -> None:
        await self._start_told(oom.container_id, oom.run)
        report = c.ReportOutOfMemory(
            container_id=ContainerID(oom.container_id), run=oom.run, at=self._hands.clock.now_ns(), count=oom.count
        )
        await self._hands.report_surely(NAME, f"oom:{oom.container_id}:{oom.run}", report)

    async def _start_told(self, container_id: str, run: int) -> None:
        """A process can meet its fate before its start is in the log: the start's outcome comes first."""

        def known(state: ContainerState) -> bool:
            return state.settled_runs >= run or not state.starting

        await self._hands.pump.until(f"container:{container_id}", known)

    async def _exited(self, exited: Exit) -> None:
        """One transaction: the exit, and everything the container held. Repeats change nothing."""
        container_id = ContainerID(exited.container_id)
        await self._start_told(container_id, exited.run)
        with trio.move_on_after(DRAIN_S):
            await self._streams.drained(container_id, exited.run)
        if exited.lost:
            # The supervisor died and took the status with it; what it started may run on, held by nobody.
            await self._runtime.forget(container_id, exited.run)
        if self._runs(exited):
            await self._leave(self._hands.container(container_id))
        if self._runs(exited):
            await self._report(exited, self._hands.newest(container_id))
        await self._runtime.forget(container_id, exited.run)

    def _runs(self, exited: Exit) -> bool:
        state = self._hands.container(exited.container_id)
        return state.alive and state.run == exited.run

    async def _leave(self, state: ContainerState) -> None:
        await self._resolver.stop_serving(state.container_id)
        joins = joins_of(state, self._hands.views.networks)
        gone = not any(self._shares_network(other, state.container_id) for other in self._hands.views.containers)
        await self._sandboxes.leave(state.container_id, joins, sandbox_gone=gone)

    def _shares_network(self, other: ContainerState, owner: ContainerID) -> bool:
        """Whether it keeps the owner's network namespace in being: the addresses there are given back all the same."""
        if not (other.alive or other.starting):
            return False
        donor = donors(other.host).get(Kind.NETWORK)
        while donor is not None and donor != owner:  # who shares with one that shared and has ended
            donor = donors(self._hands.container(donor).host).get(Kind.NETWORK)
        return donor == owner

    async def _report(self, exited: Exit, state: ContainerState) -> None:
        """state: the newest. A network that it joined while the last output was waited for is given back too."""
        report = c.ReportExited(
            container_id=state.container_id,
            run=exited.run,
            at=exited.finished_at_ns,
            exit_code=exited.exit_code,
            oom_killed=exited.oom_killed,
            lost=exited.lost,
        )
        correlation = f"exit:{state.container_id}:{exited.run}"
        given_back = transactions.release(state, self._hands.views.networks.lookup)
        await self._hands.report(NAME, correlation, report, *given_back)

    async def _exec_exited(self, exited: Exit) -> None:
        exec_id = ExecID(exited.exec_id)
        self._exec_ended(exited)
        if self._hands.views.execs.get(exec_id) is not None:
            await self._hands.pump.until(f"exec:{exec_id}", lambda state: state.settled)
            await self._hands.report(NAME, f"exit:{exec_id}", *self._hands.exec_exited(exited))
        await self._runtime.forget(exited.container_id, exited.run, exec_id=exec_id)
