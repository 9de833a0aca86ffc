"""The layers of one push on their way: each found there, mounted from another repository, or uploaded; line by line.

Owns the order of attempts and the limit over all pushes (IMG-05). A layer is pushed as it came; one that has never been
compressed is compressed for the occasion, always to the same bytes, so that the registry finds it the next time.
Refuses to know manifests and names. Source for order and words: moby daemon/internal/distribution/push_v2.go.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import partial

import trio

from engine.aggregates.image import ImageLayer
from engine.aggregates.values.descriptor import DOCKER_LAYER, OCI_LAYER, Descriptor
from engine.aggregates.values.ids import DiffID, Digest, short
from engine.aggregates.values.reference import Reference, parse
from engine.drivers.ports.registry import Credentials, Registry
from engine.drivers.ports.storage import BlobStore, ImageArchives, Progress
from engine.errors import PortError
from engine.projections.images import Images
from engine.reactors.images import messages
from engine.reactors.images.downloads import UNLIMITED
from engine.reactors.images.holds import Hold, Holds
from engine.reactors.images.layers import Emit, progress_of

MOUNTS_MAX = 3
"""So many repositories are asked for a layer before it is sent."""

UNCOMPRESSED = frozenset({DOCKER_LAYER, OCI_LAYER})


class Uploads:
    """What all pushes share. parallel: uploads at a time, 0 for no limit."""

    def __init__(
        self,
        registry: Registry,
        blobs: BlobStore,
        archives: ImageArchives,
        *,
        views: Images,
        holds: Holds,
        parallel: int = 5,
    ) -> None:
        self.registry = registry
        self.blobs = blobs
        self.archives = archives
        self.views = views
        self.holds = holds
        self.places = trio.CapacityLimiter(parallel or UNLIMITED)


class LayerPush:
    """The layers of one repository's images; `run` once for each image. made: blobs that exist for this push alone,
    each held as often as it is named."""

    def __init__(
        self, uploads: Uploads, repository: Reference, credentials: Credentials | None, hold: Hold, emit: Emit
    ) -> None:
        self._uploads = uploads
        self._registry = uploads.registry
        self._repository = repository
        self._credentials = credentials
        self._hold = hold
        self._emit = emit
        self._there: dict[tuple[DiffID, bool], Descriptor] = {}
        self.made: list[Digest] = []

    async def run(self, layers: Sequence[ImageLayer], *, compress: bool) -> tuple[Descriptor, ...]:
        """Bring the layers there: what the registry has them as, in the order given. Raises PortError (possibly in an
        exception group)."""
        # The topmost first, as in Docker: it is the one that is new. A layer may lie in an image twice.
        wanted = {layer.diff_id: layer for layer in reversed(layers)}
        for diff_id in wanted:
            await self._emit(messages.update(short(diff_id), "Preparing"))
        async with trio.open_nursery() as nursery:
            for layer in wanted.values():
                work = partial(self._one, layer, compress=compress)
                nursery.start_soon(work, name=f"push layer {short(layer.diff_id)}")
        return tuple(self._there[layer.diff_id, compress] for layer in layers)

    async def send(self, blob: Descriptor) -> None:
        """Bring a small blob there (the configuration), untold."""
        if not await self._registry.has_blob(self._repository, blob, self._credentials):
            source = partial(self._uploads.blobs.stream, blob.digest)
            await self._registry.push_blob(self._repository, blob, source, self._credentials)

    async def _one(self, layer: ImageLayer, *, compress: bool) -> None:
        identifier = short(layer.diff_id)
        if (layer.diff_id, compress) in self._there:
            await self._emit(messages.update(identifier, "Layer already exists"))
            return
        if self._uploads.places.available_tokens == 0:
            await self._emit(messages.update(identifier, "Waiting"))
        async with self._uploads.places:
            blob = layer.blob
            if compress and blob.media_type in UNCOMPRESSED:
                blob = await self._compressed(layer)
            await self._emit(messages.update(identifier, await self._brought(layer, blob)))
        self._there[layer.diff_id, compress] = blob

    async def _brought(self, layer: ImageLayer, blob: Descriptor) -> str:
        """Bring a layer there: how it came, in Docker's words."""
        if await self._registry.has_blob(self._repository, blob, self._credentials):
            return "Layer already exists"
        for path in self._elsewhere(layer):
            if await self._mounted(blob, path):
                return f"Mounted from {path}"
        async with progress_of(short(layer.diff_id), "Pushing", self._emit) as progress:
            source = partial(self._counted, blob, progress)
            await self._registry.push_blob(self._repository, blob, source, self._credentials)
        return "Pushed"

    async def _mounted(self, blob: Descriptor, path: str) -> bool:
        """Whatever speaks against a mount does not speak against an upload."""
        try:
            return await self._registry.mount_blob(self._repository, blob, path, self._credentials)
        except PortError:
            return False

    def _elsewhere(self, layer: ImageLayer) -> list[str]:
        """Other repositories of the registry that have, or had, an image with this layer."""
        names = [
            parse(name)
            for state in self._uploads.views
            if any(other.diff_id == layer.diff_id for other in state.layers)
            for name in state.repository_digests
        ]
        own = self._repository
        found = {name.path for name in names if name.domain == own.domain and name.path != own.path}
        return sorted(found)[:MOUNTS_MAX]

    async def _compressed(self, layer: ImageLayer) -> Descriptor:
        """The layer as gzip, held. Another push of it that ends may discard the blob before it is held, hence again."""
        while True:
            with self._uploads.holds.arrival():
                made = await self._uploads.archives.compress_layer(layer.blob.digest)
                await self._hold.add(blobs=(made.digest,))
            self.made.append(made.digest)
            if await self._uploads.blobs.has(made.digest):
                return made

    async def _counted(self, blob: Descriptor, progress: Progress) -> AsyncIterator[bytes]:
        done = 0
        async for chunk in self._uploads.blobs.stream(blob.digest):
            yield chunk
            done += len(chunk)
            progress(done, blob.size)
