"""Pulling: from a reference to an image with that name.

Owns the walk: intent, manifest, platform, configuration, layers, one transaction. What is fetched is held until it is
an image (holds.py), so that no removal beside it discards a layer it has found. Source: moby
daemon/internal/distribution/pull_v2.go.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
from msgspec.structs import replace

from engine.aggregates.decider import Cause, Reason, Rejected
from engine.aggregates.image import AddImage, ImageLayer, ImageState, ImageStatus
from engine.aggregates.transfer import ReportTransferDone
from engine.aggregates.values.descriptor import Descriptor
from engine.aggregates.values.ids import ImageID
from engine.aggregates.values.layers import LAYERS_MAX
from engine.aggregates.values.manifest import (
    ImageConfig,
    ImageIndex,
    Manifest,
    choose,
    parse_image_config,
    parse_manifest,
)
from engine.aggregates.values.platform import Platform, fallbacks
from engine.aggregates.values.reference import Reference
from engine.drivers.ports.registry import Credentials, Registry, RemoteManifest
from engine.drivers.ports.storage import BlobStore, LayerStore
from engine.reactors.base import Hands
from engine.reactors.images import messages
from engine.reactors.images.additions import Additions, Belonging
from engine.reactors.images.downloads import Downloads
from engine.reactors.images.holds import Hold, Holds
from engine.reactors.images.layers import LayerFetch, wanted_layers
from engine.reactors.images.leases import superseded
from engine.reactors.images.transfers import Transfer, told

Emit = Callable[[object], Awaitable[None]]


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What a pull asks for. platform: None takes the host's, and whatever an image without a choice is."""

    reference: Reference
    platform: Platform | None
    credentials: Credentials | None


class Resolved(msgspec.Struct, frozen=True, kw_only=True):
    """What the registry has under a reference. top: what the name stands for; index: that, when it is one; remote and
    manifest: of the chosen image."""

    top: RemoteManifest
    index: ImageIndex | None
    remote: RemoteManifest
    manifest: Manifest

    @property
    def belonging(self) -> Belonging | None:
        if self.index is None:
            return None
        return Belonging(
            index=replace(self.top.descriptor, media_type=self.index.media_type),
            manifest=replace(self.remote.descriptor, media_type=self.manifest.media_type),
            manifests={entry.descriptor.digest: entry.descriptor for entry in self.index.entries},
        )


