"""Pause and unpause: the freezer follows the log, and a refusal is told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from engine.aggregates.container import commands as c
from engine.aggregates.decider import Command
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

    async def _turn(self, verb: Verb, back: Verb, effect: effects.Effect, correlation: str, done: Command) -> None:
        """back: undoes what a verb that was refused may have done to some of the processes, or to all."""
        report = done
        await self.over(effect.container_id)
        self._turning[effect.container_id] = trio.Event()
        try:
            await verb(effect.container_id)
        except PortError as error:
            if error.fault is not Fault.CONFLICT:  # Conflict: it has ended, and its exit is on the way.
                await back(effect.container_id)
            report = c.ReportFreezeFailed(container_id=effect.container_id, error=error.message)
        finally:
            self._turning.pop(effect.container_id).set()
        await self._hands.report(NAME, correlation, report)
