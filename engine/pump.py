"""The pump: wakes whoever follows the log, by position.

Owns: the ring of recent events, cursors over it, and waiters on single streams.
Refuses to know: how events are written, what subscribers do.

A subscriber is a cursor, not a queue: nothing is kept per subscriber, so a slow one costs nothing and misses nothing;
what has left the ring is read from the log. One that names what it follows (kinds of aggregates, or single events) is
left asleep by all else, and its cursor moves past that unseen: an engine has a dozen subscribers, and most events
concern one. A waiter is a predicate on one stream's fold, evaluated by the writer right after each event of that
stream, so that no state in between is missed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import islice
from typing import Any

import trio

from engine.aggregates.decider import Recorded
from engine.folds import Fold

RING_EVENTS = 2048
CHUNK_EVENTS = 256

Read = Callable[[int, int], Sequence[Recorded]]
"""(after, limit) -> events; blocking."""


class _Waiter:
    """One caller of `until`: its predicate, and the answer once there is one."""

    __slots__ = ("arrived", "error", "predicate", "state")

    def __init__(self, predicate: Callable[[Any], object]) -> None:
        self.predicate = predicate
        self.arrived = trio.Event()
        self.state: Any = None
        self.error: Exception | None = None

    def look(self, state: Any, *, ended: bool) -> None:
        """Answer if the state is the one waited for, or the last one there will be."""
        if self.arrived.is_set():
            return
        try:
            if not self.predicate(state) and not ended:
                return
        except Exception as error:
            self.error = error
        self.state = state
        self.arrived.set()


class _Sleeper:
    """A subscriber that has seen all there is: where it goes on when it is woken."""

    __slots__ = ("cursor", "woken")

    def __init__(self, cursor: int) -> None:
        self.cursor = cursor
        self.woken = trio.Event()


ANYTHING = frozenset({""})


class Pump:
    """Follows the log in memory. `read` reaches behind the ring; `fold` gives a stream's committed fold; `ended` says
    whether a state of a stream is its last."""

    def __init__(
        self,
        *,
        read: Read,
        fold: Callable[[str], Fold],
        ended: Callable[[str, Any], bool],
        limiter: trio.CapacityLimiter,
        ring_events: int = RING_EVENTS,
    ) -> None:
        self._read = read
        self._fold = fold
        self._ended = ended
        self._limiter = limiter
        self._ring: deque[Recorded] = deque(maxlen=ring_events)
        self._sleepers: dict[str, set[_Sleeper]] = {}
        self._waiters: dict[str, list[_Waiter]] = {}
        self.position = 0
        """The last position that subscribers can see."""

    def publish(self, events: Sequence[tuple[Recorded, Any]]) -> None:
        """Show committed events, each with the fold of its stream after it, in order. The writer's verb."""
        before = self.position
        for recorded, state in events:
            self._ring.append(recorded)
            self.position = recorded.position
            waiters = self._waiters.get(recorded.stream)
            if waiters:
                ended = self._ended(recorded.stream, state)
                for waiter in waiters:
                    waiter.look(state, ended=ended)
        kinds = {recorded.kind for recorded, _ in events}
        for topic in ("", *kinds, *{recorded.event.NAME for recorded, _ in events}):
            for sleeper in self._sleepers.get(topic, ()):
                if not sleeper.woken.is_set():
                    sleeper.cursor = before
                    sleeper.woken.set()

    async def subscribe(self, after: int, *topics: str) -> AsyncIterator[Recorded]:
        """Every event past position `after`, in order, for ever: the past first, then the future. Never skips. topics:
        only those of these kinds of aggregates (`container`) or of these names (`container.removed`).

        Cancel-safe; stop by leaving the loop (close the generator with `contextlib.aclosing`)."""
        cursor = after
        wanted = frozenset(topics)
        while True:
            if cursor >= self.position:
                cursor = await self._sleep(wanted or ANYTHING)
            else:
                await trio.lowlevel.checkpoint()
            for recorded in await self._next(cursor):
                cursor = recorded.position
                if not wanted or recorded.kind in wanted or recorded.event.NAME in wanted:
                    yield recorded

    async def _sleep(self, topics: frozenset[str]) -> int:
        """Wait for an event of one of the topics; a cursor before the first of them."""
        sleeper = _Sleeper(self.position)
        for topic in topics:
            self._sleepers.setdefault(topic, set()).add(sleeper)
        try:
            await sleeper.woken.wait()
        finally:
            for topic in topics:
                self._sleepers[topic].discard(sleeper)
        return sleeper.cursor

    async def until(self, stream: str, predicate: Callable[[Any], object]) -> Any:
        """Wait until `predicate` holds for the committed fold of a stream, now or after one of its events; that state.

        Returns also when the stream ends (its decider calls the state terminal): nothing more will come, so look at
        what you get. A stream without events has not ended. Cancel-safe; deadlines are the caller's."""
        fold = self._fold(stream)
        waiter = _Waiter(predicate)
        waiter.look(fold.state, ended=fold.version > 0 and self._ended(stream, fold.state))
        waiters = self._waiters.setdefault(stream, [])
        waiters.append(waiter)
        try:
            await waiter.arrived.wait()
        finally:
            waiters.remove(waiter)
            if not waiters and self._waiters.get(stream) is waiters:
                del self._waiters[stream]
        if waiter.error is not None:
            raise waiter.error
        return waiter.state

    async def _next(self, cursor: int) -> Sequence[Recorded]:
        """At least one event past the cursor, which is behind the head."""
        if self._ring and cursor + 1 >= self._ring[0].position:
            start = cursor + 1 - self._ring[0].position
            return list(islice(self._ring, start, start + CHUNK_EVENTS))
        events = await trio.to_thread.run_sync(self._read, cursor, CHUNK_EVENTS * 4, limiter=self._limiter)
        # The file may already hold a group that projections have not seen: it is not shown before its time.
        visible = [recorded for recorded in events if recorded.position <= self.position]
        assert visible, "the log lost events that were there"
        return visible
