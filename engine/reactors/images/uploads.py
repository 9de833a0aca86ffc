"""The layers of one push on their way: each found there, mounted from another repository, or uploaded; line by line.

Owns the order of attempts and the limit over all pushes (IMG-05). A layer is pushed as it came; one that has never been
compressed is compressed once, and the log remembers the blob (docs/decisions/0011-compressed-once.md). Pushes of one
blob to one repository take turns: whoever comes later finds it there, or brings it, should the first have failed.
Refuses to know manifests and names. Source for order and words: moby daemon/internal/distribution/push_v2.go.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import cast

import trio

from engine.aggregates.image import ImageLayer
from engine.aggregates.values.descriptor import Descriptor
from engine.aggregates.values.ids import DiffID, Digest, short
from engine.aggregates.values.reference import Reference, parse
from engine.drivers.ports.registry import Credentials, Registry
from engine.drivers.ports.storage import BlobStore, Progress
from engine.errors import PortError
from engine.projections.images import Images
from engine.reactors.images import messages
from engine.reactors.images.downloads import UNLIMITED
from engine.reactors.images.layers import Emit, progress_of
from engine.reactors.turns import Turns

MOUNTS_MAX = 3
"""So many repositories are asked for a layer before it is sent."""

Choose = Callable[[ImageLayer], Awaitable[Descriptor]]
"""The blob to push for a layer, held."""


class Uploads:
    """What all pushes share. parallel: uploads at a time, 0 for no limit."""

    def __init__(self, registry: Registry, blobs: BlobStore, *, views: Images, parallel: int = 5) -> None:
        self.registry = registry
        self.blobs = blobs
        self.views = views
        self.places = trio.CapacityLimiter(parallel or UNLIMITED)
        self.turns = Turns()


class LayerPush:
    """The layers of one repository's images; `run` once for each image."""

    def __init__(self, uploads: Uploads, repository: Reference, credentials: Credentials | None, emit: Emit) -> None:
        self._uploads = uploads
        self._registry = uploads.registry
        self._repository = repository
        self._credentials = credentials
        self._emit = emit
        self._there: set[tuple[DiffID, Digest]] = set()

    async def run(self, layers: Sequence[ImageLayer], choose: Choose) -> tuple[Descriptor, ...]:
        """Bring the layers there: what the registry has them as, in the order given. Raises PortError (possibly in an
        exception group)."""
        # The topmost first, as in Docker: it is the one that is new. A layer may lie in an image twice.
        wanted = {layer.diff_id: layer for layer in reversed(layers)}
        for diff_id in wanted:
            await self._emit(messages.update(short(diff_id), "Preparing"))
        brought: dict[DiffID, Descriptor] = {}
        async with trio.open_nursery() as nursery:
            for layer in wanted.values():
                work = partial(self._one, layer, choose, brought)
                nursery.start_soon(work, name=f"push layer {short(layer.diff_id)}")
        return tuple(brought[layer.diff_id] for layer in layers)

    async def send(self, blob: Descriptor) -> None:
        """Bring a small blob there (the configuration), untold."""
        async with self._uploads.turns.turn((self._repository, blob.digest)):
            if not await self._registry.has_blob(self._repository, blob, self._credentials):
                source = partial(self._uploads.blobs.stream, blob.digest)
                await self._registry.push_blob(self._repository, blob, source, self._credentials)

    async def _one(self, layer: ImageLayer, choose: Choose, brought: dict[DiffID, Descriptor]) -> None:
        identifier = short(layer.diff_id)
        uploads = self._uploads
        name = (self._repository, layer.blob.digest)
        if uploads.turns.taken(name):
            await self._emit(messages.update(identifier, "Waiting"))
        async with uploads.turns.turn(name):  # before a place: who waits for another push takes none.
            if uploads.places.available_tokens == 0:
                await self._emit(messages.update(identifier, "Waiting"))
            async with uploads.places:
                blob = brought[layer.diff_id] = await choose(layer)
                known = (layer.diff_id, blob.digest) in self._there
                word = "Layer already exists" if known else await self._brought(layer, blob)
        self._there.add((layer.diff_id, blob.digest))
        await self._emit(messages.update(identifier, word))

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

    async def _counted(self, blob: Descriptor, progress: Progress, offset: int) -> AsyncIterator[bytes]:
        done = offset
        async with aclosing(cast("AsyncGenerator[bytes]", self._uploads.blobs.stream(blob.digest, offset))) as chunks:
            async for chunk in chunks:
                yield chunk
                done += len(chunk)
                progress(done, blob.size)
