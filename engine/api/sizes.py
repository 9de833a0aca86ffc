"""What containers and volumes take on disk: measured for whoever asks, one measurement at a time (SYS-18).

Owns: that requests which come while a measurement is under way share it, as in moby, and that a container which does
not run is not measured again until something has written to it: its start, or `docker cp`. Volumes are measured
each time: the host's own programs may write to them. Layers of images are not measured at all: the log knows them.
See docs/decisions/0013-sizes-on-disk.md.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar

import trio

from engine.aggregates.container.lifecycle import Status
from engine.aggregates.container.state import ContainerState
from engine.aggregates.values.ids import ChainID, ContainerID, VolumeName
from engine.aggregates.volume import VolumeState, VolumeStatus
from engine.drivers.ports.storage import LayerStore, RootFilesystems
from engine.drivers.ports.volume import Volumes
from engine.errors import PortError
from engine.projections.views import Views

T = TypeVar("T")
AT_REST = frozenset({Status.CREATED, Status.EXITED})

Containers = Sequence[tuple[ContainerState, int]]
VolumeSizes = Sequence[tuple[VolumeState, int]]


class Sizes:
    """nursery: lasts as long as the engine; a measurement goes on when the client that began it leaves."""

    def __init__(
        self, rootfs: RootFilesystems, volumes: Volumes, layers: LayerStore, views: Views, nursery: trio.Nursery
    ) -> None:
        self._rootfs = rootfs
        self._volumes = volumes
        self._layers = layers
        self._views = views
        self._at_rest: dict[ContainerID, tuple[int, int]] = {}
        """Bytes by container, and the run behind which they were measured."""
        self._writings = 0
        self._containers_together = Together(self._measure_containers, nursery)
        self._volumes_together = Together(self._measure_volumes, nursery)

    async def containers(self) -> Containers:
        """All there are, newest first, with the bytes in their read-write layers."""
        return await self._containers_together.get()

    async def volumes(self) -> VolumeSizes:
        """All that are ready, with their bytes; -1 for one that cannot be measured."""
        return await self._volumes_together.get()

    async def written(self, state: ContainerState) -> int:
        """Bytes in one container's read-write layer; 0 for one that cannot be measured."""
        return (await self._written((state,))).get(state.container_id, 0)

    async def volume(self, name: VolumeName) -> int:
        """Bytes in one volume; 0 for one that cannot be measured."""
        return (await self._volumes.usages((name,))).get(name, 0)

    async def below(self, state: ContainerState) -> int:
        """Bytes in the layers that a container stands on, also of an image that is gone."""
        image = self._views.images.get(state.image_id)
        if image is not None and image.chain == state.layers:
            return image.size
        return sum((await self.layers(state.layers)).values())

    async def layers(self, chain: Sequence[ChainID]) -> Mapping[ChainID, int]:
        """Sizes as the store has noted them when it unpacked; layers that are not there are left out."""
        found = [await self._layers.lookup(chain_id) for chain_id in chain]
        return {layer.chain_id: layer.size for layer in found if layer is not None}

    def written_to(self, container_id: ContainerID) -> None:
        """Somebody has written to a container that does not run."""
        self._writings += 1
        self._at_rest.pop(container_id, None)

    async def _measure_containers(self) -> Containers:
        states = list(self._views.containers.newest_first())
        sizes = await self._written(states)
        for gone in self._at_rest.keys() - sizes.keys():
            del self._at_rest[gone]
        return [(state, sizes.get(state.container_id, 0)) for state in states]

    async def _measure_volumes(self) -> VolumeSizes:
        states = [state for state in self._views.volumes if state.status is VolumeStatus.READY]
        sizes = await self._volumes.usages([VolumeName(state.name) for state in states])
        return [(state, sizes.get(VolumeName(state.name), -1)) for state in states]

    async def _written(self, states: Sequence[ContainerState]) -> Mapping[ContainerID, int]:
        known: dict[ContainerID, int] = {}
        for state in states:
            measured = self._at_rest.get(state.container_id)
            if measured is not None and state.status in AT_REST and measured[1] == state.run:
                known[state.container_id] = measured[0]
        writings = self._writings
        sizes = await self._rootfs.usages([each.container_id for each in states if each.container_id not in known])
        if writings == self._writings:
            for state in states:
                if state.status in AT_REST and state.container_id in sizes:
                    self._at_rest[state.container_id] = (sizes[state.container_id], state.run)
        return {**known, **sizes}


class Together(Generic[T]):
    """Work of which there is one at a time: who asks while it is under way gets what it brings."""

    def __init__(self, work: Callable[[], Awaitable[T]], nursery: trio.Nursery) -> None:
        self._work = work
        self._nursery = nursery
        self._under_way: _Outcome[T] | None = None

    async def get(self) -> T:
        """Raises the PortError that the work ended with."""
        if self._under_way is None:
            self._under_way = _Outcome()
            self._nursery.start_soon(self._run, self._under_way, name="measuring")
        outcome = self._under_way
        await outcome.ended.wait()  # no deadline: a walk takes as long as the disk, and the client may leave.
        if outcome.error is not None:
            raise outcome.error.again()
        return outcome.values[0]

    async def _run(self, outcome: _Outcome[T]) -> None:
        try:
            outcome.values.append(await self._work())
        except PortError as error:
            outcome.error = error
        finally:
            self._under_way = None
            outcome.ended.set()


class _Outcome(Generic[T]):
    """values: one, when the work went well."""

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.values: list[T] = []
        self.error: PortError | None = None
