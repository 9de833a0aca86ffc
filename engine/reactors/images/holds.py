"""What somebody reads at the moment, or is about to name in the log: blobs and layers that must not go meanwhile.

Owns the counts, and the lock under which a removal looks at them and discards; and what was spared because it was held,
so that it is looked at again. In memory only: a crash ends all who hold. What is brought from elsewhere and must
outlive a crash is leased (transfers.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import trio

from engine.aggregates.values.ids import ChainID, Digest


class Hold:
    """One transfer's part."""

    def __init__(self, holds: Holds) -> None:
        self._holds = holds
        self.keys: list[str] = []
        self.blobs: list[Digest] = []
        self.layers: list[ChainID] = []

    async def add(self, blobs: Iterable[Digest] = (), layers: Iterable[ChainID] = ()) -> None:
        """From now on nobody discards these. Waits while a removal is discarding, so: first hold, then look."""
        blobs, layers = tuple(blobs), tuple(layers)
        async with self._holds.lock:
            self.blobs += blobs
            self.layers += layers
            keys = [*(f"blob {digest}" for digest in blobs), *(f"layer {chain_id}" for chain_id in layers)]
            self.keys += keys
            self._holds.counts.update(keys)


class Holds:
    def __init__(self) -> None:
        self.lock = trio.Lock()
        """Held by whoever discards, from looking to the last rename."""
        self.counts: Counter[str] = Counter()
        self._spared: set[str] = set()
        self._stale = trio.Event()

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[Hold]:
        hold = Hold(self)
        try:
            yield hold
        finally:
            self.counts.subtract(hold.keys)
            for key in hold.keys:
                if self.counts[key] <= 0:
                    del self.counts[key]
                    if key in self._spared:
                        self.look_again()

    def look_again(self) -> None:
        """Something may be needed no more: what a lease kept that has ended, what was spared because it was held."""
        self._stale.set()

    async def stale(self) -> None:
        """Wait until it is worth looking for what nothing needs."""
        await self._stale.wait()
        self._stale = trio.Event()
        self._spared.intersection_update(self.counts)

    def spare_blob(self, digest: Digest, besides: Hold | None = None) -> bool:
        """Whether a blob that nothing needs must stay, because somebody (`besides` the caller) holds it."""
        return self._spare(f"blob {digest}", besides.blobs.count(digest) if besides is not None else 0)

    def spare_layer(self, chain_id: ChainID) -> bool:
        return self._spare(f"layer {chain_id}", 0)

    def _spare(self, key: str, own: int) -> bool:
        held = self.counts[key] > own
        if held:
            self._spared.add(key)
        return held
