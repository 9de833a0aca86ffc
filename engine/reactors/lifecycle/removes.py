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
        outcome = (*transactions.removed(state, now, self._hands.views.networks.lookup), *execs)
        try:
            # One transaction: a crash behind the container's end would leave its volumes to nobody.
            await self._hands.report(NAME, correlation, *outcome, *self._anonymous(state, now))
        except Rejected:
            await self._hands.report(NAME, correlation, *outcome)  # Somebody took a volume just now: it is theirs.

    def _anonymous(self, state: ContainerState, now: int) -> tuple[RemoveVolume, ...]:
        """The volumes that end with the container: nobody named them and nobody else uses them."""
        if not state.remove_volumes:
            return ()
        volumes = [self._hands.views.volumes.get(name) for name in transactions.volume_names(state.mounts)]
        mine = frozenset({state.container_id})
        return tuple(
            RemoveVolume(name=volume.name, at=now)
            for volume in volumes
            if volume is not None and volume.anonymous and volume.references <= mine
        )
