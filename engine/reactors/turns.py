"""Taking turns at a thing that has a name: the second waits for the first, and nobody for other things."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

import trio


class Turns:
    """Locks by name, each there for as long as somebody has or wants it."""

    def __init__(self) -> None:
        self._locks: dict[Hashable, trio.Lock] = {}

    def taken(self, name: Hashable) -> bool:
        return name in self._locks

    @asynccontextmanager
    async def turn(self, name: Hashable) -> AsyncIterator[None]:
        """In the order of coming. No deadline: whoever has the turn has one of its own, and the wait can be
        cancelled."""
        lock = self._locks.setdefault(name, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked():
                self._locks.pop(name, None)
