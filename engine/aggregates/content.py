"""The store's content: one stream, which tells what was discarded because nothing had a use for it.

What is used is no state of this aggregate: it is a fold over images, containers and leases (`used`). What goes with an
image is told by `image.removed`. Small aggregate in one module.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import msgspec

from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Command, Decider, Event
from engine.aggregates.image import ImageState
from engine.aggregates.transfer import TransferState
from engine.aggregates.values.ids import ChainID, Digest

STORE = "store"


class DiscardContent(Command, frozen=True, kw_only=True):
    """A collection's decision. why: for people, `nothing uses it` and how that came."""

    why: str
    blobs: tuple[Digest, ...] = ()
    layers: tuple[ChainID, ...] = ()

    @property
    def key(self) -> str:
        return STORE


class ContentDiscarded(Event, frozen=True, kw_only=True):
    """Decided before anything goes: what a crash has left there nevertheless, the next collection finds again."""

    NAME: ClassVar[str] = "content.discarded"
    why: str
    blobs: tuple[Digest, ...] = ()
    layers: tuple[ChainID, ...] = ()


class ContentState(msgspec.Struct, frozen=True, kw_only=True):
    """How many collections found something, and how much."""

    key: str
    collections: int = 0
    blobs: int = 0
    layers: int = 0


def evolve(state: ContentState, event: ContentDiscarded) -> ContentState:
    return ContentState(
        key=state.key,
        collections=state.collections + 1,
        blobs=state.blobs + len(event.blobs),
        layers=state.layers + len(event.layers),
    )


def decide(_state: ContentState, command: DiscardContent) -> tuple[Event, ...]:
    """A collection that found nothing is no event."""
    if not (command.blobs or command.layers):
        return ()
    return (ContentDiscarded(why=command.why, blobs=command.blobs, layers=command.layers),)


DECIDER: Decider[ContentState] = Decider(
    name="content",
    initial=lambda key: ContentState(key=key),
    decide=decide,
    evolve=evolve,
    terminal=lambda _state: False,
    commands=(DiscardContent,),
    events=(ContentDiscarded,),
)


def used(
    images: Iterable[ImageState], containers: Iterable[ContainerState], transfers: Iterable[TransferState]
) -> tuple[frozenset[Digest], frozenset[ChainID]]:
    """Blobs and layers that somebody needs."""
    blobs: set[Digest] = set()
    layers: set[ChainID] = set()
    for image in images:
        blobs |= image.blobs
        layers.update(image.chain)
    for container in containers:
        layers.update(container.layers)
        for point in container.mounts:
            layers.update(point.layers)
    for transfer in transfers:
        blobs |= transfer.blobs
        layers |= transfer.layers
    return frozenset(blobs), frozenset(layers)
