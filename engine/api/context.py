"""What the routes are given: the application, the views, the ports; by name, once, frozen.

Everything here is a Protocol of what the API uses, so that the front knows no concrete driver and tests can serve a
route with behaviour of their own. bootstrap.py puts the real things together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

from engine.aggregates.decider import Cause, Command, Recorded
from engine.config import DaemonConfig


class Application(Protocol):
    """The writer (engine/application.py)."""

    async def execute(self, *commands: Command, cause: Cause) -> Any: ...

    def state(self, kind: str, key: str) -> Any: ...


class Pump(Protocol):
    """The log as it grows (engine/pump.py)."""

    def subscribe(self, after: int) -> AsyncIterator[Recorded]: ...


class Clock(Protocol):
    """Wall time."""

    def now_ns(self) -> int: ...


class Counts(Protocol):
    """What `/info` tells of the views: how many there are of each."""

    def container_states(self) -> tuple[int, int, int]:
        """Running, paused, stopped."""
        ...

    def images(self) -> int: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class ApiContext:
    """What a route may use. `views` are the projections by name (`views.containers`, `views.events`); `ports` the
    drivers by name (`ports.streams`, `ports.registry`): both are structs of bootstrap.py."""

    application: Application
    pump: Pump
    vault: Any
    views: Any
    ports: Any
    config: DaemonConfig
    clock: Clock
    entropy: Any
    host: Any
    engine_id: str
    counts: Counts
    ready: Callable[[], bool] = lambda: True
    """False while the start-up recovers: everything but `_ping` and `version` answers 503 then."""
