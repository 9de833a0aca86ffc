"""Downloads: each blob is fetched once at a time, whoever wants it.

Owns the shared downloads, their limit, their attempts and their resumption. Pulls that want the same blob watch one
download; it is cancelled when its last watcher has left (IMG-30). An interrupted stream goes on from where it broke,
by Range, also by the next pull after a failure or a crash; what came in pieces and has the wrong digest is fetched
anew, once.
Refuses to know: what a blob is for, and how progress is shown.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, cast

import trio

from engine.aggregates.values.descriptor import Descriptor
from engine.aggregates.values.ids import Digest
from engine.aggregates.values.reference import Reference
from engine.drivers.ports.registry import Credentials, Registry
from engine.drivers.ports.storage import BlobStore
from engine.errors import Fault, PortError

logger = logging.getLogger("ishmael.images")

UNLIMITED = 1 << 30


class Phase(enum.Enum):
    BEGUN = "begun"
    WAITING = "waiting"
    DOWNLOADING = "downloading"
    RETRYING = "retrying"
    VERIFYING = "verifying"
    DONE = "done"
    FAILED = "failed"


class Download:
    """One blob on its way: what watchers read. received: bytes; retry_in_s: before the next attempt."""

    def __init__(self, reference: Reference, descriptor: Descriptor, credentials: Credentials | None) -> None:
        self.reference = reference
        self.descriptor = descriptor
        self.credentials = credentials
        self.phase = Phase.BEGUN
        self.received = 0
        self.retry_in_s = 0.0
        self.error: PortError | None = None
        self.watchers = 0
        self.attempt = 1
        self.scope = trio.CancelScope()
        self._changed = trio.Event()

    @property
    def ended(self) -> bool:
        return self.phase in (Phase.DONE, Phase.FAILED)

    def enter(self, phase: Phase) -> None:
        self.phase = phase
        self._changed.set()
        self._changed = trio.Event()

    def fail(self, error: PortError) -> None:
        self.error = error
        self.enter(Phase.FAILED)

    async def left(self, phase: Phase) -> None:
        """Wait until the phase is another one."""
        while self.phase is phase:
            await self._changed.wait()

    async def finished(self) -> None:
        """Wait for the end. Raises PortError when there is no blob then."""
        while not self.ended:
            await self._changed.wait()
        if self.error is not None:
            raise self.error.again()


class Downloads:
    """Run `run` in the root nursery; use `fetching` from anywhere."""

    def __init__(
        self, registry: Registry, blobs: BlobStore, *, parallel: int = 3, attempts: int = 5, retry_step_s: float = 5.0
    ) -> None:
        """parallel: downloads at a time, 0 for no limit; retry_step_s: longer by this before each further attempt."""
        self._registry = registry
        self._blobs = blobs
        self._places = trio.CapacityLimiter(UNLIMITED)
        self.configure(parallel=parallel, attempts=attempts)
        self._retry_step_s = retry_step_s
        self._under_way: dict[Digest, Download] = {}
        self._nursery: trio.Nursery | None = None

    def configure(self, *, parallel: int, attempts: int) -> None:
        """Other limits, from now on."""
        self._places.total_tokens = parallel or UNLIMITED
        self._attempts = max(attempts, 1)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    @asynccontextmanager
    async def fetching(
        self, reference: Reference, descriptor: Descriptor, credentials: Credentials | None
    ) -> AsyncIterator[Download]:
        """Watch the download of a blob, begun if nobody has. It goes on while somebody is inside such a block."""
        download = self._under_way.get(descriptor.digest)
        if download is None:
            download = self._begin(Download(reference, descriptor, credentials))
        download.watchers += 1
        try:
            yield download
        finally:
            download.watchers -= 1
            if download.watchers == 0:
                self._forget(download)
                download.scope.cancel()

    def watchers(self, digest: str) -> int:
        """How many wait for a blob that is under way."""
        download = self._under_way.get(Digest(digest))
        return 0 if download is None else download.watchers

    def _begin(self, download: Download) -> Download:
        assert self._nursery is not None, "downloads are not running"
        self._under_way[download.descriptor.digest] = download
        self._nursery.start_soon(self._run, download, name=f"download {download.descriptor.digest}")
        return download

    def _forget(self, download: Download) -> None:
        if self._under_way.get(download.descriptor.digest) is download:
            del self._under_way[download.descriptor.digest]

    async def _run(self, download: Download) -> None:
        with download.scope:
            try:
                if self._places.available_tokens < 1:
                    download.enter(Phase.WAITING)
                async with self._places:
                    await self._fetch(download)
                download.enter(Phase.DONE)
            except PortError as error:
                download.fail(error)
            except Exception as error:
                logger.exception("a download failed unexpectedly")
                download.fail(PortError("pull", str(error) or type(error).__name__))
            finally:
                self._forget(download)

    async def _fetch(self, download: Download) -> None:
        descriptor = download.descriptor

        def progress(done: int, _total: int) -> None:
            download.received = done
            if done >= descriptor.size:
                download.enter(Phase.VERIFYING)

        anew = False
        while not await self._blobs.has(descriptor.digest):
            begun, attempt = await self._blobs.partial(descriptor.digest), download.attempt
            download.received = begun
            download.enter(Phase.DOWNLOADING)
            try:
                await self._blobs.ingest(
                    self._stream(download, begun), descriptor.digest, size=descriptor.size, progress=progress,
                    resume=True,
                )  # fmt: skip
            except PortError as error:
                if error.fault is not Fault.INVALID:
                    await self._again(download, error)
                elif anew or not (begun or download.attempt > attempt):
                    raise  # this is what the registry has
                anew = error.fault is Fault.INVALID

    async def _stream(self, download: Download, begun: int) -> AsyncIterator[bytes]:
        """The blob's bytes from `begun` on, as one stream, however often the connection breaks."""
        offset, size = begun, download.descriptor.size
        while offset < size:
            broken = PortError("pull", "unexpected EOF", retriable=True)
            try:
                source = self._registry.blob(
                    download.reference, download.descriptor.digest, download.credentials, offset
                )
                async with aclosing(cast(Any, source)) as chunks:
                    async for chunk in chunks:
                        offset += len(chunk)
                        yield chunk
            except PortError as error:
                broken = error
            if offset < size:
                await self._again(download, broken)
                download.enter(Phase.DOWNLOADING)

    async def _again(self, download: Download, error: PortError) -> None:
        """Wait before the next attempt; raise the error when it was the last one, or not worth another."""
        if not error.retriable or download.attempt >= self._attempts:
            raise error
        logger.info("download of %s failed, attempt %d: %s", download.descriptor.digest, download.attempt, error)
        download.retry_in_s = self._retry_step_s * download.attempt
        download.attempt += 1
        download.enter(Phase.RETRYING)
        await trio.sleep(download.retry_in_s)
