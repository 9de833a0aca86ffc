"""What somebody reads at the moment, or is about to name in the log: blobs and layers that must not go meanwhile.

Owns the counts, and the lock under which a removal looks at them and discards. In memory only: a crash ends all who
hold. What is brought from elsewhere and must outlive a crash is leased (transfers.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager

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
        self.arriving = 0
        """Archives that are being taken in: they bring blobs that nobody could hold beforehand."""

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

    @contextmanager
    def arrival(self) -> Iterator[None]:
        """Around taking in an archive: no collection meanwhile."""
        self.arriving += 1
        try:
            yield
        finally:
            self.arriving -= 1

    def has_blob(self, digest: Digest) -> bool:
        return self.counts[f"blob {digest}"] > 0

    def blob_holders(self, digest: Digest) -> int:
        """How often it is held."""
        return self.counts[f"blob {digest}"]

    def has_layer(self, chain_id: ChainID) -> bool:
        return self.counts[f"layer {chain_id}"] > 0
