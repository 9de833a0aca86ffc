"""What pushing a name means: its image, the image of one platform, or an index with all its images.

Owns the choice. An index is pushed when every image of it is here as it names it; else, as by dockerd with containerd's
store, the image that runs on this host alone, and the client is told. Source: moby daemon/containerd/image_push.go.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.image import ImageState, ImageStatus
from engine.aggregates.values.descriptor import Descriptor
from engine.aggregates.values.ids import Digest
from engine.aggregates.values.manifest import render_manifest
from engine.aggregates.values.platform import Platform, fallbacks
from engine.aggregates.values.reference import Reference
from engine.drivers.ports.storage import BlobStore
from engine.imageconfigs import ImageConfigs
from engine.projections.images import Images
from engine.reactors.images.holds import Hold


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What to push under one name. named: who has the name; images: each with the manifest it came by, None where the
    engine makes one; index: over all of them; instead_of: an index that would have been pushed, were it whole."""

    named: ImageState
    images: tuple[tuple[ImageState, Descriptor | None], ...]
    index: Descriptor | None = None
    instead_of: Descriptor | None = None


class Targets:
    def __init__(self, views: Images, blobs: BlobStore, indexes: ImageConfigs, host: Platform) -> None:
        self._views = views
        self._blobs = blobs
        self._indexes = indexes
        self._host = host

    async def of(self, reference: Reference, platform: Platform | None, hold: Hold) -> Target:
        """All of it held. Raises Rejected: NOT_FOUND, CONFLICT where nobody can say which image is meant."""
        named = await self._held(reference, hold)
        member = named.indexes.get(named.tagged_indexes.get(str(reference), Digest("")))
        if platform is not None:
            chosen = self._views.for_platform(reference.familiar, platform)
            await hold.add(blobs=chosen.blobs)
            return Target(named=named, images=((chosen, await self._received(chosen)),))
        alone = (named, await self._received(named))
        if member is None:
            return Target(named=named, images=(alone,))
        parts = self._views.of_index(member.index.digest)
        for part in parts:
            await hold.add(blobs=part.blobs)
        whole = await self._whole(member.index.digest, parts)
        if whole:
            return Target(named=named, images=whole, index=member.index)
        runs = named.platform is not None and named.platform.normalized in fallbacks(self._host)
        if len(parts) > 1 and not runs:
            words = "multiple matching manifests found but no specific platform requested"
            raise Rejected(Reason.CONFLICT, words)
        return Target(named=named, images=(alone,), instead_of=member.index)

    async def _held(self, reference: Reference, hold: Hold) -> ImageState:
        """The image of a tag, whose blobs nobody discards from now on."""
        state = self._views.get(self._views.owner(str(reference)))
        if state is not None:
            await hold.add(blobs=state.blobs)
            state = self._views.get(state.image_id)
        if state is None or state.status is not ImageStatus.READY:
            raise Rejected(Reason.NOT_FOUND, f"tag does not exist: {reference.familiar}")
        return state

    async def _whole(
        self, index: Digest, parts: Sequence[ImageState]
    ) -> tuple[tuple[ImageState, Descriptor | None], ...]:
        """Every image of an index, in its order; nothing when one is not here, or came by another manifest."""
        by_manifest = {
            part.manifest.digest: part
            for part in parts
            if part.manifest is not None and part.status is ImageStatus.READY
        }
        wanted = [Digest(entry["digest"]) for entry in await self._indexes.entries(index)]
        if not all(digest in by_manifest for digest in wanted):
            return ()
        return tuple((by_manifest[digest], by_manifest[digest].manifest) for digest in wanted)

    async def _received(self, state: ImageState) -> Descriptor | None:
        """The manifest that somebody else made; None when there is none, or the engine's own over the layers as they
        lie here (a loaded archive's)."""
        assert state.config is not None, "an image that is there has a configuration"
        if state.manifest is None or not await self._blobs.has(state.manifest.digest):
            return None
        own = render_manifest(state.config, [layer.blob for layer in state.layers])
        return None if await self._blobs.read(state.manifest.digest) == own else state.manifest
