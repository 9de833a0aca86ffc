"""Pushing: a name's image, or all of a repository's, to the registry the name stands for (IMG-07).

Owns the walk: intent, layers, configuration, manifest, and what the registry has it as for an outcome. An image that
came with a manifest goes with the very same; one that was made here, or came in Docker's old archive format, gets one
over compressed layers. Source: moby daemon/internal/distribution/push.go and push_v2.go.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import msgspec
import trio
from msgspec.structs import replace

from engine.aggregates.decider import Cause, Reason, Rejected
from engine.aggregates.image import ImageLayer, ImageState, RecordRepositoryDigest
from engine.aggregates.transfer import ReportTransferDone
from engine.aggregates.values.descriptor import Descriptor, descriptor_of
from engine.aggregates.values.ids import ImageID
from engine.aggregates.values.manifest import descriptor, render_for_registry
from engine.aggregates.values.platform import Platform
from engine.aggregates.values.reference import Reference, parse
from engine.drivers.ports.registry import Credentials
from engine.reactors.base import Hands
from engine.reactors.images import messages
from engine.reactors.images.arrivals import Arrivals
from engine.reactors.images.compression import Compression
from engine.reactors.images.holds import Hold
from engine.reactors.images.push_targets import Target, Targets
from engine.reactors.images.transfers import told
from engine.reactors.images.uploads import LayerPush, Uploads

Emit = Callable[[object], Awaitable[None]]


class _Sending(msgspec.Struct, frozen=True, kw_only=True):
    """What is the same for everything that one push sends."""

    layers: LayerPush
    credentials: Credentials | None
    hold: Hold
    cause: Cause


class Pushes:
    def __init__(
        self, hands: Hands, uploads: Uploads, targets: Targets, compression: Compression, arrivals: Arrivals
    ) -> None:
        self._hands = hands
        self._uploads = uploads
        self._blobs = uploads.blobs
        self._targets = targets
        self._compression = compression
        self._arrivals = arrivals

    async def push(
        self,
        reference: Reference,
        credentials: Credentials | None,
        emit: Emit,
        cause: Cause,
        platform: Platform | None = None,
    ) -> None:
        """Push a tag, or without one every tag of the repository; platform: of an index this image alone.

        Raises Rejected, PortError, both after the first message. Cancelled with its client; what the registry has by
        then it keeps, and no name stands for it."""
        repository = replace(reference, tag="", digest="")
        async with told(self._hands, "push", str(reference), cause) as transfer:
            await emit(messages.status(f"The push refers to repository [{repository}]"))
            async with self._arrivals.held() as hold:
                sending = _Sending(
                    layers=LayerPush(self._uploads, repository, credentials, emit),
                    credentials=credentials,
                    hold=hold,
                    cause=transfer.cause,
                )
                pushed = []
                for tag in self._tags(reference):
                    target = await self._targets.of(tag, platform, hold)
                    pushed.append(await self._one(tag, target, sending, emit))
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

    async def _one(self, reference: Reference, target: Target, sending: _Sending, emit: Emit) -> ImageID:
        top = target.index
        for state, manifest in target.images:
            place = reference if top is None else replace(reference, tag="")
            sent = await self._image(place, state, manifest, sending)
        if top is None:
            top = sent
        else:
            body = await self._blobs.read(top.digest)
            await self._uploads.registry.push_manifest(reference, top, body, sending.credentials)
        await self._record(target.named.image_id, replace(reference, tag="", digest=top.digest), sending.cause)
        if target.instead_of is not None:
            index, chosen = map(descriptor, (target.instead_of, top))
            note = {"manifestPushedInsteadOfIndex": True, "originalIndex": index, "selectedManifest": chosen}
            await emit(messages.aux(note))
        await emit(messages.status(f"{reference.tag}: digest: {top.digest} size: {top.size}"))
        await emit(messages.aux({"Tag": reference.tag, "Digest": top.digest, "Size": top.size}))
        return target.images[0][0].image_id

    async def _image(
        self, reference: Reference, state: ImageState, manifest: Descriptor | None, sending: _Sending
    ) -> Descriptor:
        """One image with everything of it, under the tag if there is one; the manifest it has there."""
        assert state.config is not None, "an image that is there has a configuration"

        async def choose(layer: ImageLayer) -> Descriptor:
            if manifest is not None:
                return layer.blob
            return await self._compression.of(layer, state.image_id, sending.hold, sending.cause)

        there = await sending.layers.run(state.layers, choose)
        await sending.layers.send(state.config)
        if manifest is not None:
            body = await self._blobs.read(manifest.digest)
        else:
            media_type, body = render_for_registry(state.config, there)
            manifest = descriptor_of(body, media_type)
        await self._uploads.registry.push_manifest(reference, manifest, body, sending.credentials)
        return manifest

    async def _record(self, image_id: ImageID, reference: Reference, cause: Cause) -> None:
        record = RecordRepositoryDigest(image_id=image_id, reference=str(reference))
        # Removed meanwhile: the registry has it, and here nobody is left to know.
        with trio.CancelScope(shield=True), suppress(Rejected):
            await self._hands.application.execute(record, cause=cause)
