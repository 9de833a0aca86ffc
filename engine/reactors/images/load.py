"""Images out of archives: `docker load` and `docker import`.

The archives' port turns files into blobs; here they are held, unpacked, and appended. What belongs to no image in the
end is discarded, also when the load fails; only a crash leaves layers that were whole to another try.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime

import msgspec
import trio

from engine.aggregates.decider import Cause, Reason, Rejected
from engine.aggregates.image import AddImage, ImageLayer
from engine.aggregates.transfer import ReportTransferDone
from engine.aggregates.values.config import ContainerConfig
from engine.aggregates.values.descriptor import DOCKER_CONFIG, Descriptor, descriptor_of
from engine.aggregates.values.ids import ChainID, DiffID, ImageID, short
from engine.aggregates.values.instructions import apply_instructions
from engine.aggregates.values.manifest import ImageIndex, parse_image_config, parse_manifest
from engine.aggregates.values.platform import Platform, fallbacks
from engine.aggregates.values.reference import Reference, parse
from engine.drivers.ports.storage import BlobStore, ImageArchives, LayerStore, LoadedImage, LoadedLayer
from engine.reactors.base import Hands
from engine.reactors.images import messages
from engine.reactors.images.additions import Additions, Belonging
from engine.reactors.images.arrivals import Arrivals
from engine.reactors.images.holds import Hold, Holds
from engine.reactors.images.layers import Emit, WantedLayer, progress_of, wanted_layers
from engine.reactors.images.leases import needless
from engine.reactors.images.pull import add_image, check_config
from engine.reactors.images.transfers import Transfer, told

Work = Callable[[Hold, Transfer], Awaitable[tuple[ImageID, ...]]]


class Arrived(msgspec.Struct, frozen=True, kw_only=True):
    """An image whose blobs are all here. manifest: None when none ever described it. index: of which it is one."""

    config: Descriptor
    layers: tuple[LoadedLayer, ...]
    names: tuple[Reference, ...]
    manifest: Descriptor | None = None
    index: Descriptor | None = None


class Loads:
    def __init__(
        self,
        hands: Hands,
        archives: ImageArchives,
        blobs: BlobStore,
        layers: LayerStore,
        *,
        additions: Additions,
        holds: Holds,
        arrivals: Arrivals,
    ) -> None:
        self._hands = hands
        self._archives = archives
        self._blobs = blobs
        self._layers = layers
        self._additions = additions
        self._holds = holds
        self._arrivals = arrivals

    async def load(
        self,
        archive: AsyncIterator[bytes],
        emit: Emit,
        cause: Cause,
        *,
        quiet: bool = True,
        platforms: Sequence[Platform] = (),
    ) -> tuple[ImageID, ...]:
        """Every image of an archive; platforms: of its indexes these alone. Raises PortError, Rejected; images before
        the bad one stay."""

        async def work(hold: Hold, transfer: Transfer) -> tuple[ImageID, ...]:
            async with self._archives.load(archive, hold.add, platforms) as loaded:
                return await self._arrived(loaded, platforms, _silent if quiet else emit, emit, hold, transfer)

        return await self._transfer("load", "", work, cause)

    async def import_image(
        self,
        archive: AsyncIterator[bytes],
        reference: Reference | None,
        platform: Platform,
        message: str,
        changes: Sequence[str],
        cause: Cause,
    ) -> ImageID:
        """A tar of a root file system as an image of one layer. Raises Rejected(INVALID), PortError."""
        config = apply_instructions(ContainerConfig(), changes)

        async def work(hold: Hold, transfer: Transfer) -> tuple[ImageID, ...]:
            layer = await self._archives.import_layer(archive, hold.add)
            body = _imported_config(config, platform, message, layer.diff_id, self._hands.clock.now_ns())
            image = Arrived(
                config=descriptor_of(body, DOCKER_CONFIG),
                layers=(LoadedLayer(diff_id=layer.diff_id, blob=layer.blob),),
                names=(reference,) if reference is not None else (),
            )
            await hold.add((image.config.digest,))
            await self._blobs.ingest(_once(body), image.config.digest)
            add = await self._unpacked(image, hold, transfer, _silent, origin="import")
            await self._additions.add(add, cause=transfer.cause, names=image.names)
            return (add.image_id,)

        return (await self._transfer("import", str(reference or ""), work, cause))[0]

    async def _transfer(self, kind: str, reference: str, work: Work, cause: Cause) -> tuple[ImageID, ...]:
        """Work with its intent before and its outcome behind it."""
        async with told(self._hands, kind, reference, cause, kept=False) as transfer:
            async with self._arrivals.held() as hold:
                images = await work(hold, transfer)
            with trio.CancelScope(shield=True):
                done = ReportTransferDone(transfer_id=transfer.transfer_id, images=images)
                await self._hands.application.execute(done, *needless(self._hands, kind), cause=transfer.cause)
        return images

    async def _arrived(
        self,
        loaded: Sequence[LoadedImage],
        platforms: Sequence[Platform],
        emit_progress: Emit,
        emit: Emit,
        hold: Hold,
        transfer: Transfer,
    ) -> tuple[ImageID, ...]:
        arrived = [
            Arrived(
                config=image.config,
                layers=image.layers,
                names=_names(image.references),
                manifest=image.manifest,
                index=image.index,
            )
            for image in loaded
        ]
        names: set[str] = set()
        images = []
        for image in arrived:
            add = await self._unpacked(image, hold, transfer, emit_progress, origin="load")
            _check_platform(add, platforms)
            await self._add(image, add, names, emit, transfer.cause)
            images.append(add.image_id)
        return tuple(images)

    async def _add(self, image: Arrived, add: AddImage, told: set[str], emit: Emit, cause: Cause) -> None:
        """told: names that have been, as the images of an index come with the same ones."""
        fresh = [name for name in image.names if str(name) not in told]
        told.update(map(str, fresh))
        for name in fresh:
            owner = self._hands.views.images.owner(str(name))
            if owner and owner != add.image_id:
                moved = (
                    f"The image {name.familiar} already exists, renaming the old one with ID {owner} to empty string"
                )
                await emit(messages.stream(moved + "\n"))
        belonging = await self._belonging(image)
        await self._additions.add(add, cause=cause, names=image.names, belonging=belonging)
        for name in fresh:
            await emit(messages.stream(f"Loaded image: {name.familiar}\n"))
        if not image.names:
            await emit(messages.stream(f"Loaded image ID: {add.image_id}\n"))

    async def _belonging(self, image: Arrived) -> Belonging | None:
        if image.index is None or image.manifest is None:
            return None
        parsed = parse_manifest(await self._blobs.read(image.index.digest), image.index.media_type)
        assert isinstance(parsed, ImageIndex), "the archive's driver found images in it"
        return Belonging(
            index=image.index,
            manifest=image.manifest,
            manifests={entry.descriptor.digest: entry.descriptor for entry in parsed.entries},
        )

    async def _unpacked(self, image: Arrived, hold: Hold, transfer: Transfer, emit: Emit, *, origin: str) -> AddImage:
        """Its layers are leased before the store has them: a crash leaves those that are whole to the next load. Blobs
        are not, as that brings them again anyway."""
        config = parse_image_config(await self._blobs.read(image.config.digest))
        check_config(config, len(image.layers))
        wanted = wanted_layers([layer.blob for layer in image.layers], config.diff_ids)
        chain = [layer.chain_id for layer in wanted]
        await hold.add(layers=chain)
        await transfer.lease(self._holds, layers=chain)
        sizes: dict[ChainID, int] = {}
        async with trio.open_nursery() as nursery:
            for layer in wanted:  # the layer store unpacks some at a time, and puts them into place in order.
                await nursery.start(self._unpack, layer, sizes, emit, name=f"layer {short(layer.diff_id)}")
        layers = tuple(
            ImageLayer(diff_id=layer.diff_id, chain_id=layer.chain_id, blob=layer.blob, size=sizes[layer.chain_id])
            for layer in wanted
        )
        at = self._hands.clock.now_ns()
        return add_image(config, image.config, layers, at=at, origin=origin, manifest=image.manifest)

    async def _unpack(
        self, layer: WantedLayer, sizes: dict[ChainID, int], emit: Emit, *, task_status: trio.TaskStatus[None]
    ) -> None:
        """Started when the layer is asked for, as the next one may wait for it."""
        async with progress_of(short(layer.diff_id), "Loading layer", emit) as progress:
            task_status.started()
            made = await self._layers.unpack(
                layer.blob.digest, layer.blob.media_type, layer.diff_id, layer.parent, progress
            )
        sizes[layer.chain_id] = made.size


def _check_platform(image: AddImage, platforms: Sequence[Platform]) -> None:
    if platforms and not any(image.platform.normalized in fallbacks(wanted) for wanted in platforms):
        wanted = ", ".join(map(str, platforms))
        raise Rejected(Reason.NOT_FOUND, f"image {image.image_id} is for {image.platform}, not for {wanted}")


def _names(references: Iterable[str]) -> tuple[Reference, ...]:
    """Names an archive gives; what is no name is left out, as moby does, so that the image itself comes."""
    found = []
    for text in references:
        try:
            reference = parse(text).with_default_tag()
        except Rejected:
            continue
        if not reference.digest:
            found.append(reference)
    return tuple(found)


def _imported_config(config: ContainerConfig, platform: Platform, message: str, layer: DiffID, now_ns: int) -> bytes:
    created = datetime.fromtimestamp(now_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    document = {
        "architecture": platform.architecture,
        **({"variant": platform.variant} if platform.variant else {}),
        "comment": message,
        "config": msgspec.to_builtins(config),
        "created": created,
        "history": [{"created": created, "comment": message}],
        "os": platform.os,
        "rootfs": {"type": "layers", "diff_ids": [layer]},
    }
    return msgspec.json.encode(document)


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


async def _silent(message: object) -> None:
    await trio.lowlevel.checkpoint()
