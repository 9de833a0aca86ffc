"""What all reactors share: the hands they work with, and one task per piece of work.

Owns: `Hands` (the log, the views, clock, entropy, vault) and `Works`, which runs a keyed piece of work at most once at
a time, turns a bug in one into a log line and not into the end of the engine, and tries again as long as the log still
asks for it.
Refuses to know: what any effect is.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Hashable, Iterable
from functools import partial
from typing import Any, TypeVar

import msgspec
import trio

from engine.aggregates.container.lifecycle import Status
from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Cause, Command
from engine.aggregates.exec import RemoveExec, ReportExecExited
from engine.aggregates.values.ids import ExecID
from engine.application import Application, Committed
from engine.clock import Clock
from engine.drivers.ports.runtime import Exit
from engine.entropy import Entropy
from engine.errors import PortError
from engine.projections.views import Views
from engine.pump import Pump
from engine.vault import Vault

logger = logging.getLogger("ishmael.reactors")
T = TypeVar("T")
RETRY_S_MIN, RETRY_S_MAX = 0.1, 30.0


class Hands(msgspec.Struct, frozen=True, kw_only=True):
    """What a reactor needs besides its ports."""

    application: Application
    views: Views
    vault: Vault
    clock: Clock
    entropy: Entropy

    @property
    def pump(self) -> Pump:
        return self.application.pump

    def container(self, container_id: str) -> ContainerState:
        """The newest state of a container; ABSENT for an unknown id."""
        state = self.application.state("container", container_id)
        assert isinstance(state, ContainerState)
        return state

    def env(self, state: ContainerState) -> tuple[str, ...]:
        """A container's environment in the clear."""
        return () if state.env is None else msgspec.json.decode(self.vault.open(state.env), type=tuple[str, ...])

    def end_of_exec(self, report: ReportExecExited, container_id: str) -> tuple[Command, ...]:
        """An exec's end; behind the end of its container nobody can ask for it any more, so it goes too."""
        if self.container(container_id).status is not Status.REMOVED:
            return (report,)
        return (report, RemoveExec(exec_id=report.exec_id))

    def exec_exited(self, exited: Exit) -> tuple[Command, ...]:
        """What the exit of an exec's process is to the log."""
        report = ReportExecExited(
            exec_id=ExecID(exited.exec_id), at=exited.finished_at_ns, exit_code=exited.exit_code
        )
        return self.end_of_exec(report, exited.container_id)

    def newest(self, container_id: str) -> ContainerState:
        """As `container`, with what waits for the disk: what transactions are made of (`Application.newest`)."""
        state = self.application.newest("container", container_id)
        assert isinstance(state, ContainerState)
        return state

    async def report(self, reactor: str, correlation: str, *commands: Command, causation: str = "") -> Committed:
        """Append what the world did, as the reactor."""
        cause = Cause(actor=f"reactor:{reactor}", correlation=correlation, causation=causation)
        return await self.application.execute(*commands, cause=cause)

    async def report_surely(self, reactor: str, correlation: str, *commands: Command) -> Committed:
        """As `report`, for a fact whose effect must not be repeated: while the log can not be written (a full disk) it
        waits. No deadline: the fact stays true, and an engine that ends meanwhile finds it at its next start."""
        return await surely(partial(self.report, reactor, correlation, *commands), "what happened is not written down")


async def surely(attempt: Callable[[], Awaitable[T]], trouble: str) -> T:
    """Try until the world does not refuse, after 0.1 s, and then ever later up to 30 s: for what may be repeated."""
    delay_s = RETRY_S_MIN
    while True:
        try:
            return await attempt()
        except PortError as error:
            logger.warning("%s: %s; again in %.1f s", trouble, error.message, delay_s)
        await trio.sleep(delay_s)
        delay_s = min(2 * delay_s, RETRY_S_MAX)


async def tried(work: Callable[[], Awaitable[object]], trouble: str) -> bool:
    """Whether the world did not refuse; a refusal is told. For what somebody comes by again."""
    try:
        await work()
    except PortError as error:
        logger.warning("%s: %s", trouble, error.message)
        return False
    return True


class Works:
    """Keyed pieces of work in one nursery.

    wanted: whether the log still asks for it. While it does, a piece of work that failed is tried again, after 0.1 s
    and then ever later up to 30 s; and one that was begun again while it ran is run once more, because it may have
    looked at an older state. Without `wanted` it is tried once."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._running: dict[Hashable, trio.Event] = {}
        self._asked_again: set[Hashable] = set()

    def begin(
        self, key: Hashable, work: Callable[[], Awaitable[None]], wanted: Callable[[], bool] | None = None
    ) -> None:
        if key in self._running:
            self._asked_again.add(key)
            return
        self._running[key] = trio.Event()
        self._nursery.start_soon(self._run, key, work, wanted, name=f"work {key!r}")

    def __contains__(self, key: Hashable) -> bool:
        """Whether the piece of work is under way."""
        return key in self._running

    async def settled(self, key: Hashable) -> None:
        """Wait until the piece of work has ended; at once when there is none."""
        event = self._running.get(key)
        if event is not None:
            await event.wait()

    async def _run(self, key: Hashable, work: Callable[[], Awaitable[None]], wanted: Callable[[], bool] | None) -> None:
        delay_s = RETRY_S_MIN
        try:
            while wanted is None or wanted():
                self._asked_again.discard(key)
                done = await self._try(key, work)
                if wanted is None or (done and key not in self._asked_again):
                    return
                if not done:
                    await trio.sleep(delay_s)
                    delay_s = min(2 * delay_s, RETRY_S_MAX)
        finally:
            self._asked_again.discard(key)
            self._running.pop(key).set()

    @staticmethod
    async def _try(key: Hashable, work: Callable[[], Awaitable[None]]) -> bool:
        try:
            await work()
        except PortError as error:
            if not error.retriable:
                logger.exception("work %r failed", key)
            else:
                logger.warning("work %r waits: %s", key, error.message)
            return False
        except Exception:
            # A bug, or a world that refused in a way nobody planned for. The intent stays open in the log.
            logger.exception("work %r failed", key)
            return False
        return True


async def follow_states(
    hands: Hands,
    living: Iterable[Any],
    kind: str,
    dispatch: Callable[[Works, Any, str], None],
    after: int,
    task_status: trio.TaskStatus[None],
) -> None:
    """What every state-driven reactor does: perform what each living state asks for, then follow the log from `after`.

    dispatch(works, state, correlation) begins what the state asks for; it is called once for each living state and
    after every event of a stream of this kind. Started once the living ones are dispatched."""
    async with trio.open_nursery() as nursery:
        works = Works(nursery)
        for state in living:
            dispatch(works, state, "start-up")
        task_status.started()
        async for recorded in hands.pump.subscribe(after, kind):
            dispatch(works, hands.application.state(kind, recorded.key), recorded.cause.correlation)
