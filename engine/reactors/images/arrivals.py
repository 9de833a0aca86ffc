"""Blobs that have just come and belong to no image yet: kept while one is made of them, discarded when none is.

Loads, imports, commits and pushes bring blobs that nobody could lease beforehand: their ports claim them before they
look whether they are there, and what no image needs in the end goes with the hold.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from engine.drivers.ports.storage import BlobStore
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
    async def held(self) -> AsyncIterator[Hold]:
        """A hold for what comes; behind the block those of its blobs that no image needs are discarded."""
        async with self._holds.hold() as hold:
            try:
                yield hold
            finally:
                with trio.CancelScope(shield=True):
                    await self._discard_unused(hold)

    async def _discard_unused(self, hold: Hold) -> None:
        async with self._holds.lock:
            needed, _ = used(self._hands)
            spare = [
                digest
                for digest in dict.fromkeys(hold.blobs)
                if digest not in needed
                and not self._holds.spare_blob(digest, besides=hold)
                and await self._blobs.has(digest)
            ]
            await self._discards.discard("it came, and no image was made of it", spare)
