"""`replay stats`: what a log is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

from engine.aggregates.decider import Recorded
from replay.plain import rfc3339
from replay.reader import name_of
from replay.world import World


class Objects(msgspec.Struct, frozen=True, kw_only=True):
    """Of one aggregate: how many there have ever been, and how many have not ended."""

    kind: str
    ever: int
    living: int


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """Counts, the largest first. days: by UTC date, in order. actors: programs and reactors, without process ids."""

    events: int
    file_bytes: int
    first: str
    last: str
    names: tuple[tuple[str, int], ...]
    actors: tuple[tuple[str, int], ...]
    days: tuple[tuple[str, int], ...]
    objects: tuple[Objects, ...]


def stats(events: Iterable[Recorded], world: World, file_bytes: int) -> Stats:
    """`world`: folds what is counted, too, in one pass."""
    names: Counter[str] = Counter()
    actors: Counter[str] = Counter()
    days: Counter[str] = Counter()
    first = last = ""
    for recorded in events:
        world.advance([recorded])
        last = rfc3339(recorded.time_ns)
        first = first or last
        names[name_of(recorded.event)] += 1
        actors[who(recorded.cause.actor)] += 1
        days[last[:10]] += 1
    ever = Counter(stream.partition(":")[0] for stream in world.states)
    living = Counter(stream.partition(":")[0] for stream in world.states if not world.ended(stream))
    return Stats(
        events=names.total(),
        file_bytes=file_bytes,
        first=first,
        last=last,
        names=tuple(names.most_common()),
        actors=tuple(actors.most_common()),
        days=tuple(sorted(days.items())),
        objects=tuple(Objects(kind=kind, ever=ever[kind], living=living[kind]) for kind in sorted(ever)),
    )


def who(actor: str) -> str:
    """An actor without what is new at every connection: `uid=0 exe=/usr/bin/docker`, `tcp:10.0.0.7`."""
    if actor.startswith("tcp:"):
        return actor.rpartition(":")[0]
    return " ".join(word for word in actor.split() if not word.startswith(("pid=", "gid=")))