class Pulls:
    def __init__(
        self,
        hands: Hands,
        registry: Registry,
        blobs: BlobStore,
        layers: LayerStore,
        *,
        downloads: Downloads,
        additions: Additions,
        holds: Holds,
        host: Platform,
    ) -> None:
        self._hands = hands
        self._registry = registry
        self._blobs = blobs
        self._layers = layers
        self._downloads = downloads
        self._additions = additions
        self._holds = holds
        self._host = host

    async def pull(self, wish: Wish, emit: Emit, cause: Cause, *, all_tags: bool = False) -> ImageID:
        """Bring an image (with `all_tags`: every tag of the repository) here; the id of the (last) one.

        Nothing is emitted before the registry has answered, so that a refusal is still an HTTP status. Raises
        PortError, Rejected. Cancelled with its client; downloads that others watch go on."""
        reference = wish.reference
        if not all_tags:
            image_id, fresh = await self._told(wish, emit, cause)
        else:
            tags = await self._registry.tags(reference, wish.credentials)
            if not tags:
                raise Rejected(Reason.NOT_FOUND, f"manifest for {reference.familiar} not found: no tags")
            fresh = False
            for tag in tags:
                one = replace(wish, reference=replace(reference, tag=tag, digest=""))
                image_id, newer = await self._told(one, emit, cause)
                fresh = fresh or newer
        word = "Downloaded newer image for" if fresh else "Image is up to date for"
        await emit(messages.status(f"Status: {word} {reference.familiar}"))
        return image_id

    async def _told(self, wish: Wish, emit: Emit, cause: Cause) -> tuple[ImageID, bool]:
        """One pull with its intent before and its outcome behind it."""
        async with told(self._hands, "pull", str(wish.reference), cause) as transfer:
            return await self._pull(wish, emit, transfer)

    async def _pull(self, wish: Wish, emit: Emit, transfer: Transfer) -> tuple[ImageID, bool]:
        reference = wish.reference
        resolved = await self._resolve(wish)
        repository = replace(reference, tag="", digest="")
        await emit(messages.status(f"Pulling from {reference.path}", reference.digest or reference.tag))
        async with self._holds.hold() as hold:
            image = await self._image(wish, resolved, hold, transfer, emit)
            image_id = image.image_id
            names = () if reference.digest else (reference,)
            digest = resolved.top.descriptor.digest
            fresh = self._is_news(image_id, reference, resolved)
            ended = superseded(self._hands, "pull", str(reference))
            await self._additions.add(
                image,
                cause=transfer.cause,
                names=names,
                repository_digests=(replace(repository, digest=digest),),
                also=(
                    ReportTransferDone(transfer_id=transfer.transfer_id, images=(image_id,)),
                    *ended,
                ),
                belonging=resolved.belonging,
            )
            if ended:
                self._holds.look_again()  # an earlier try may have brought what this one did not need.
        await emit(messages.status(f"Digest: {digest}"))
        return image_id, fresh

    def _is_news(self, image_id: ImageID, reference: Reference, resolved: Resolved) -> bool:
        """Whether the name stood for something else, or for an index of which this image was not here."""
        images = self._hands.views.images
        state, owner = images.get(image_id), images.get(images.owner(str(reference)))
        if state is None or owner is None:
            return True
        index = images.index_of(owner, str(reference))
        return owner.image_id != image_id and (index != resolved.top.descriptor.digest or index not in state.indexes)

    async def _resolve(self, wish: Wish) -> Resolved:
        """Manifest, and through an index the one for the platform."""
        top = remote = await self._registry.manifest(wish.reference, wish.credentials)
        index = None
        parsed = parse_manifest(remote.body, remote.descriptor.media_type)
        if isinstance(parsed, ImageIndex):
            index = parsed
            chosen = choose(parsed, wish.platform or self._host)
            inner = replace(wish.reference, tag="", digest=chosen.descriptor.digest)
            remote = await self._registry.manifest(inner, wish.credentials)
            parsed = parse_manifest(remote.body, remote.descriptor.media_type)
            if isinstance(parsed, ImageIndex):
                raise Rejected(Reason.INVALID, "an image index inside an image index is not supported")
        return Resolved(top=top, index=index, remote=remote, manifest=parsed)

    async def _image(self, wish: Wish, resolved: Resolved, hold: Hold, transfer: Transfer, emit: Emit) -> AddImage:
        """Everything of the image, in the store."""
        manifest = resolved.manifest
        body = replace(resolved.remote.descriptor, media_type=manifest.media_type)
        top = resolved.top.descriptor.digest
        await hold.add(blobs=(top, body.digest, manifest.config.digest, *(blob.digest for blob in manifest.layers)))
        here = self._hands.views.images.get(ImageID(manifest.config.digest)) is not None
        if not here:
            await transfer.lease(self._holds, blobs=hold.blobs)
        config = await self._config(wish, manifest)
        self._check(wish, manifest, config)
        wanted = wanted_layers(manifest.layers, config.diff_ids)
        await hold.add(layers=(layer.chain_id for layer in wanted))
        known = await self._known(ImageID(manifest.config.digest), hold)
        if known is None:
            await transfer.lease(self._holds, hold.blobs, hold.layers)
        if known is not None:
            layers, body = known.layers, known.manifest or body
        else:
            fetch = LayerFetch(
                self._downloads,
                self._blobs,
                self._layers,
                reference=wish.reference,
                credentials=wish.credentials,
                emit=emit,
            )
            layers = await fetch.run(wanted)
        for part in (resolved.remote, resolved.top) if known is None or resolved.index is not None else ():
            if not await self._blobs.has(part.descriptor.digest):
                await self._blobs.ingest(_once(part.body), part.descriptor.digest)
        return add_image(config, manifest.config, layers, at=self._hands.clock.now_ns(), origin="pull", manifest=body)

    async def _config(self, wish: Wish, manifest: Manifest) -> ImageConfig:
        if not await self._blobs.has(manifest.config.digest):
            async with self._downloads.fetching(wish.reference, manifest.config, wish.credentials) as download:
                await download.finished()
        return parse_image_config(await self._blobs.read(manifest.config.digest))

    def _check(self, wish: Wish, manifest: Manifest, config: ImageConfig) -> None:
        check_config(config, len(manifest.layers))
        asked = wish.platform
        if asked is not None and config.platform.normalized not in fallbacks(asked):
            raise Rejected(
                Reason.NOT_FOUND,
                f"image with reference {wish.reference.familiar} was found but its platform "
                f"({config.platform}) does not match the specified platform ({asked})",
            )

    async def _known(self, image_id: ImageID, hold: Hold) -> ImageState | None:
        """The image, if it is here already and whole; held, as it may have come another way, with other blobs."""
        state = self._hands.views.images.get(image_id)
        if state is not None:
            await hold.add(state.blobs, state.chain)
            state = self._hands.views.images.get(image_id)
        if state is None or state.status is not ImageStatus.READY:
            return None
        for chain_id in state.chain:
            if await self._layers.lookup(chain_id) is None:
                return None
        return state


def check_config(config: ImageConfig, layers: int) -> None:
    """What every image must be to run here. Raises Rejected(INVALID)."""
    if config.os != "linux":
        raise Rejected(Reason.INVALID, f'operating system "{config.os}" is not supported on this platform')
    if len(config.diff_ids) != layers:
        raise Rejected(Reason.INVALID, "layers from manifest don't match image configuration")
    if layers > LAYERS_MAX:
        raise Rejected(Reason.INVALID, "max depth exceeded")


def add_image(
    config: ImageConfig,
    descriptor: Descriptor,
    layers: tuple[ImageLayer, ...],
    *,
    at: int,
    origin: str,
    manifest: Descriptor | None,
    parent: ImageID = ImageID(""),  # noqa: B008 - a constant of a NewType
) -> AddImage:
    """The command for an image whose parts are all in the store."""
    return AddImage(
        image_id=ImageID(descriptor.digest),
        at=at,
        platform=config.platform,
        created_at=config.created_at,
        layers=layers,
        config=descriptor,
        manifest=manifest,
        labels=dict(config.config.labels or {}),
        parent=parent,
        origin=origin,
    )


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body
