"""The storage driver put together: what bootstrap makes, and its housekeeping.

Owns the order of start (abandon temporaries, repair layers) and the sweeper, a task for the root nursery.
"""

from __future__ import annotations

import logging
import secrets

import trio

from engine.aggregates.values.id_map import IdMap
from engine.drivers.linux.storage.archives import LinuxImageArchives
from engine.drivers.linux.storage.blobs import LinuxBlobStore
from engine.drivers.linux.storage.choice import OVERLAY, VFS
from engine.drivers.linux.storage.files import LinuxFiles
from engine.drivers.linux.storage.layers import LinuxLayerStore
from engine.drivers.linux.storage.places import Places
from engine.drivers.linux.storage.rootfs import LinuxRootFilesystems
from engine.drivers.linux.storage.spreading import Spreading
from engine.drivers.linux.storage.vfs import VfsRootFilesystems
from engine.drivers.linux.storage.workers import Workers
from engine.drivers.ports.storage import RootFilesystems
from engine.errors import PortError

_logger = logging.getLogger(__name__)

SWEEP_INTERVAL_S = 5.0
"""How often the trash is looked at. An empty look costs one directory read."""
SWEEP_PATIENCE_S = 60.0
"""How long sweeping waits while workers have tasks: disk and cores are theirs first (a pull behind an `rmi`)."""


class LinuxStorage:
    """One data root's stores. Attributes are the ports: blobs, layers, rootfs, files, archives. driver: choice.py's."""

    def __init__(
        self, data_root: str, *, parallel_unpacks: int = 2, id_map: IdMap | None = None, driver: str = OVERLAY
    ) -> None:
        self.places = Places(data_root, secrets.token_hex(4))
        self.workers = Workers(parallel_unpacks)
        self._spreading = Spreading(self.places.new_ground)
        limiter = trio.CapacityLimiter(8)
        self.blobs = LinuxBlobStore(self.places, limiter)
        self.layers = LinuxLayerStore(self.places, self.workers, limiter, self._spreading, whole=driver == VFS)
        self.archives = LinuxImageArchives(self.places, self.blobs, self.layers.early, self.workers, limiter)
        self.files = LinuxFiles(self.places, self.workers, id_map)
        roots = VfsRootFilesystems if driver == VFS else LinuxRootFilesystems
        self.rootfs: RootFilesystems = roots(self.places, self.layers, self.workers, limiter)

    async def sweep(self) -> None:
        """Run for ever: empty the trash and make new layers durable. First it abandons what an earlier run left
        unfinished; `repair` is the caller's, before containers."""
        self.places.abandon_temporaries()
        try:
            swept_at = trio.current_time()
            while True:
                if not self.workers.at_work or trio.current_time() - swept_at >= SWEEP_PATIENCE_S:
                    try:
                        await self.sweep_once()
                    except PortError as error:
                        # A full disk, say: nothing is lost by trying again, and the engine must not end for it.
                        _logger.warning("sweeping: %s", error.message)
                    swept_at = trio.current_time()
                await self.workers.retire()
                await trio.sleep(SWEEP_INTERVAL_S)
        finally:
            await self.workers.retire(idle_s=0)

    async def sweep_once(self) -> int:
        """One round: how many things were deleted."""
        await self.layers.settle()
        if self.places.trash_is_empty():
            return 0
        outcome = await self.workers.run("empty_trash", {"trash": self.places.trash})
        self._spreading.deleted({int(region): count for region, count in outcome["deleted"].items()})
        return int(outcome["gone"])
