"""Pushing: a name's image, or all of a repository's, to the registry the name stands for (IMG-07).

Owns the walk: intent, layers, configuration, manifest, and what the registry has it as for an outcome. An image that
came with a manifest goes with the very same; one that was made here, or came in Docker's old archive format, gets one
over compressed layers. Source: moby daemon/internal/distribution/push.go and push_v2.go.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import trio
from msgspec.structs import replace

from engine.aggregates.decider import Cause, Reason, Rejected
from engine.aggregates.image import ImageLayer, ImageState, ImageStatus, RecordRepositoryDigest
from engine.aggregates.transfer import ReportTransferDone
from engine.aggregates.values.descriptor import Descriptor
from engine.aggregates.values.ids import Digest, ImageID
from engine.aggregates.values.manifest import render_for_registry, render_manifest
from engine.aggregates.values.reference import Reference, parse
from engine.drivers.ports.registry import Credentials
from engine.reactors.base import Hands
from engine.reactors.images import messages
from engine.reactors.images.compression import Compression
from engine.reactors.images.holds import Hold, Holds
from engine.reactors.images.transfers import told
from engine.reactors.images.uploads import LayerPush, Uploads

Emit = Callable[[object], Awaitable[None]]


class Pushes:
    def __init__(self, hands: Hands, uploads: Uploads, compression: Compression, holds: Holds) -> None:
        self._hands = hands
        self._uploads = uploads
        self._blobs = uploads.blobs
        self._compression = compression
        self._holds = holds

    async def push(self, reference: Reference, credentials: Credentials | None, emit: Emit, cause: Cause) -> None:
        """Push a tag, or without one every tag of the repository. Raises Rejected, PortError, both after the first
        message. Cancelled with its client; what the registry has by then it keeps, and no name stands for it."""
        repository = replace(reference, tag="", digest="")
        async with told(self._hands, "push", str(reference), cause) as transfer:
            await emit(messages.status(f"The push refers to repository [{repository}]"))
            async with self._holds.hold() as hold:
                layers = LayerPush(self._uploads, repository, credentials, emit)
                pushed = [
                    await self._one(tag, layers, credentials, hold, emit, transfer.cause)
                    for tag in self._tags(reference)
                ]
            with trio.CancelScope(shield=True):
                done = ReportTransferDone(transfer_id=transfer.transfer_id, images=tuple(dict.fromkeys(pushed)))
                await self._hands.application.execute(done, cause=transfer.cause)

    def _tags(self, reference: Reference) -> Sequence[Reference]:
        """What is to be pushed. Raises Rejected in moby's words."""
        states = self._hands.views.images
        own = [
            name
            for state in states
            for name in map(parse, state.references | state.repository_digests)
            if name.repository == reference.repository
        ]
        if not own:
            words = f"An image does not exist locally with the tag: {reference.familiar_name}"
            raise Rejected(Reason.NOT_FOUND, words)
        if reference.digest:
            raise Rejected(Reason.INVALID, "cannot push a digest reference")
        if reference.tag:
            return (reference,)
        tags = sorted(name for name in own if name.tag)
        if not tags:
            raise Rejected(Reason.NOT_FOUND, f"no tags to push for {reference.familiar_name}")
        return tags

    async def _one(
        self,
        reference: Reference,
        layers: LayerPush,
        credentials: Credentials | None,
        hold: Hold,
        emit: Emit,
        cause: Cause,
    ) -> ImageID:
        state = await self._held(reference, hold)
        assert state.config is not None, "an image that is there has a configuration"
        received = await self._received(state)

        async def choose(layer: ImageLayer) -> Descriptor:
            return await self._compression.of(layer, state.image_id, hold, cause) if received is None else layer.blob

        there = await layers.run(state.layers, choose)
        await layers.send(state.config)
        media_type, body = received or render_for_registry(state.config, there)
        digest = Digest("sha256:" + hashlib.sha256(body).hexdigest())
        descriptor = Descriptor(media_type=media_type, digest=digest, size=len(body))
        await self._uploads.registry.push_manifest(reference, descriptor, body, credentials)
        await self._record(state.image_id, replace(reference, tag="", digest=digest), cause)
        await emit(messages.status(f"{reference.tag}: digest: {digest} size: {len(body)}"))
        await emit(messages.aux({"Tag": reference.tag, "Digest": digest, "Size": len(body)}))
        return state.image_id

    async def _held(self, reference: Reference, hold: Hold) -> ImageState:
        """The image of a tag, whose blobs nobody discards from now on."""
        images = self._hands.views.images
        state = images.get(images.owner(str(reference)))
        if state is not None:
            await hold.add(blobs=state.blobs)
            state = images.get(state.image_id)
        if state is None or state.status is not ImageStatus.READY:
            raise Rejected(Reason.NOT_FOUND, f"tag does not exist: {reference.familiar}")
        return state

    async def _received(self, state: ImageState) -> tuple[str, bytes] | None:
        """(media type, body) of the manifest that somebody else made; None when there is none, or the engine's own
        over the layers as they lie here (a loaded archive's)."""
        assert state.config is not None, "an image that is there has a configuration"
        if state.manifest is None or not await self._blobs.has(state.manifest.digest):
            return None
        body = await self._blobs.read(state.manifest.digest)
        own = render_manifest(state.config, [layer.blob for layer in state.layers])
        return None if body == own else (state.manifest.media_type, body)

    async def _record(self, image_id: ImageID, reference: Reference, cause: Cause) -> None:
        record = RecordRepositoryDigest(image_id=image_id, reference=str(reference))
        # Removed meanwhile: the registry has it, and here nobody is left to know.
        with trio.CancelScope(shield=True), suppress(Rejected):
            await self._hands.application.execute(record, cause=cause)
