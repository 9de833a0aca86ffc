"""Images on their way out: what only they used is discarded.

A removal is an intent in the log (image.remove_requested); this reactor finishes it, also after a crash. What a layer
or blob is still used by is a fold over all images, all containers and all leases, beside what is held at the moment.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import trio

from engine.aggregates import content
from engine.aggregates.decider import Cause
from engine.aggregates.image import ImageState, ImageStatus, ReportImageRemoved
from engine.aggregates.values.ids import ChainID, Digest
from engine.drivers.ports.storage import BlobStore, LayerStore
from engine.reactors.base import RETRY_S_MAX, Hands, Works, follow_states, tried
from engine.reactors.images.discards import Discards
from engine.reactors.images.holds import Holds
from engine.reactors.images.leases import release, transfers
from engine.reactors.images.transfers import NAME

LEASES_LOOKED_AT_S = 600.0


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
        """One after the other to the end: of two that share a layer, the second must see that the first is gone."""
        async with self._holds.lock:
            layers, blobs = await self._discard(state)
            report = ReportImageRemoved(image_id=state.image_id, layers=layers, blobs=blobs)
            await self._hands.report(NAME, correlation, report)

    async def _discard(self, state: ImageState) -> tuple[tuple[ChainID, ...], tuple[Digest, ...]]:
        """What went: layers topmost first, as moby lists them, and blobs."""
        blobs, layers = used(self._hands, without=state.image_id)
        gone_layers = tuple(
            chain_id
            for chain_id in reversed(state.chain)
            if chain_id not in layers and not self._holds.spare_layer(chain_id)
        )
        gone_blobs = tuple(
            digest for digest in sorted(state.blobs) if digest not in blobs and not self._holds.spare_blob(digest)
        )
        for chain_id in gone_layers:
            await self._layers.discard_layer(chain_id)
        for digest in gone_blobs:
            await self._blobs.discard(digest)
        return gone_layers, gone_blobs


class Collector:
    """Discards what nothing in the log uses: what crashes and failed transfers left, once no lease keeps it."""

    def __init__(self, hands: Hands, layers: LayerStore, holds: Holds, discards: Discards) -> None:
        self._hands = hands
        self._layers = layers
        self._holds = holds
        self._discards = discards

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Release leases whose time has come, and discard what only they kept; and what needs another look (holds.py);
        for ever."""
        task_status.started()
        while True:
            await self._tried(partial(self.expire, self._hands.clock.now_ns()), "leases are not released")
            with trio.move_on_after(LEASES_LOOKED_AT_S) as waiting:
                await self._holds.stale()
            if not waiting.cancelled_caught:
                await self._tried(partial(self.collect, "the end of a transfer"), "what nothing needs stays")

    async def _tried(self, verb: Callable[[], Awaitable[object]], trouble: str) -> None:
        """What it leaves when the world refuses is looked for again."""
        if not await tried(verb, trouble):
            await trio.sleep(RETRY_S_MAX)
            self._holds.look_again()

    async def expire(self, now_ns: int) -> None:
        if await self._release("nobody tried again", until_ns=now_ns):
            await self.collect("a lease has expired")

    async def give_up(self) -> int:
        """At a prune: release every lease that waits for another try, and collect."""
        await self._release("given up by a prune")
        return await self.collect("a prune")

    async def collect(self, occasion: str) -> int:
        """How many blobs and layers went. occasion: for people."""
        async with self._holds.lock:
            inventory = await self._layers.inventory()
            blobs, layers = used(self._hands)
            # A pull left it in part, and then it came another way.
            whole = [digest for digest in inventory.partial if digest in inventory.blobs]
            await self._discards.discard_partial([each for each in whole if not self._holds.spare_blob(each)])
            return await self._discards.discard(
                f"nothing used it: found by {occasion}",
                [
                    digest
                    for digest in dict.fromkeys((*inventory.blobs, *inventory.partial))
                    if digest not in blobs and not self._holds.spare_blob(digest)
                ],
                [
                    chain_id
                    for chain_id in inventory.layers
                    if chain_id not in layers and not self._holds.spare_layer(chain_id)
                ],
            )

    async def _release(self, reason: str, until_ns: int | None = None) -> int:
        cause = Cause(actor=f"reactor:{NAME}", correlation="leases")
        return await release(self._hands, reason, cause, until_ns=until_ns)


def used(hands: Hands, without: str = "") -> tuple[frozenset[Digest], frozenset[ChainID]]:
    """Blobs and layers that images, containers and leases need. without: an image that does not count."""
    images = (image for image in hands.views.images if image.image_id != without)
    return content.used(images, hands.views.containers, transfers(hands))
