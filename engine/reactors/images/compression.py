"""Layers that were made here, as registries get them: compressed once, and remembered.

Owns which blob stands for a layer whose own is not compressed. The log remembers it with the image, so that the blob is
in use for as long as an image with that layer was pushed and is here (docs/decisions/0011-compressed-once.md).
"""

from __future__ import annotations

from contextlib import suppress

import trio

from engine.aggregates.decider import Cause, Rejected
from engine.aggregates.image import ImageLayer, RecordCompressedLayer
from engine.aggregates.values.descriptor import DOCKER_LAYER, OCI_LAYER, Descriptor
from engine.aggregates.values.ids import Digest, ImageID
from engine.drivers.ports.storage import BlobStore, ImageArchives
from engine.reactors.base import Hands
from engine.reactors.images.holds import Hold
from engine.reactors.turns import Turns

UNCOMPRESSED = frozenset({DOCKER_LAYER, OCI_LAYER})


class Compression:
    def __init__(self, hands: Hands, blobs: BlobStore, archives: ImageArchives) -> None:
        self._hands = hands
        self._blobs = blobs
        self._archives = archives
        self._turns = Turns()

    async def of(self, layer: ImageLayer, image_id: ImageID, hold: Hold, cause: Cause) -> Descriptor:
        """The blob to push for a layer of an image, held; the layer's own when that is compressed. Should the image be
        removed meanwhile, the blob goes with the hold."""
        if layer.blob.media_type not in UNCOMPRESSED:
            return layer.blob
        async with self._turns.turn(layer.blob.digest):
            blob = await self._remembered(layer.blob.digest, hold)
            blob = blob or await self._archives.compress_layer(layer.blob.digest, hold.add)
            record = RecordCompressedLayer(image_id=image_id, layer=layer.blob.digest, blob=blob)
            with trio.CancelScope(shield=True), suppress(Rejected):
                await self._hands.application.execute(record, cause=cause)
        return blob

    async def _remembered(self, layer: Digest, hold: Hold) -> Descriptor | None:
        """What any image with this layer has been pushed with."""
        for state in self._hands.views.images:
            blob = state.compressed.get(layer)
            if blob is not None:
                await hold.add(blobs=(blob.digest,))
                if await self._blobs.has(blob.digest):
                    return blob
        return None
