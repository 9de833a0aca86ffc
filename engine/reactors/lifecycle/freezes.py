"""Pause and unpause: the freezer follows the log, and a refusal is told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from engine.aggregates.container import commands as c
from engine.aggregates.decider import Command
from engine.aggregates.values.ids import ContainerID
from engine.drivers.ports.runtime import Runtime
from engine.errors import Fault, PortError
from engine.reactors.base import Hands
from engine.reactors.lifecycle import plan as effects

NAME = "lifecycle"
Verb = Callable[[str], Awaitable[None]]


class Freezes:
    def __init__(self, hands: Hands, runtime: Runtime) -> None:
        self._hands = hands
        self._runtime = runtime
        self._turning: dict[str, trio.Event] = {}

    async def over(self, container_id: str) -> None:
        """Wait until nothing freezes or thaws the container: what is meant for a run that has ended must not meet the
        next one, whose processes the freezer cannot tell from its own."""
        while (turning := self._turning.get(container_id)) is not None:
            await turning.wait()

    async def freeze(self, effect: effects.Freeze, correlation: str) -> None:
        done = c.ReportPaused(container_id=effect.container_id, at=self._hands.clock.now_ns())
        await self._turn(self._runtime.freeze, self._runtime.thaw, effect, correlation, done)

    async def thaw(self, effect: effects.Thaw, correlation: str) -> None:
        done = c.ReportUnpaused(container_id=effect.container_id, at=self._hands.clock.now_ns())
        await self._turn(self._runtime.thaw, self._runtime.freeze, effect, correlation, done)

    async def let_die(self, container_id: ContainerID, run: int) -> None:
        """A frozen process takes no signal (cgroup v1). Who has ended needs no thaw: its exit is on the way."""
        async with self._alone(container_id):
            if self._hands.container(container_id).run != run:
                return
            try:
                await self._runtime.thaw(container_id)
            except PortError as error:
                if error.fault is not Fault.CONFLICT:
                    raise

    async def _turn(
        self, verb: Verb, back: Verb, effect: effects.Freeze | effects.Thaw, correlation: str, done: Command
    ) -> None:
        """back: undoes what a verb that was refused may have done to some of the processes, or to all."""
        report = done
        async with self._alone(effect.container_id):
            if self._hands.container(effect.container_id).run != effect.run:
                return
            try:
                await verb(effect.container_id)
            except PortError as error:
                if error.fault is not Fault.CONFLICT:  # Conflict: it has ended, and its exit is on the way.
                    await back(effect.container_id)
                report = c.ReportFreezeFailed(container_id=effect.container_id, error=error.message)
        await self._hands.report(NAME, correlation, report)

    @asynccontextmanager
    async def _alone(self, container_id: str) -> AsyncIterator[None]:
        await self.over(container_id)
        self._turning[container_id] = trio.Event()
        try:
            yield
        finally:
            self._turning.pop(container_id).set()
