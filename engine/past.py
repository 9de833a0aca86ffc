"""The views as they were at a position: the time machine behind `?at=`.

Owns: which states lived then (the nearest state snapshot of the archive, and a fold of what came after it), put into
fresh views. Refuses to know: HTTP. Blocking; some tenths of a second for a long history.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from engine.aggregates.catalog import ALL_DECIDERS
from engine.aggregates.decider import Recorded
from engine.archive.states import Living, living_at
from engine.archive.store import Archive
from engine.projections.events_feed import EventsFeed
from engine.projections.states import States
from engine.projections.views import Views

PAGE_EVENTS = 2048
_DECIDERS = tuple(each for each in ALL_DECIDERS if each.name in ("container", "image", "network", "volume"))


def views_at(archive: Archive, read: Callable[[int, int], Sequence[Recorded]], position: int) -> Views:
    """Everything up to and with a position. The feed stays empty. Raises LogError, PortError."""
    living = living_at(archive, _DECIDERS, position)
    after = living.position
    while after < position and (page := read(after, min(PAGE_EVENTS, position - after))):
        for recorded in page:
            if recorded.position <= position:
                living.take(recorded.stream, recorded.event)
        after = page[-1].position
    views = Views.empty(EventsFeed())
    for view in (views.containers, views.images, views.networks, views.volumes):
        _fill(view, living)
    return views


def _fill(view: States[Any], living: Living) -> None:
    kind = view.name.removesuffix("s")
    own = [(key, state) for stream, state in living.states.items() for key in _key(stream, kind)]
    view.restore(msgspec.msgpack.encode(own))


def _key(stream: str, kind: str) -> Sequence[str]:
    """The key, of a stream of that kind."""
    prefix, _, key = stream.partition(":")
    return (key,) if prefix == kind else ()
