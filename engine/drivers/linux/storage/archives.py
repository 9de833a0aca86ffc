"""Port ImageArchives: images as tar archives, in (`docker load`, `import`) and out (`docker save`).

Owns the formats: OCI image layout, and Docker's own (`manifest.json`) with both old and new member names. A worker
splits an incoming archive into files; which of them become blobs is decided here, and the rest is thrown away. Layers
are kept exactly as they lie in the archive (docs/decisions/0004-blobs-as-received.md). An outgoing archive is an OCI
layout with Docker's `manifest.json` and `repositories` beside it, as dockerd writes since 25: every loader finds its
own. Refuses to know: which images exist, and unpacking; it only tells of what looks like a layer (early.py).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from functools import partial
from typing import Any, cast

import msgspec
import trio

from engine.aggregates.decider import Rejected
from engine.aggregates.values.descriptor import DOCKER_LAYER_GZIP, DOCKER_MANIFEST, OCI_INDEX, Descriptor, descriptor_of
from engine.aggregates.values.ids import Digest
from engine.aggregates.values.manifest import Manifest, parse_manifest, render_manifest
from engine.aggregates.values.platform import Platform
from engine.aggregates.values.reference import parse as parse_reference
from engine.drivers.linux.storage.archive_index import Archive, FoundImage, find_images
from engine.drivers.linux.storage.blobs import LAYER_TAR, adopt
from engine.drivers.linux.storage.early import EarlyLayers, Guess
from engine.drivers.linux.storage.errors import as_port_error
from engine.drivers.linux.storage.places import Places
from engine.drivers.linux.storage.tar_writer import RECORD_END, header, padding
from engine.drivers.linux.storage.workers import Workers
from engine.drivers.ports.storage import (
    BlobStore,
    Claim,
    ImportedLayer,
    LoadedImage,
    LoadedLayer,
    Progress,
    SavedImage,
    SavedIndex,
)
from engine.drivers.ports.uploads import Upload
from engine.errors import Fault, PortError


class LinuxImageArchives:
    """See engine/drivers/ports/storage.py, ImageArchives."""

    def __init__(
        self, places: Places, blobs: BlobStore, early: EarlyLayers, workers: Workers, limiter: trio.CapacityLimiter
    ) -> None:
        self._early = early
        self._places = places
        self._blobs = blobs
        self._workers = workers
        self._limiter = limiter

    @asynccontextmanager
    async def load(
        self,
        source: AsyncIterator[bytes],
        claim: Claim,
        platforms: Sequence[Platform] = (),
        progress: Progress | None = None,
    ) -> AsyncIterator[tuple[LoadedImage, ...]]:
        async with self._early.of_archive() as guess:
            # Of some platforms alone: who knows whether a layer is wanted.
            images = await self._load(source, claim, platforms, progress, None if platforms else guess)
            yield images

    async def _load(
        self,
        source: AsyncIterator[bytes],
        claim: Claim,
        platforms: Sequence[Platform],
        progress: Progress | None,
        guess: Guess | None,
    ) -> tuple[LoadedImage, ...]:
        def found(member: dict[str, Any]) -> None:
            if guess is not None:
                guess(member["file"], Digest(member["digest"]), plain=member["plain"])

        with self._temporary("load") as directory:
            archive = Archive(await self._members(directory, source, progress, found))
            try:
                images = await trio.to_thread.run_sync(find_images, archive, platforms, limiter=self._limiter)
            except Rejected as error:
                raise PortError("load", error.message, fault=Fault.INVALID) from error
            return tuple([await self._keep(image, archive, claim) for image in images])

    async def import_layer(
        self, source: AsyncIterator[bytes], claim: Claim, progress: Progress | None = None
    ) -> ImportedLayer:
        with self._temporary("import") as directory:
            path = f"{directory}/layer"
            found = await self._receive("receive_layer", {"file": path}, source, progress)
            await claim([Digest(found["digest"])])
            await self._adopt(path, Digest(found["digest"]))
        blob = Descriptor(media_type=LAYER_TAR, digest=Digest(found["digest"]), size=found["size"])
        return ImportedLayer(diff_id=found["digest"], blob=blob)

    async def compress_layer(self, blob: Digest, claim: Claim, progress: Progress | None = None) -> Descriptor:
        with self._temporary("compress") as directory:
            path = f"{directory}/layer"
            found = await self._receive("compress_layer", {"file": path}, self._blobs.stream(blob), progress)
            await claim([Digest(found["digest"])])
            await self._adopt(path, Digest(found["digest"]))
        return Descriptor(media_type=DOCKER_LAYER_GZIP, digest=Digest(found["digest"]), size=found["size"])

    async def save(
        self, images: Sequence[SavedImage], indexes: Sequence[SavedIndex] = ()
    ) -> AsyncGenerator[bytes, None]:
        written: set[Digest] = set()
        entries: list[dict[str, Any]] = []
        by_index = {reference for one in indexes for reference in one.references}
        for image in images:
            manifest_body = await self._manifest_body(image)
            manifest = _described(manifest_body, image.manifest)
            yield _small(_blob_name(manifest.digest), manifest_body)
            written.add(manifest.digest)
            for blob in (image.config, *(layer.blob for layer in image.layers)):
                if blob.digest not in written:
                    written.add(blob.digest)
                    async for chunk in self._blob(blob.digest):
                        yield chunk
            own = [reference for reference in image.references if reference not in by_index]
            if own or not (image.references or image.part):
                entries += _index_entries(manifest, own)
        for one in indexes:
            async for chunk in self._blob(one.index.digest):
                yield chunk
            entries += _index_entries(one.index, one.references)
        for name, body in _tables(entries, images):
            yield _small(name, body)
        yield RECORD_END

    async def _members(
        self,
        directory: str,
        source: AsyncIterator[bytes],
        progress: Progress | None,
        found: Callable[[dict[str, Any]], None],
    ) -> list[dict[str, Any]]:
        """Split an archive into files. A worker reads the client's socket itself where that can be had."""
        task = "receive_archive"
        fields: dict[str, Any] = {"directory": directory, "upload": None}
        if not isinstance(source, Upload):
            return list((await self._receive(task, fields, source, progress, found))["members"])
        async with source.lend() as loan:
            fields["upload"] = {"socket": loan.socket, "length": loan.length, "early": len(loan.early)}
            received = await self._receive(task, fields, _and_no_end(loan.early), progress, found, loan.socket)
            loan.behind = bytes.fromhex(received["behind"])
        return list(received["members"])

    async def _receive(
        self,
        task: str,
        fields: dict[str, Any],
        source: AsyncIterator[bytes],
        progress: Progress | None,
        found: Callable[[dict[str, Any]], None] | None = None,
        lent: int | None = None,
    ) -> Any:
        """Feed a worker and hear it out at the same time."""
        done = 0

        def advance(size: int) -> None:
            nonlocal done
            done += size
            if progress is not None:
                progress(done, 0)

        async with self._workers.start(
            task, fields, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, lent=lent
        ) as worker:
            outcome: Any = None
            trouble: PortError | None = None
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(worker.feed, source), name=f"feed {task}")
                try:
                    outcome = await worker.outcome(advance, found)
                except PortError as error:
                    trouble = error  # raised outside: a nursery would wrap it in a group.
                nursery.cancel_scope.cancel()
            if trouble is not None:
                raise trouble
            return outcome

    async def _keep(self, image: FoundImage, archive: Archive, claim: Claim) -> LoadedImage:
        """Turn the members of one image into blobs. A layer may be shared with an earlier image, or be in the store."""
        body = image.manifest_body or render_manifest(image.config, [layer.blob for layer in image.layers])
        members = [image.config.digest, *(layer.blob.digest for layer in image.layers)]
        if image.index is not None:
            members.append(image.index.digest)
        manifest = descriptor_of(body, image.manifest_media_type if image.manifest_body else DOCKER_MANIFEST)
        await claim([*members, manifest.digest])
        for digest in members:
            await self._adopt(archive.file_of(digest), digest)
        await self._blobs.ingest(_once(body), manifest.digest)
        return LoadedImage(
            config=image.config,
            manifest=manifest,
            layers=tuple(LoadedLayer(diff_id=layer.diff_id, blob=layer.blob) for layer in image.layers),
            references=image.references,
            index=image.index,
        )

    async def _adopt(self, path: str, digest: Digest) -> None:
        """Make a synced, hashed file a blob. Nothing happens when it was adopted already."""
        with as_port_error("store blob"):
            await trio.to_thread.run_sync(adopt, self._places, path, digest, limiter=self._limiter)

    async def _manifest_body(self, image: SavedImage) -> bytes:
        if image.manifest is not None and await self._blobs.has(image.manifest.digest):
            return await self._blobs.read(image.manifest.digest)
        return render_manifest(image.config, [layer.blob for layer in image.layers])

    async def _blob(self, digest: Digest) -> AsyncIterator[bytes]:
        with as_port_error("save"):
            size = os.stat(self._blobs.path(digest)).st_size
        yield header(_blob_name(digest).encode(), size=size)
        async with aclosing(cast("AsyncGenerator[bytes]", self._blobs.stream(digest))) as chunks:
            async for chunk in chunks:
                yield chunk
        yield padding(size)

    @contextmanager
    def _temporary(self, what: str) -> Iterator[str]:
        with as_port_error(what):
            directory = self._places.new_temporary(what)
            os.mkdir(directory, 0o700)
        try:
            yield directory
        finally:
            self._places.discard(directory)


