"""Images on their way out: what only they used is discarded.

A removal is an intent in the log (image.remove_requested); this reactor finishes it, also after a crash. What a layer
or blob is still used by is a fold over all images, all containers and what transfers hold, never a counter.
"""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial

import trio

from engine.aggregates.image import ImageState, ImageStatus, ReportImageRemoved
from engine.aggregates.values.ids import ChainID, Digest
from engine.drivers.ports.storage import BlobStore, LayerStore
from engine.errors import PortError
from engine.reactors.base import Hands, Works, follow_states
from engine.reactors.images.holds import Holds

NAME = "images"


class ImageReactor:
    """Run inside the root nursery, after reconciliation."""

    def __init__(self, hands: Hands, blobs: BlobStore, layers: LayerStore, holds: Holds) -> None:
        self._hands = hands
        self._blobs = blobs
        self._layers = layers
        self._holds = holds

    async def run(self, after: int, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Finish every removal that is under way, then follow the log from `after`."""
        living = self._hands.views.images
        await follow_states(self._hands, living, "image", self._dispatch, after, task_status)

    def _dispatch(self, works: Works, state: ImageState, correlation: str) -> None:
        if state.status is ImageStatus.REMOVING:
            works.begin(
                ("remove", state.image_id),
                partial(self._remove, state, correlation),
                lambda: self._hands.application.state("image", state.image_id).status is ImageStatus.REMOVING,
            )

    async def _remove(self, state: ImageState, correlation: str) -> None:
        async with self._holds.lock:
            layers = await self._discard(state)
        report = ReportImageRemoved(image_id=state.image_id, layers=layers)
        await self._hands.report(NAME, correlation, report)

    async def _discard(self, state: ImageState) -> tuple[ChainID, ...]:
        """The layers that went, topmost first, as moby lists them."""
        blobs, layers = used(self._hands, without=state.image_id)
        gone = [
            chain_id
            for chain_id in reversed(state.chain)
            if chain_id not in layers and not self._holds.has_layer(chain_id)
        ]
        for chain_id in gone:
            await self._layers.discard_layer(chain_id)
        for digest in sorted(state.blobs):
            if digest not in blobs and not self._holds.has_blob(digest):
                await self._blobs.discard(digest)
        return tuple(gone)


class Collector:
    """Discards what nothing in the log uses: what crashes and failed transfers left."""

    def __init__(self, hands: Hands, blobs: BlobStore, layers: LayerStore, holds: Holds) -> None:
        self._hands = hands
        self._blobs = blobs
        self._layers = layers
        self._holds = holds

    async def collect(self) -> int:
        """How many blobs and layers went; none while an archive is being loaded. What resists is left for the next
        time."""
        async with self._holds.lock:
            if self._holds.arriving:
                return 0
            inventory = await self._layers.inventory()
            blobs, layers = used(self._hands)
            spare_layers = [
                chain_id
                for chain_id in inventory.layers
                if chain_id not in layers and not self._holds.has_layer(chain_id)
            ]
            spare_blobs = [
                digest for digest in inventory.blobs if digest not in blobs and not self._holds.has_blob(digest)
            ]
            gone = 0
            for chain_id in spare_layers:
                gone += await self._try(self._layers.discard_layer(chain_id))
            for digest in spare_blobs:
                gone += await self._try(self._blobs.discard(digest))
            return gone

    @staticmethod
    async def _try(discarding: Awaitable[None]) -> int:
        try:
            await discarding
        except PortError:
            return 0
        return 1


def used(hands: Hands, without: str = "") -> tuple[frozenset[Digest], frozenset[ChainID]]:
    """Blobs and layers that images and containers need. without: an image that does not count."""
    blobs: set[Digest] = set()
    layers: set[ChainID] = set()
    for image in hands.views.images:
        if image.image_id != without:
            blobs |= image.blobs
            layers.update(image.chain)
    for container in hands.views.containers:
        layers.update(container.layers)
        for point in container.mounts:
            layers.update(point.layers)
    return frozenset(blobs), frozenset(layers)
