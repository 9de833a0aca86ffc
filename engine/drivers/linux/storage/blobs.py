"""Port BlobStore on a file system: verified content by digest.

Owns `<data-root>/content/`. A blob is written to a temporary file, hashed on the way, fsynced, and only then renamed to
its digest: what has a name in `sha256/` is whole. Two writers of the same digest end with one file. What may be resumed
is written in `partial/`, unverified, and hashed again by whoever goes on.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, TypeVar

import trio

from engine.aggregates.values.descriptor import Descriptor
from engine.aggregates.values.ids import Digest
from engine.drivers.linux.storage.errors import as_port_error
from engine.drivers.linux.storage.places import DIRECTORY_MODE, Places, hex_of, sync_directory
from engine.drivers.ports.storage import Progress
from engine.errors import Fault, PortError

T = TypeVar("T")

READ_BYTES_MAX = 8 << 20
_BATCH = 1 << 20
"""Chunks are gathered to this size before a thread hashes and writes them: a hop costs as much as hashing 100 KB."""


LAYER_TAR = "application/vnd.docker.image.rootfs.diff.tar"
"""A layer that was made here and not compressed."""


class LinuxBlobStore:
    """See engine/drivers/ports/storage.py, BlobStore."""

    def __init__(self, places: Places, limiter: trio.CapacityLimiter) -> None:
        self._places = places
        self._limiter = limiter

    async def ingest(
        self,
        source: AsyncIterator[bytes],
        expected: Digest | None = None,
        *,
        size: int | None = None,
        progress: Progress | None = None,
        resume: bool = False,
    ) -> Descriptor:
        if expected is not None:
            hex_of(expected)
        with as_port_error("ingest"):
            writer = await self._in_thread(_Writer, self._places, expected if resume else None)
        try:
            await self._write(writer, source, size, progress)
            if size is not None and writer.size != size:
                if writer.size > size:
                    writer.doubt()
                raise _mismatch(f"expected {size} bytes, got {writer.size}")
            digest = writer.digest()
            if expected is not None and digest != expected:
                writer.doubt()
                raise _mismatch(f"filesystem layer verification failed for digest {expected}")
            with as_port_error("ingest"):
                await self._in_thread(writer.publish, self._places.blob(digest))
        except PortError as error:
            if error.fault is Fault.DISK_FULL:
                writer.doubt()  # space is what is wanted now.
            raise
        finally:
            writer.abandon()
        return Descriptor(media_type="application/octet-stream", digest=digest, size=writer.size)

    async def _write(
        self, writer: _Writer, source: AsyncIterator[bytes], size: int | None, progress: Progress | None
    ) -> None:
        waiting: list[bytes] = []
        length = 0
        async with _closing(source):
            async for chunk in source:
                waiting.append(chunk)
                length += len(chunk)
                if size is not None and writer.size + length > size:
                    writer.doubt()
                    raise _mismatch(f"more than the expected {size} bytes")
                if length >= _BATCH:
                    await self._flush(writer, waiting, size, progress)
                    waiting, length = [], 0
        if waiting:
            await self._flush(writer, waiting, size, progress)

    async def _flush(self, writer: _Writer, chunks: list[bytes], size: int | None, progress: Progress | None) -> None:
        with as_port_error("ingest"):
            await self._in_thread(writer.write, chunks)
        if progress is not None:
            progress(writer.size, size or 0)

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        return await trio.to_thread.run_sync(function, *arguments, limiter=self._limiter)

    async def partial(self, digest: Digest) -> int:
        try:
            return os.stat(self._places.partial_blob(digest)).st_size
        except FileNotFoundError:
            return 0

    def path(self, digest: Digest) -> str:
        return self._places.blob(digest)

    async def has(self, digest: Digest) -> bool:
        return os.path.exists(self._places.blob(digest))

    async def read(self, digest: Digest) -> bytes:
        with as_port_error("read blob"):
            return await self._in_thread(_read, self._places.blob(digest))

    async def stream(self, digest: Digest, offset: int = 0) -> AsyncGenerator[bytes, None]:
        with as_port_error("read blob"):
            fd = os.open(self._places.blob(digest), os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.lseek(fd, offset, os.SEEK_SET)
            while chunk := await self._in_thread(os.read, fd, _BATCH):
                yield chunk
        finally:
            os.close(fd)

    async def discard(self, digest: Digest) -> None:
        with as_port_error("discard blob"):
            self._places.discard(self._places.blob(digest))
        await self.discard_partial(digest)

    async def discard_partial(self, digest: Digest) -> None:
        with as_port_error("discard blob"):
            self._places.discard(self._places.partial_blob(digest))


def adopt(places: Places, path: str, digest: Digest) -> None:
    """Make a synced, hashed file a blob by a rename. Nothing happens when there is one already."""
    target = places.blob(digest)
    if os.path.exists(target):
        return
    os.makedirs(places.content, DIRECTORY_MODE, exist_ok=True)
    os.rename(path, target)
    sync_directory(places.content)


class _Writer:
    """One blob being written. Its methods block: they run in threads, one at a time. resumed: whose parts are gone on
    with, and kept."""

    def __init__(self, places: Places, resumed: Digest | None) -> None:
        os.makedirs(places.content, DIRECTORY_MODE, exist_ok=True)
        self._hash = hashlib.sha256()
        self.size = 0
        self._kept = resumed is not None
        if resumed is None:
            self._path = places.new_temporary("blob")
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        else:
            os.makedirs(places.partial, DIRECTORY_MODE, exist_ok=True)
            self._path = places.partial_blob(resumed)
            self._fd = _open_alone(self._path)
            while chunk := os.read(self._fd, _BATCH):
                self._hash.update(chunk)
                self.size += len(chunk)

    def write(self, chunks: list[bytes]) -> None:
        data = memoryview(chunks[0] if len(chunks) == 1 else b"".join(chunks))
        self._hash.update(data)
        self.size += len(data)
        while data:
            data = data[os.write(self._fd, data) :]

    def digest(self) -> Digest:
        return Digest("sha256:" + self._hash.hexdigest())

    def publish(self, path: str) -> None:
        os.fsync(self._fd)
        os.chmod(self._fd, 0o644)
        os.rename(self._path, path)
        sync_directory(os.path.dirname(path))

    def doubt(self) -> None:
        """What has come is wrong: nothing of it is kept."""
        self._kept = False

    def abandon(self) -> None:
        os.close(self._fd)
        if self._kept:
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)


def _open_alone(path: str) -> int:
    """A file of this name that nobody else writes to. One who has been cancelled may be about to close it: that is
    waited for, and then the name may mean another file, or none."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), os.stat(path)):
                return fd
        os.close(fd)


@contextlib.asynccontextmanager
async def _closing(source: AsyncIterator[bytes]) -> AsyncIterator[None]:
    """End a generator with the block, not with garbage collection: it may hold a connection."""
    try:
        yield
    finally:
        if isinstance(source, AsyncGenerator):
            with trio.CancelScope(shield=True):
                await source.aclose()


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        body = file.read(READ_BYTES_MAX + 1)
    if len(body) > READ_BYTES_MAX:
        raise PortError("read blob", f"blob is larger than {READ_BYTES_MAX} bytes", fault=Fault.INVALID)
    return body


def _mismatch(words: str) -> PortError:
    return PortError("ingest", words, fault=Fault.INVALID, retriable=True)
