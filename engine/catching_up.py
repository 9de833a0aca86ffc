"""Projections brought to the head of the log.

Owns: one reading of history for all of them, in which as little as possible is decoded.
Refuses to know: what a view means, where rows are kept.

Most of a long history is about what is gone. So the rows of what is kept as states wait unread, stream by stream, and
are forgotten together when their stream ends: only what still lives is decoded and folded. An event that nobody
follows is not decoded either. Everything else is told event by event, as when it happened.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from engine.aggregates.decider import Decider, Recorded
from engine.archive.segment import Row
from engine.codec import EventCodec
from engine.projections.base import Projection, Spilling, follows

UNREAD_ROWS = 64
"""Of one stream: then it is folded so far, because some live long."""

Batches = Callable[[int], Iterator[Sequence[Row]]]
"""All rows past a position, in order, some at a time; blocking."""


@runtime_checkable
class OfStates(Protocol):
    """A projection that is made of the states of streams, and needs nothing of how they came about."""

    @property
    def deciders(self) -> Mapping[str, Decider[Any]]:
        """Of the aggregates whose streams it is made of."""
        ...

    def before(self, stream: str, version: int) -> Any:
        """The state of a stream before the event that is the first to be read of it; None where it will find out the
        stream's state by itself."""
        ...

    def settle(self, stream: str, state: Any) -> None:
        """Take the newest state of a stream; None when it has ended."""
        ...


def catch_up(projections: Sequence[tuple[Projection, int]], codec: EventCodec, batches: Batches) -> None:
    """Show each projection what lies behind its position, up to the head of the log. Raises LogError for what can not
    be read."""
    reading = _Reading(projections, codec)
    spilling = [projection for projection, _ in projections if isinstance(projection, Spilling)]
    with _uncollected():
        for rows in batches(min((start for _, start in projections), default=0)):
            reading.take(rows)
            for projection in spilling:
                projection.spill()
        reading.settle()


Take = Callable[[Row], None]
Route = tuple[tuple[tuple[Take, int], ...], tuple[tuple[Callable[[Recorded], None], int], ...]]
"""Whom the events of one name concern, each with the position behind which they do: streams that wait unread, and
projections that are told."""


class _Reading:
    """One way through history."""

    def __init__(self, projections: Sequence[tuple[Projection, int]], codec: EventCodec) -> None:
        self._projections = projections
        self._codec = codec
        self._streams = [
            (projection, start, _Streams(projection, codec))
            for projection, start in projections
            if isinstance(projection, OfStates)
        ]
        self._routes: dict[str, Route] = {}

    def take(self, rows: Sequence[Row]) -> None:
        decode = self._codec.decode
        for row in rows:
            position, stream, version, topic, data = row
            unread, told = self._routes.get(topic) or self._route(stream, topic)
            for take, start in unread:
                if position > start:
                    take(row)
            if told:
                time_ns, cause, event = decode(topic, data)
                recorded = Recorded(
                    position=position, stream=stream, version=version, time_ns=time_ns, cause=cause, event=event
                )
                for apply, start in told:
                    if position > start:
                        apply(recorded)

    def settle(self) -> None:
        for _, _, streams in self._streams:
            streams.settle()

    def _route(self, stream: str, topic: str) -> Route:
        """An event has one aggregate, whose name its streams begin with."""
        kind, event_type = stream.partition(":")[0], self._codec.type_of(topic)
        unread = [
            (streams.end if event_type in view.deciders[kind].endings else streams.take, start)
            for view, start, streams in self._streams
            if kind in view.deciders
        ]
        told = [
            (each.apply, start)
            for each, start in self._projections
            if not isinstance(each, OfStates) and follows(each, kind, event_type)
        ]
        route = self._routes[topic] = (tuple(unread), tuple(told))
        return route


class _Streams:
    """The rows of one view's streams, unread as long as it goes, in the order in which the streams began."""

    def __init__(self, view: OfStates, codec: EventCodec) -> None:
        self._view = view
        self._codec = codec
        self._rows: dict[str, list[Row]] = {}
        self._folded: dict[str, Any] = {}

    def take(self, row: Row) -> None:
        rows = self._rows.get(row[1])
        if rows is None:
            self._rows[row[1]] = [row]
        else:
            rows.append(row)
            if len(rows) >= UNREAD_ROWS:
                self._fold(row[1], rows)

    def end(self, row: Row) -> None:
        """The row ends its stream, whatever came before."""
        self._rows.pop(row[1], None)
        self._folded.pop(row[1], None)
        self._view.settle(row[1], None)

    def settle(self) -> None:
        """Hand the view all that lives."""
        for stream, rows in self._rows.items():
            if rows:
                self._fold(stream, rows)
            if stream in self._folded:
                self._view.settle(stream, self._folded.pop(stream))

    def _fold(self, stream: str, rows: list[Row]) -> None:
        kind, _, key = stream.partition(":")
        decider = self._view.deciders[kind]
        state = self._folded[stream] if stream in self._folded else self._view.before(stream, rows[0][2])
        if state is not None or stream in self._folded:
            for _, _, _, topic, data in rows:
                event = self._codec.decode(topic, data)[2]
                after = decider.evolve(decider.initial(key) if state is None else state, event)
                state = None if decider.terminal(after) else after
            self._folded[stream] = state
        rows.clear()


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """A fold makes millions of values and no cycle: looking for some would take half of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
