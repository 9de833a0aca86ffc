"""What nothing uses goes: told first, then renamed away.

Owns the order. The caller holds the holds' lock and has looked who uses what. On a full disk the log may be the one
that has no room: then the space comes first, and the telling behind it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Sequence

from engine.aggregates.content import DiscardContent
from engine.aggregates.values.ids import ChainID, Digest
from engine.drivers.ports.storage import BlobStore, LayerStore
from engine.errors import PortError
from engine.reactors.base import Hands
from engine.reactors.images.transfers import NAME

logger = logging.getLogger("ishmael.images")


class Discards:
    def __init__(self, hands: Hands, blobs: BlobStore, layers: LayerStore) -> None:
        self._hands = hands
        self._blobs = blobs
        self._layers = layers

    async def discard(self, why: str, blobs: Sequence[Digest], layers: Sequence[ChainID] = ()) -> int:
        """How many went. What resists is left for the next time."""
        if not (blobs or layers):
            return 0
        decision = DiscardContent(why=why, blobs=tuple(blobs), layers=tuple(layers))
        told = await self._told(decision)
        gone = 0
        for chain_id in layers:
            gone += await _tried(self._layers.discard_layer(chain_id))
        for digest in blobs:
            gone += await _tried(self._blobs.discard(digest))
        if not told and not await self._told(decision):
            logger.warning("%d blobs and layers were discarded and the log could not be told: %s", gone, why)
        return gone

    async def discard_partial(self, blobs: Sequence[Digest]) -> None:
        """Of blobs that are here whole. Nothing is lost by it, so nothing is told."""
        for digest in blobs:
            await _tried(self._blobs.discard_partial(digest))

    async def _told(self, decision: DiscardContent) -> bool:
        try:
            await self._hands.report(NAME, "collection", decision)
        except PortError:
            return False
        return True


async def _tried(discarding: Awaitable[None]) -> bool:
    try:
        await discarding
    except PortError:
        return False
    return True
