"""Volumes with a device are mounted while somebody uses them: from the first start to the last end (VOL-07).

Owns: who is a user, and giving a mount back that has none. Users are containers that start or live by the log, and
whoever looks into one that does not (`docker cp`). Source: moby daemon/volume/local/local.go (Mount, Unmount).
Refuses to know: what is mounted; an unmount that nothing needs is none.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial

import trio

from engine import transactions
from engine.aggregates.container.state import ContainerState
from engine.aggregates.values.ids import VolumeName
from engine.aggregates.volume import VolumeState, VolumeStatus
from engine.drivers.ports.volume import Volumes
from engine.errors import PortError
from engine.reactors.base import Hands

logger = logging.getLogger("ishmael.volumes")
RELEASE_S = 10.0
"""An unmount that takes longer (a file server that is gone) goes on without its caller."""


class VolumeMounts:
    """See the module."""

    def __init__(self, hands: Hands, volumes: Volumes) -> None:
        self._hands = hands
        self._volumes = volumes
        self._lookers: Counter[VolumeName] = Counter()

    def with_device(self, state: ContainerState) -> tuple[VolumeName, ...]:
        """A container's volumes that are mounted at their first use."""
        found = (self._hands.views.volumes.get(name) for name in transactions.volume_names(state.mounts))
        return tuple(volume.name for volume in found if volume is not None and volume.options)

    def in_use(self) -> frozenset[VolumeName]:
        return frozenset(state.name for state in self._hands.views.volumes if self._is_used(state.name))

    def _is_used(self, name: VolumeName) -> bool:
        volume = self._hands.views.volumes.get(name)
        if volume is None or self._lookers[name]:
            return volume is not None
        users = (self._hands.views.containers.get(owner) for owner in volume.references)
        return any(user is not None and (user.alive or user.starting) for user in users)

    async def release(self, name: VolumeName) -> None:
        """Unmount a volume that nobody uses any more. Idempotent; raises PortError."""
        volume = self._hands.views.volumes.get(name)
        if volume is not None and volume.status is VolumeStatus.READY:
            await self._volumes.unmount(name, volume.options, unless=partial(self._is_used, name))

    async def release_all(self) -> None:
        """Whatever nobody uses. What can not be unmounted, or not soon, stays and is logged."""
        async with trio.open_nursery() as nursery:
            for volume in self._hands.views.volumes:
                if volume.options:
                    nursery.start_soon(self._release_soon, volume, name=f"unmount {volume.name}")

    async def _release_soon(self, volume: VolumeState) -> None:
        with trio.move_on_after(RELEASE_S, shield=True) as soon:
            try:
                await self.release(volume.name)
            except PortError as error:
                logger.warning("volume %s stays mounted: %s", volume.name, error.message)
        if soon.cancelled_caught:
            logger.warning("volume %s stays mounted: its unmounting takes too long", volume.name)

    @asynccontextmanager
    async def looking(self, state: ContainerState) -> AsyncIterator[None]:
        """The volumes of a container that does not run are there for as long as the block lasts. Raises PortError."""
        names = self.with_device(state)
        self._lookers.update(names)
        try:
            for name in names:
                volume = self._hands.views.volumes.get(name)
                if volume is not None:
                    await self._volumes.mount(name, volume.options)
            yield
        finally:
            self._lookers -= Counter(names)
            await self._release_after(names)

    async def _release_after(self, names: Iterable[VolumeName]) -> None:
        for name in names:
            volume = self._hands.views.volumes.get(name)
            if volume is not None:
                await self._release_soon(volume)
