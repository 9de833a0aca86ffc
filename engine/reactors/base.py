"""What all reactors share: the hands they work with, and one task per piece of work.

Owns: `Hands` (the log, the views, clock, entropy, vault) and `Works`, which runs a keyed piece of work at most once at
a time and turns a bug in one into a log line and not into the end of the engine.
Refuses to know: what any effect is.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Hashable

import msgspec
import trio

from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Cause, Command
from engine.application import Application, Committed
from engine.clock import Clock
from engine.entropy import Entropy
from engine.projections.views import Views
from engine.pump import Pump
from engine.vault import Vault

logger = logging.getLogger("ishmael.reactors")


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

    async def report(self, reactor: str, correlation: str, *commands: Command, causation: str = "") -> Committed:
        """Append what the world did, as the reactor."""
        cause = Cause(actor=f"reactor:{reactor}", correlation=correlation, causation=causation)
        return await self.application.execute(*commands, cause=cause)


class Works:
    """Keyed pieces of work in one nursery: beginning one that runs already does nothing."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._running: dict[Hashable, trio.Event] = {}

    def begin(self, key: Hashable, work: Callable[[], Awaitable[None]]) -> None:
        if key in self._running:
            return
        self._running[key] = trio.Event()
        self._nursery.start_soon(self._run, key, work, name=f"work {key!r}")

    async def settled(self, key: Hashable) -> None:
        """Wait until the piece of work has ended; at once when there is none."""
        event = self._running.get(key)
        if event is not None:
            await event.wait()

    async def _run(self, key: Hashable, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception:
            # A bug, or a world that refused in a way nobody planned for. The intent stays open in the log: the next
            # event of the stream, or the next start, finds it and tries again.
            logger.exception("work %r failed", key)
        finally:
            self._running.pop(key).set()
