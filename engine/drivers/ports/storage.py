"""Port: layers, root filesystems and the files in them. Content-addressed, so every verb is idempotent.

The store keeps two things: blobs (`sha256:...`, as received, verified) and unpacked layers by ChainID. What exists
because of what is decided by image events; the store only holds it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from engine.aggregates.values.descriptor import Descriptor as Descriptor
from engine.aggregates.values.ids import ChainID, ContainerID, DiffID, Digest
from engine.aggregates.values.platform import Platform
from engine.drivers.ports.runtime import RootFilesystem

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all or 0)."""

Claim = Callable[[Sequence[Digest]], Awaitable[None]]
"""Awaited with the digests of what has come, before any of it is looked for in the store or put there: behind it the
caller sees to it that nobody discards them."""


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """An unpacked layer. size: bytes of file content in it."""

    chain_id: ChainID
    diff_id: DiffID
    size: int


class PathStat(msgspec.Struct, frozen=True, kw_only=True):
    """Docker's container path stat: mode is Go's os.FileMode, mtime RFC 3339."""

    name: str
    size: int
    mode: int
    mtime: str
    link_target: str


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """kind: 0 modified, 1 added, 2 deleted."""

    path: str
    kind: int


class StorageInventory(msgspec.Struct, frozen=True, kw_only=True):
    """partial: of blobs that have come in part (`BlobStore.ingest`, resume)."""

    blobs: tuple[Digest, ...] = ()
    partial: tuple[Digest, ...] = ()
    layers: tuple[ChainID, ...] = ()
    containers: tuple[ContainerID, ...] = ()


class BlobStore(Protocol):
    """Verified content by digest."""

    async def ingest(
        self,
        source: AsyncIterator[bytes],
        expected: Digest | None = None,
        *,
        size: int | None = None,
        progress: Progress | None = None,
        resume: bool = False,
    ) -> Descriptor:
        """Store a stream; verified before it becomes visible. size: what a descriptor promised; a longer stream is cut
        off and refused. Raises PortError(INVALID) on a mismatch, PortError(DISK_FULL), leaving nothing.

        resume: the stream begins behind the first `partial(expected)` bytes; what has come is kept when it breaks off,
        also over a crash, until `discard` or a mismatch. One at a time for a digest."""
        ...

    async def partial(self, digest: Digest) -> int:
        """How many bytes of a blob have come, by an `ingest` with `resume` that broke off. They are not verified."""
        ...

    def path(self, digest: Digest) -> str: ...

    async def has(self, digest: Digest) -> bool: ...

    async def read(self, digest: Digest) -> bytes:
        """A small blob (manifest, config) whole; at most 8 MiB."""
        ...

    def stream(self, digest: Digest, offset: int = 0) -> AsyncIterator[bytes]:
        """A blob in chunks, from `offset` on. Raises PortError(NOT_FOUND) before the first one."""
        ...

    async def discard(self, digest: Digest) -> None:
        """Also what there is of it in part."""
        ...

    async def discard_partial(self, digest: Digest) -> None:
        """What there is of it in part alone."""
        ...


class LayerStore(Protocol):
    """Unpacked layers, stacked by ChainID."""

    async def unpack(
        self, blob: Digest, media_type: str, diff_id: DiffID, parent: ChainID | None, progress: Progress | None = None
    ) -> Layer:
        """Decompress, verify the DiffID and unpack on top of `parent`. Raises PortError(INVALID) for a corrupt or
        hostile archive, leaving nothing."""
        ...

    async def lookup(self, chain_id: ChainID) -> Layer | None: ...

    async def discard_layer(self, chain_id: ChainID) -> None: ...

    async def inventory(self) -> StorageInventory: ...


class RootFilesystems(Protocol):
    """The read-write layer of each container."""

    async def prepare(
        self, container_id: ContainerID, chain: Sequence[ChainID], *, volatile: bool, limit_bytes: int = 0
    ) -> RootFilesystem:
        """Make (or find) the container's read-write layer over the layers, lowest first. limit_bytes: what it may hold,
        0 for all there is; one that is there keeps what it has."""
        ...

    async def discard_rootfs(self, container_id: ContainerID) -> None:
        """Renamed away at once, deleted by the sweeper."""
        ...

    def lowers(self, chain: Sequence[ChainID]) -> tuple[str, ...]:
        """The directories of layers given lowest first, topmost first. Reads nothing."""
        ...

    def describe(self, container_id: ContainerID, chain: Sequence[ChainID]) -> Mapping[str, str]:
        """Where the layers lie, in the words of `GraphDriver.Data`. Reads nothing."""
        ...

    async def usages(self, container_ids: Sequence[ContainerID]) -> Mapping[ContainerID, int]:
        """Bytes in read-write layers: 0 for one that is not there; what cannot be measured is left out. It takes as
        long as a walk over them."""
        ...

    async def changes(self, container_id: ContainerID) -> tuple[Change, ...]: ...

    async def diff_layer(self, container_id: ContainerID, claim: Claim) -> ImportedLayer:
        """The read-write layer as a layer (whiteouts as .wh. files), stored as a blob that is claimed before."""
        ...


