"""The layers of one pull: found or fetched, unpacked on top of each other, told line by line.

Owns the order: downloads side by side, and a layer's unpacking begins when its parent's has begun (the layer store puts
them into place in order). Refuses to know manifests and names.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import msgspec
import trio

from engine.aggregates.image import ImageLayer
from engine.aggregates.values.descriptor import Descriptor
from engine.aggregates.values.ids import ChainID, DiffID, short
from engine.aggregates.values.layers import chain_ids
from engine.aggregates.values.reference import Reference
from engine.drivers.ports.registry import Credentials
from engine.drivers.ports.storage import BlobStore, Layer, LayerStore, Progress
from engine.reactors.images import messages
from engine.reactors.images.downloads import Download, Downloads, Phase

Emit = Callable[[object], Awaitable[None]]

PROGRESS_INTERVAL_S = 0.1


class WantedLayer(msgspec.Struct, frozen=True, kw_only=True):
    """One layer of an image to be: the blob as the manifest names it, and what it must unpack to."""

    blob: Descriptor
    diff_id: DiffID
    chain_id: ChainID
    parent: ChainID | None


def wanted_layers(blobs: Sequence[Descriptor], diff_ids: Sequence[DiffID]) -> tuple[WantedLayer, ...]:
    """Lowest first. As many of the one as of the other (the caller checks)."""
    chain = chain_ids(diff_ids)
    parents: tuple[ChainID | None, ...] = (None, *chain)
    return tuple(
        WantedLayer(blob=blob, diff_id=diff_id, chain_id=chain_id, parent=parent)
        for blob, diff_id, chain_id, parent in zip(blobs, diff_ids, chain, parents, strict=False)
    )


class LayerFetch:
    """The layers of one image on their way. `run` once."""

    def __init__(
        self,
        downloads: Downloads,
        blobs: BlobStore,
        layers: LayerStore,
        *,
        reference: Reference,
        credentials: Credentials | None,
        emit: Emit,
    ) -> None:
        self._downloads = downloads
        self._blobs = blobs
        self._layers = layers
        self._reference = reference
        self._credentials = credentials
        self._emit = emit

    async def run(self, wanted: Sequence[WantedLayer]) -> tuple[ImageLayer, ...]:
        """All layers, in the store. Raises PortError (possibly in an exception group) when one can not be had."""
        present = [await self._present(layer) for layer in wanted]
        for layer, there in zip(wanted, present, strict=True):
            await self._emit(
                messages.update(short(layer.blob.digest), "Already exists" if there else "Pulling fs layer")
            )
        unpacking = [trio.Event() for _ in wanted]
        found: dict[ChainID, Layer] = {}
        async with trio.open_nursery() as nursery:
            for index, (layer, there) in enumerate(zip(wanted, present, strict=True)):
                before = unpacking[index - 1] if index else None
                work = partial(self._one, layer, before, unpacking[index], found, quiet=there)
                nursery.start_soon(work, name=f"layer {short(layer.blob.digest)}")
        return tuple(
            ImageLayer(diff_id=layer.diff_id, chain_id=layer.chain_id, blob=layer.blob, size=found[layer.chain_id].size)
            for layer in wanted
        )

    async def _present(self, layer: WantedLayer) -> bool:
        """Both the tree and the very blob: without the blob it could not be saved or pushed as it came."""
        return await self._layers.lookup(layer.chain_id) is not None and await self._blobs.has(layer.blob.digest)

    async def _one(
        self,
        layer: WantedLayer,
        parent_begun: trio.Event | None,
        begun: trio.Event,
        found: dict[ChainID, Layer],
        *,
        quiet: bool,
    ) -> None:
        identifier = short(layer.blob.digest)
        if not quiet:
            async with self._downloads.fetching(self._reference, layer.blob, self._credentials) as download:
                await self._show(identifier, download)
        if parent_begun is not None:
            await parent_begun.wait()
        begun.set()
        async with progress_of(identifier, "Extracting", self._emit) as progress:
            found[layer.chain_id] = await self._layers.unpack(
                layer.blob.digest, layer.blob.media_type, layer.diff_id, layer.parent, None if quiet else progress
            )
        if not quiet:
            await self._emit(messages.update(identifier, "Pull complete"))

    async def _show(self, identifier: str, download: Download) -> None:
        """Tell the phases of a download as they come, until it has ended."""
        told: set[Phase] = set()
        received = -1
        while not download.ended:
            phase = download.phase
            if phase is Phase.DOWNLOADING and download.received != received:
                received = download.received
                total = download.descriptor.size
                await self._emit(messages.progress(identifier, "Downloading", received, total))
            elif phase not in (Phase.BEGUN, Phase.DOWNLOADING) and (phase is Phase.RETRYING or phase not in told):
                await self._emit(messages.update(identifier, _words(download)))
            told.add(phase)
            if phase is Phase.DOWNLOADING:
                with trio.move_on_after(PROGRESS_INTERVAL_S):
                    await download.left(phase)
            else:
                await download.left(phase)
        await download.finished()
        if Phase.VERIFYING not in told:
            await self._emit(messages.update(identifier, "Verifying Checksum"))
        await self._emit(messages.update(identifier, "Download complete"))


def _words(download: Download) -> str:
    match download.phase:
        case Phase.WAITING:
            return "Waiting"
        case Phase.VERIFYING:
            return "Verifying Checksum"
        case Phase.RETRYING:
            seconds = max(round(download.retry_in_s), 0)
            return f"Retrying in {seconds} second{'' if seconds == 1 else 's'}"
        case _:
            return "Downloading"


@asynccontextmanager
async def progress_of(identifier: str, action: str, emit: Emit) -> AsyncIterator[Progress]:
    """A callback for a driver; what it says is told now and then, and once at the end."""
    latest: tuple[int, int] | None = None
    told: tuple[int, int] | None = None

    def note(done: int, total: int) -> None:
        nonlocal latest
        latest = (done, total)

    async def tell() -> None:
        nonlocal told
        if latest is not None and latest != told:
            told = latest
            await emit(messages.progress(identifier, action, *told))

    async def keep_telling() -> None:
        while True:
            await tell()
            await trio.sleep(PROGRESS_INTERVAL_S)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_telling, name="progress")
        yield note
        nursery.cancel_scope.cancel()
    await tell()
