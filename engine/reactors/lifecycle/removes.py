"""The end of a container: its read-write layer, its files, its anonymous volumes, its name."""

from __future__ import annotations

from engine import transactions
from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Rejected
from engine.aggregates.exec import RemoveExec
from engine.aggregates.volume import RemoveVolume
from engine.drivers.ports.storage import ContainerFolders, RootFilesystems
from engine.reactors.base import Hands
from engine.reactors.lifecycle import plan as effects

NAME = "lifecycle"


class Removes:
    def __init__(self, hands: Hands, rootfs: RootFilesystems, folders: ContainerFolders) -> None:
        self._hands = hands
        self._rootfs = rootfs
        self._folders = folders

    async def remove(self, effect: effects.Remove, correlation: str) -> None:
        """Effects first (each idempotent, each a rename), then the outcome with everything it sets free."""
        state = self._hands.container(effect.container_id)
        await self._rootfs.discard_rootfs(effect.container_id)
        await self._folders.discard(effect.container_id)
        now = self._hands.clock.now_ns()
        execs = [RemoveExec(exec_id=exec_.exec_id) for exec_ in self._hands.views.execs.of(effect.container_id)]
        await self._hands.report(NAME, correlation, *transactions.removed(state, now), *execs)
        if state.remove_volumes:
            await self._remove_anonymous(state, correlation)

    async def _remove_anonymous(self, state: ContainerState, correlation: str) -> None:
        for name in transactions.volume_names(state.mounts):
            volume = self._hands.views.volumes.get(name)
            if volume is None or not volume.anonymous or volume.references:
                continue
            try:
                await self._hands.report(NAME, correlation, RemoveVolume(name=name, at=self._hands.clock.now_ns()))
            except Rejected:
                continue  # Somebody took it between the look and the append: it is theirs now.
