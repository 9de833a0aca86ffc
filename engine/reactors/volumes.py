"""Volumes: directories follow the log. Creation is repeated at every use, so only removal needs a hand, and the end of
a use (volume_mounts.py)."""

from __future__ import annotations

from functools import partial

import trio

from engine.aggregates.container.events import ContainerExited, ContainerStartFailed
from engine.aggregates.values.ids import VolumeName
from engine.aggregates.volume import ReportVolumeRemoved, ReportVolumeRemoveFailed, VolumeState, VolumeStatus
from engine.drivers.ports.volume import Volumes
from engine.errors import PortError
from engine.reactors.base import Hands, Works, follow_states
from engine.reactors.volume_mounts import VolumeMounts

NAME = "volumes"


class VolumeReactor:
    """Run inside the root nursery, after reconciliation."""

    def __init__(self, hands: Hands, volumes: Volumes, mounts: VolumeMounts) -> None:
        self._hands = hands
        self._volumes = volumes
        self._mounts = mounts

    async def run(self, after: int, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Perform what every volume asks for now, then follow the log from `after`."""
        living = self._hands.views.volumes
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._release, after, name="volumes that nobody uses")
            await follow_states(self._hands, living, "volume", self._dispatch, after, task_status)

    async def _release(self, after: int) -> None:
        """Give back what the last engine may have left, and then after each end of a container what it used."""
        await self._mounts.release_all()
        async with trio.open_nursery() as nursery:
            works = Works(nursery)
            async for ended in self._hands.pump.subscribe(after, ContainerExited.NAME, ContainerStartFailed.NAME):
                for name in self._mounts.with_device(self._hands.container(ended.key)):
                    works.begin(("release", name, ended.position), partial(self._mounts.release, name))

    def _dispatch(self, works: Works, state: VolumeState, correlation: str) -> None:
        def wanted() -> bool:
            now: VolumeState = self._hands.application.state("volume", state.name)
            return now.status is state.status and now.created_at == state.created_at

        match state.status:
            case VolumeStatus.READY if not state.references:
                works.begin(("make", state.name, state.created_at), partial(self._make, state), wanted)
            case VolumeStatus.REMOVING:
                works.begin(("remove", state.name), partial(self._remove, works, state, correlation), wanted)

    async def _make(self, state: VolumeState) -> None:
        gone = partial(self._hands.views.volumes.is_gone, state.name)
        await self._volumes.create(state.name, state.options, unless=gone)

    async def _remove(self, works: Works, state: VolumeState, correlation: str) -> None:
        # One that is still being made would be there again behind the removal.
        await works.settled(("make", state.name, state.created_at))
        name = VolumeName(state.name)
        try:
            await self._volumes.unmount(name, state.options)
            await self._volumes.remove(name)
        except PortError as error:
            failed = ReportVolumeRemoveFailed(name=name, error=error.message)
            await self._hands.report(NAME, correlation, failed)
            return
        await self._hands.report(NAME, correlation, ReportVolumeRemoved(name=name))
