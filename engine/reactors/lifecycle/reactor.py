"""The lifecycle reactor: follows every container's state and performs what it asks for.

Owns: dispatching effects (plan.py) to their performers, and following exits.
How it works: after each event of a container its plan is made anew; effects under way are left alone. Plain signals
are the one thing that is not state: they are sent when their event is seen, and lost with a crash, like the signal of
a killed `kill`. A link that is taken back is closed when its event is seen, too; after a crash adopting does it.
"""

from __future__ import annotations

from functools import partial

import trio

from engine.aggregates.container import events as e
from engine.aggregates.container.decide import restarts_at_boot
from engine.aggregates.container.donors import by_dependency
from engine.aggregates.container.lifecycle import Status
from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Recorded
from engine.aggregates.values.ids import ContainerID
from engine.reactors.base import Hands, Works, surely
from engine.reactors.lifecycle import plan as effects
from engine.reactors.lifecycle.ends import Ends
from engine.reactors.lifecycle.freezes import Freezes
from engine.reactors.lifecycle.links import Links
from engine.reactors.lifecycle.removes import Removes
from engine.reactors.lifecycle.starts import Starts
from engine.reactors.lifecycle.updates import Updates

NAME = "lifecycle"


class Lifecycle:
    """Run inside the root nursery, after reconciliation."""

    def __init__(
        self,
        hands: Hands,
        starts: Starts,
        ends: Ends,
        freezes: Freezes,
        updates: Updates,
        links: Links,
        removes: Removes,
    ) -> None:
        self._hands = hands
        self._starts = starts
        self._ends = ends
        self._freezes = freezes
        self._updates = updates
        self._links = links
        self._removes = removes

    async def run(self, after: int, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Perform what every state asks for now, then follow the log from `after`."""
        async with trio.open_nursery() as nursery:
            works = Works(nursery)
            for state in self._hands.views.containers:
                self._dispatch(works, state)
            nursery.start_soon(self._start_at_boot, name="starts at boot")
            nursery.start_soon(self._ends.follow_exits, works, name="container exits")
            nursery.start_soon(self._ends.follow_ooms, works, name="shortages of memory")
            task_status.started()
            async for recorded in self._hands.pump.subscribe(after, "container"):
                state = self._hands.application.state("container", recorded.key)
                if isinstance(recorded.event, e.ContainerKillRequested):
                    self._signal(works, state, recorded)
                elif isinstance(recorded.event, e.ContainerUnlinked):
                    works.begin(("unlinked", recorded.position), partial(self._links.unlinked, state))
                self._dispatch(works, state, recorded)

    async def _start_at_boot(self) -> None:
        """Restart policies at a start of the engine. Containers come after those they depend on. Those that the last
        engine was about to stop with itself end first; nobody else waits for them."""
        async with trio.open_nursery() as nursery:
            for state in self._hands.views.containers:
                if state.shut_down:
                    nursery.start_soon(self._start_when_ended, state.container_id, name=f"end of {state.name}")
            due = [state for state in self._hands.views.containers if _is_due(state)]
            for state in by_dependency(due):
                await self._start_surely(state.container_id)

    async def _start_when_ended(self, container_id: ContainerID) -> None:
        if _is_due(await self._hands.pump.until(f"container:{container_id}", lambda state: not state.shut_down)):
            await self._start_surely(container_id)

    async def _start_surely(self, container_id: ContainerID) -> None:
        """Also when the log can not be written at the moment: the policy stays."""
        await surely(partial(self._starts.start_at_boot, container_id), f"container {container_id} is not started yet")

    def _signal(self, works: Works, state: ContainerState, recorded: Recorded) -> None:
        """A signal that is no state; or one that is, while an equal one is still waited for."""
        event = recorded.event
        assert isinstance(event, e.ContainerKillRequested)
        equal = effects.Kill(container_id=state.container_id, run=state.run, signal=event.signal)
        if not event.ends or equal in works:
            works.begin(("signal", recorded.position), partial(self._ends.signal_once, recorded))

    def _dispatch(self, works: Works, state: ContainerState, recorded: Recorded | None = None) -> None:
        correlation = recorded.cause.correlation if recorded is not None else "start-up"
        for effect in effects.plan(state):
            wanted = partial(self._is_wanted, effect)
            works.begin(effect, partial(self._perform, effect, correlation), wanted)

    def _is_wanted(self, effect: effects.Effect) -> bool:
        return effect in effects.plan(self._hands.container(effect.container_id))

    async def _perform(self, effect: effects.Effect, correlation: str) -> None:
        match effect:
            case effects.Start():
                await self._freezes.over(effect.container_id)
                await self._starts.start(effect, correlation)
            case effects.StartAgain():
                await self._starts.start_again(effect)
            case effects.End():
                await self._ends.end(effect)
            case effects.Kill():
                await self._ends.kill(effect)
            case effects.Freeze():
                await self._freezes.freeze(effect, correlation)
            case effects.Thaw():
                await self._freezes.thaw(effect, correlation)
            case effects.Update():
                await self._updates.update(effect, correlation)
            case effects.JoinNetwork():
                await self._links.join(effect, correlation)
            case effects.LeaveNetwork():
                await self._links.leave(effect, correlation)
            case effects.Remove():
                await self._removes.remove(effect, correlation)
            case _:
                raise AssertionError(f"no performer for {effect}")


def _is_due(state: ContainerState) -> bool:
    return state.status is Status.EXITED and restarts_at_boot(state)
