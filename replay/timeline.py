"""`replay log`: which events, in order.

Owns: the filters. An object's events are those of its own stream and those that mention its id: the address it was
given, the name it took, the processes run in it.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator

import msgspec

from engine.aggregates.decider import Recorded
from replay.reader import LogReader, UnknownEvent, name_of


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """All that is given must hold. stream: one object. actor: part of the actor's text. name: a shell pattern on the
    stored name (`container.*`). first..last: positions, inclusive; None is the end."""

    stream: str = ""
    actor: str = ""
    correlation: str = ""
    name: str = ""
    first: int = 1
    last: int | None = None

    def matches(self, recorded: Recorded) -> bool:
        return (
            (not self.actor or self.actor in recorded.cause.actor)
            and (not self.correlation or recorded.cause.correlation == self.correlation)
            and (not self.name or fnmatch.fnmatchcase(name_of(recorded.event), self.name))
            and (not self.stream or concerns(recorded, self.stream))
        )


def concerns(recorded: Recorded, stream: str) -> bool:
    """Is this event of a stream, or does it mention its key?"""
    if recorded.stream == stream:
        return True
    kind, _, key = stream.partition(":")
    if kind == "volume":
        # A volume's key is a word of the user's choice, which may turn up anywhere.
        return False
    event = recorded.event
    stored = event.payload if isinstance(event, UnknownEvent) else event
    return key.encode() in msgspec.msgpack.encode(stored)


def timeline(reader: LogReader, wanted: Filter, *, limit: int = 0) -> Iterator[Recorded]:
    """Matching events in order; the last `limit` of them where one is given."""
    last = reader.head if wanted.last is None else wanted.last
    if not limit:
        events = reader.events(after=wanted.first - 1, upto=last)
        yield from (recorded for recorded in events if wanted.matches(recorded))
        return
    newest: list[Recorded] = []
    for recorded in reader.newest_first(upto=last):
        if recorded.position < wanted.first or len(newest) == limit:
            break
        if wanted.matches(recorded):
            newest.append(recorded)
    yield from reversed(newest)