class Files(Protocol):
    """Files inside a container, running (pid > 0: through /proc/<pid>/root) or not, symlinks resolved inside its
    root."""

    async def stat(self, root: FilesRoot, path: str) -> PathStat: ...

    def archive(self, root: FilesRoot, path: str) -> AsyncIterator[bytes]:
        """A tar of the path. Raises PortError(NOT_FOUND) before the first chunk."""
        ...

    async def extract(
        self,
        root: FilesRoot,
        path: str,
        archive: AsyncIterator[bytes],
        *,
        no_overwrite_dir_non_dir: bool,
        copy_uid_gid: bool,
    ) -> None:
        """Unpack a tar (compressed or not) into a directory. Raises PortError: NOT_FOUND, INVALID for what is no
        directory, is read-only, or is no archive."""
        ...

    def export(self, root: FilesRoot) -> AsyncIterator[bytes]:
        """A tar of the whole tree; give a root without pid and mounts to leave volumes out. A running container's
        read-write layer may be read this way."""
        ...


class FilesMount(msgspec.Struct, frozen=True, kw_only=True):
    """A volume, bind or image that lies over a path of a stopped container's root. subpath: what of it, never outside
    of it; lowers: the directories of an image, topmost first."""

    source: str
    destination: str
    rw: bool
    subpath: str = ""
    lowers: tuple[str, ...] = ()


class FilesRoot(msgspec.Struct, frozen=True, kw_only=True):
    """A container's file tree. pid: of its first process, or 0; then `rootfs` and `mounts` are put together.

    remapped: whether it has a user namespace, in an engine that gives them: its volumes' owners are told as it sees
    them. user: the container's `User`, to whom `copy_uid_gid` gives what is extracted. called: the name by which the
    client asked, for messages."""

    container_id: ContainerID
    called: str = ""
    pid: int
    rootfs: RootFilesystem
    mounts: tuple[FilesMount, ...] = ()
    readonly: bool = False
    user: str = ""
    remapped: bool = True


class LoadedLayer(msgspec.Struct, frozen=True, kw_only=True):
    """A layer of an archive: its blob as it lies there, and what it must unpack to."""

    diff_id: DiffID
    blob: Descriptor


class LoadedImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image of an archive; all its blobs are in the store. references: canonical, with tags. layers: lowest
    first. index: what the references stand for, when it came as one image of an index."""

    config: Descriptor
    manifest: Descriptor
    layers: tuple[LoadedLayer, ...]
    references: tuple[str, ...] = ()
    index: Descriptor | None = None


class ImportedLayer(msgspec.Struct, frozen=True, kw_only=True):
    """A root file system, or what a container wrote, as a layer, stored uncompressed: the blob's digest is the
    DiffID."""

    diff_id: DiffID
    blob: Descriptor


class SavedImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image to write into an archive. manifest: None where there is none yet. references: what to name it by. part:
    it is there for an index alone."""

    config: Descriptor
    manifest: Descriptor | None
    layers: tuple[LoadedLayer, ...]
    references: tuple[str, ...] = ()
    part: bool = False


class SavedIndex(msgspec.Struct, frozen=True, kw_only=True):
    """An index to write into an archive over some of its images. references: those that stand for it."""

    index: Descriptor
    references: tuple[str, ...]


class ImageArchives(Protocol):
    """Images as tar archives. Unpacking what was loaded is the caller's (`LayerStore.unpack`). What becomes a blob is
    claimed before."""

    def load(
        self,
        source: AsyncIterator[bytes],
        claim: Claim,
        platforms: Sequence[Platform] = (),
        progress: Progress | None = None,
    ) -> AbstractAsyncContextManager[tuple[LoadedImage, ...]]:
        """Take in a docker-archive or OCI layout, compressed or not; platforms: which images of an index, else all that
        are there. Unpacking within the block finds layers that were unpacked while the archive came. Raises
        PortError(INVALID), leaving nothing."""
        ...

    async def import_layer(
        self, source: AsyncIterator[bytes], claim: Claim, progress: Progress | None = None
    ) -> ImportedLayer:
        """Take in a tar of a root file system, compressed or not."""
        ...

    async def compress_layer(self, blob: Digest, claim: Claim, progress: Progress | None = None) -> Descriptor:
        """A gzip of an uncompressed layer, stored as a blob of its own; the same layer gives the same bytes."""
        ...

    def save(self, images: Sequence[SavedImage], indexes: Sequence[SavedIndex] = ()) -> AsyncIterator[bytes]:
        """An OCI layout with Docker's manifest.json and repositories. The same images give the same bytes."""
        ...


class ContainerFolders(Protocol):
    """`<data-root>/containers/<id>/`: the generated files and the logs of a container."""

    async def write(self, container_id: ContainerID, files: Mapping[str, str]) -> str:
        """Write small files (hosts, hostname, resolv.conf); the folder's path. Existing files are rewritten in place,
        so that a running container's bind mounts see the change."""
        ...

    async def edit(self, container_id: ContainerID, name: str, change: Callable[[str], str]) -> None:
        """Change one of these files in place, whatever its container has made of it; nothing when there is none. Raises
        PortError for one that has grown beyond all measure."""
        ...

    def path(self, container_id: ContainerID) -> str: ...

    async def discard(self, container_id: ContainerID) -> None: ...

    async def list_folders(self) -> tuple[ContainerID, ...]: ...
