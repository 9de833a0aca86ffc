"""All read models of a running engine, as one value to hand around."""

from __future__ import annotations

import msgspec

from engine.projections.base import Projection
from engine.projections.containers import Containers
from engine.projections.events_feed import EventsFeed
from engine.projections.execs import Execs
from engine.projections.images import Images
from engine.projections.networks import Networks
from engine.projections.volumes import Volumes


class Views(msgspec.Struct, frozen=True, kw_only=True):
    """Each is a projection; `events` is the feed behind `/events`."""

    containers: Containers
    images: Images
    networks: Networks
    volumes: Volumes
    execs: Execs
    events: EventsFeed

    @classmethod
    def empty(cls, events: EventsFeed) -> Views:
        """Before anything was told to them."""
        return cls(
            containers=Containers(),
            images=Images(),
            networks=Networks(),
            volumes=Volumes(),
            execs=Execs(),
            events=events,
        )

    def all(self) -> tuple[Projection, ...]:
        return (self.containers, self.images, self.networks, self.volumes, self.execs, self.events)
