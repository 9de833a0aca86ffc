"""Images as the API sees them: one value with every verb, and the tasks behind it.

Owns nothing of its own: it puts pull, push, load, commit, names, removal and collection together over the same holds
and downloads.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio

from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Cause
from engine.aggregates.image import ImageState
from engine.aggregates.transfer import ReportTransferFailed
from engine.aggregates.values.commit import CommitWish
from engine.aggregates.values.ids import Digest, ImageID
from engine.aggregates.values.manifest import ImageConfig
from engine.aggregates.values.platform import Platform
from engine.aggregates.values.reference import Reference
from engine.config import DaemonConfig
from engine.drivers.ports.registry import Credentials, Registry
from engine.drivers.ports.storage import BlobStore, ImageArchives, LayerStore, RootFilesystems
from engine.imageconfigs import ImageConfigs
from engine.reactors.base import Hands
from engine.reactors.images.additions import Additions
from engine.reactors.images.arrivals import Arrivals
from engine.reactors.images.commit import Commits
from engine.reactors.images.compression import Compression
from engine.reactors.images.discards import Discards
from engine.reactors.images.downloads import UNLIMITED, Downloads
from engine.reactors.images.holds import Holds
from engine.reactors.images.layers import Emit
from engine.reactors.images.load import Loads
from engine.reactors.images.pull import Pulls, Wish
from engine.reactors.images.push import Pushes
from engine.reactors.images.push_targets import Targets
from engine.reactors.images.removal import Collector, ImageReactor
from engine.reactors.images.save import Saves
from engine.reactors.images.transfers import LEASE_KEPT_NS, NAME
from engine.reactors.images.uploads import Uploads
from engine.reactors.images.url_imports import fetched
from engine.transactions import NO_DIGEST


class Images:
    """The ImageService of engine/api/context.py. `recover` before anything else, then `run` in the root nursery."""

    def __init__(
        self,
        hands: Hands,
        registry: Registry,
        blobs: BlobStore,
        layers: LayerStore,
        archives: ImageArchives,
        rootfs: RootFilesystems,
        *,
        host_platform: Platform,
        config: DaemonConfig,
        retry_step_s: float = 5.0,
    ) -> None:
        self._hands = hands
        self._registry = registry
        self.host_platform = host_platform
        self.configs = ImageConfigs(blobs)
        self.holds = Holds()
        self.additions = Additions(hands, host_platform)
        self.downloads = Downloads(
            registry,
            blobs,
            parallel=config.max_concurrent_downloads,
            attempts=config.max_download_attempts,
            retry_step_s=retry_step_s,
        )
        self._pulls = Pulls(
            hands,
            registry,
            blobs,
            layers,
            downloads=self.downloads,
            additions=self.additions,
            holds=self.holds,
            host=host_platform,
        )
        self._uploads = Uploads(registry, blobs, views=hands.views.images, parallel=config.max_concurrent_uploads)
        discards = Discards(hands, blobs, layers)
        arrivals = Arrivals(hands, blobs, self.holds, discards)
        self._pushes = Pushes(
            hands,
            self._uploads,
            Targets(hands.views.images, blobs, self.configs, host_platform),
            Compression(hands, blobs, archives),
            arrivals,
        )
        self._loads = Loads(
            hands, archives, blobs, layers, additions=self.additions, holds=self.holds, arrivals=arrivals
        )
        self._commits = Commits(
            hands, rootfs, blobs, layers, additions=self.additions, arrivals=arrivals
        )
        self._saves = Saves(hands, archives, self.holds)
        self._reactor = ImageReactor(hands, blobs, layers, self.holds)
        self._collector = Collector(hands, layers, self.holds, discards)

    def configure(self, config: DaemonConfig) -> None:
        """Other limits: for transfers under way, too."""
        self.downloads.configure(parallel=config.max_concurrent_downloads, attempts=config.max_download_attempts)
        self._uploads.places.total_tokens = config.max_concurrent_uploads or UNLIMITED

    async def recover(self) -> int:
        """At start: transfers and commits that a crash cut off have failed, and what they left without a lease is
        discarded. How much that was. Removals that were under way are finished by `run`."""
        for transfer_id in self._hands.application.live("transfer"):
            failed = ReportTransferFailed(
                transfer_id=transfer_id,
                error="interrupted by a restart of the engine",
                kept_until=self._hands.clock.now_ns() + LEASE_KEPT_NS,
            )
            await self._hands.report(NAME, "start-up", failed)
        await self._commits.recover()
        return await self._collector.collect("a start")

    async def run(self, after: int, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve downloads and finish removals, from position `after` on, for ever."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.downloads.run)
            await nursery.start(self._reactor.run, after)
            await nursery.start(self._collector.run)
            task_status.started()

    async def collect(self) -> int:
        """Discard what nothing uses, also what waits for a failed pull to be tried again: how many blobs and layers."""
        return await self._collector.give_up()

    async def collect_unused(self) -> int:
        """Discard what nothing uses and nobody waits for: how many blobs and layers."""
        return await self._collector.collect("a repair of drift")

    async def expire(self, now_ns: int) -> None:
        """Release the leases whose time has come, and discard what only they kept."""
        await self._collector.expire(now_ns)

    async def config_of(self, image: ImageState) -> ImageConfig:
        return await self.configs.of(image)

    async def entries_of(self, index: Digest) -> Sequence[Mapping[str, Any]]:
        return await self.configs.entries(index)

    async def tag(self, image_id: ImageID, reference: Reference, cause: Cause, index: Digest = NO_DIGEST) -> None:
        await self.additions.tag(image_id, reference, cause, index)

    async def hand_over(self, image_id: ImageID, index: Digest, cause: Cause) -> None:
        await self.additions.hand_over(image_id, index, cause)

    async def pull(
        self,
        reference: Reference,
        platform: Platform | None,
        credentials: Credentials | None,
        emit: Emit,
        cause: Cause,
        *,
        all_tags: bool = False,
    ) -> ImageID:
        wish = Wish(reference=reference, platform=platform, credentials=credentials)
        async with self._cleared_after_failure():
            return await self._pulls.pull(wish, emit, cause, all_tags=all_tags)

    async def push(
        self,
        reference: Reference,
        credentials: Credentials | None,
        emit: Emit,
        cause: Cause,
        platform: Platform | None = None,
    ) -> None:
        await self._pushes.push(reference, credentials, emit, cause, platform)

    async def load(
        self,
        archive: AsyncIterator[bytes],
        emit: Emit,
        cause: Cause,
        *,
        quiet: bool = True,
        platforms: Sequence[Platform] = (),
    ) -> tuple[ImageID, ...]:
        async with self._cleared_after_failure():
            return await self._loads.load(archive, emit, cause, quiet=quiet, platforms=platforms)

    async def import_image(
        self,
        archive: AsyncIterator[bytes],
        reference: Reference | None,
        platform: Platform,
        message: str,
        changes: Sequence[str],
        cause: Cause,
    ) -> ImageID:
        async with self._cleared_after_failure():
            return await self._loads.import_image(archive, reference, platform, message, changes, cause)

    async def import_url(
        self,
        url: str,
        emit: Emit,
        reference: Reference | None,
        platform: Platform,
        message: str,
        changes: Sequence[str],
        cause: Cause,
    ) -> ImageID:
        async with fetched(self._registry, url, emit) as body:
            return await self.import_image(body, reference, platform, message, changes, cause)

    async def commit(self, state: ContainerState, wish: CommitWish, cause: Cause) -> ImageID:
        return await self._commits.commit(state, wish, cause)

    def save(
        self, names: Sequence[str], cause: Cause, platforms: Sequence[Platform] = ()
    ) -> AsyncIterator[bytes]:
        return self._saves.save(names, cause, platforms)

    @asynccontextmanager
    async def _cleared_after_failure(self) -> AsyncIterator[None]:
        """What a failure has left without a lease goes at once: the layers of half an archive, or, on a full disk,
        everything."""
        try:
            yield
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._collector.collect("the end of a failed transfer")
            raise
