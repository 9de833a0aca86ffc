"""Blobs that have just come and belong to no image yet: kept while one is made of them, discarded when none is.

Loads, imports and commits bring blobs that nobody could hold beforehand; no collection runs meanwhile (holds.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio

from engine.aggregates.values.ids import Digest
from engine.drivers.ports.storage import BlobStore
from engine.errors import PortError
from engine.reactors.base import Hands
from engine.reactors.images.discards import Discards
from engine.reactors.images.holds import Hold, Holds
from engine.reactors.images.removal import used


class Arrivals:
    def __init__(self, hands: Hands, blobs: BlobStore, holds: Holds, discards: Discards) -> None:
        self._hands = hands
        self._blobs = blobs
        self._holds = holds
        self._discards = discards

    @asynccontextmanager
    async def kept(self, blobs: Sequence[Digest], hold: Hold) -> AsyncIterator[None]:
        """Hold blobs that have arrived; behind the block those that no image needs are discarded."""
        await hold.add(blobs=blobs)
        try:
            for digest in blobs:
                if not await self._blobs.has(digest):
                    raise PortError("load", "an image with the same content was removed meanwhile", retriable=True)
            yield
        finally:
            with trio.CancelScope(shield=True):
                await self.discard_unused(blobs)

    async def discard_unused(self, blobs: Sequence[Digest]) -> None:
        """Discard what no image needs and nobody but the caller holds (each as often as it is named here)."""
        own = Counter(blobs)
        async with self._holds.lock:
            needed, _ = used(self._hands)
            spare = [
                digest
                for digest, times in own.items()
                if digest not in needed and self._holds.blob_holders(digest) <= times
            ]
            await self._discards.discard("it came, and no image was made of it", spare)