def _described(body: bytes, said: Descriptor | None) -> Descriptor:
    manifest = parse_manifest(body, said.media_type if said is not None else "")
    assert isinstance(manifest, Manifest), "an image's manifest is no index"
    return descriptor_of(body, manifest.media_type)


def _index_entries(manifest: Descriptor, references: Sequence[str]) -> list[dict[str, Any]]:
    """One entry a name, as containerd's exporter writes them."""
    entry = {"mediaType": manifest.media_type, "digest": manifest.digest, "size": manifest.size}
    named = []
    for text in references:
        reference = parse_reference(text)
        annotations = {"io.containerd.image.name": str(reference), "org.opencontainers.image.ref.name": reference.tag}
        named.append({**entry, "annotations": annotations})
    return named or [entry]


def _tables(entries: Sequence[dict[str, Any]], images: Sequence[SavedImage]) -> Iterator[tuple[str, bytes]]:
    """What leads to the images: (name, body) of OCI's and Docker's own."""
    yield "index.json", _json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
    named = [image for image in images if not image.part]
    yield "manifest.json", _json([_docker_entry(image) for image in named])
    yield "oci-layout", b'{"imageLayoutVersion":"1.0.0"}'
    repositories: dict[str, dict[str, str]] = {}
    for image in named:
        _add_repositories(repositories, image)
    if repositories:
        yield "repositories", _json(repositories) + b"\n"


def _docker_entry(image: SavedImage) -> dict[str, Any]:
    return {
        "Config": _blob_name(image.config.digest),
        "RepoTags": [parse_reference(text).familiar for text in image.references] or None,
        "Layers": [_blob_name(layer.blob.digest) for layer in image.layers],
    }


def _add_repositories(repositories: dict[str, dict[str, str]], image: SavedImage) -> None:
    if not image.layers:
        return
    top = image.layers[-1].blob.digest.partition(":")[2]
    for text in image.references:
        reference = parse_reference(text)
        repositories.setdefault(reference.familiar_name, {})[reference.tag] = top


def _blob_name(digest: Digest) -> str:
    return f"blobs/sha256/{digest.partition(':')[2]}"


def _small(name: str, body: bytes) -> bytes:
    return header(name.encode(), size=len(body)) + body + padding(len(body))


def _json(document: object) -> bytes:
    return msgspec.json.encode(document)


async def _and_no_end(data: bytes) -> AsyncIterator[bytes]:
    yield data
    await trio.sleep_forever()


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body
