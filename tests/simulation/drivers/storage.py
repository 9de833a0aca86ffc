"""Storage and volumes over the simulated machine's disk: which read-write layers, folders, blobs and volumes are there.

Images have no layers here: one configuration blob is all that containers need of them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import trio

from engine.aggregates.values.ids import ChainID, ContainerID, Digest, VolumeName
from engine.drivers.ports.runtime import RootFilesystem
from engine.drivers.ports.storage import Change, Layer, StorageInventory
from engine.errors import Fault, PortError
from tests.simulation.faults import Faults, Gate
from tests.simulation.machine import Machine


class Part:
    def __init__(self, machine: Machine, gate: Gate, faults: Faults) -> None:
        self.machine = machine
        self.gate = gate
        self.faults = faults

    async def perform(self, verb: str, effect: Callable[[], Any], **options: bool) -> Any:
        return await self.faults.perform(self.gate, verb, effect, **options)


class SimulatedBlobs(Part):
    async def has(self, digest: Digest) -> bool:
        return digest in self.machine.blobs

    async def read(self, digest: Digest) -> bytes:
        def look() -> bytes:
            if digest not in self.machine.blobs:
                raise PortError("read blob", f"no blob {digest}", fault=Fault.NOT_FOUND)
            return self.machine.blobs[digest]

        return bytes(await self.perform("read blob", look))

    async def discard(self, digest: Digest) -> None:
        await self.perform("discard blob", lambda: self.machine.blobs.pop(digest, None))

    def path(self, digest: Digest) -> str:
        return f"/blobs/{digest}"


class SimulatedLayers(Part):
    async def lookup(self, chain_id: ChainID) -> Layer | None:
        return None

    async def discard_layer(self, chain_id: ChainID) -> None:
        await trio.lowlevel.checkpoint()

    async def inventory(self) -> StorageInventory:
        def look() -> StorageInventory:
            containers = tuple(ContainerID(each) for each in sorted(self.machine.rootfs))
            return StorageInventory(blobs=tuple(Digest(d) for d in self.machine.blobs), containers=containers)

        return await self.perform("storage inventory", look)  # type: ignore[no-any-return]


class SimulatedRootFilesystems(Part):
    async def prepare(
        self, container_id: ContainerID, chain: Sequence[ChainID], *, volatile: bool, limit_bytes: int = 0
    ) -> RootFilesystem:
        await self.perform("prepare rootfs", lambda: self.machine.rootfs.add(container_id), writes=True)
        return RootFilesystem(lowers=(), upper=f"/rootfs/{container_id}/upper", work=f"/rootfs/{container_id}/work")

    async def discard_rootfs(self, container_id: ContainerID) -> None:
        def drop() -> None:
            if self.machine.find(container_id) is not None:
                self.machine.violations.append(f"the read-write layer of {container_id[:12]} goes while it runs")
            self.machine.rootfs.discard(container_id)

        await self.perform("discard rootfs", drop)

    def lowers(self, chain: Sequence[ChainID]) -> tuple[str, ...]:
        return ()

    def describe(self, container_id: ContainerID, chain: Sequence[ChainID]) -> Mapping[str, str]:
        return {}

    async def usages(self, container_ids: Sequence[ContainerID]) -> Mapping[ContainerID, int]:
        await trio.lowlevel.checkpoint()
        return dict.fromkeys(container_ids, 0)

    async def changes(self, container_id: ContainerID) -> tuple[Change, ...]:
        return ()


class SimulatedFolders(Part):
    async def write(self, container_id: ContainerID, files: Mapping[str, str]) -> str:
        await self.perform(
            "write folder", lambda: self.machine.folders.setdefault(container_id, {}).update(files), writes=True
        )
        return self.path(container_id)

    async def edit(self, container_id: ContainerID, name: str, change: Callable[[str], str]) -> None:
        def rewrite() -> None:
            files = self.machine.folders.get(container_id, {})
            if name in files:
                files[name] = change(files[name])

        await self.perform("edit file", rewrite, writes=True)

    def path(self, container_id: ContainerID) -> str:
        return f"/containers/{container_id}"

    async def discard(self, container_id: ContainerID) -> None:
        await self.perform("discard folder", lambda: self.machine.folders.pop(container_id, None))

    async def list_folders(self) -> tuple[ContainerID, ...]:
        found = await self.perform("list folders", lambda: tuple(sorted(self.machine.folders)))
        return tuple(ContainerID(each) for each in found)


class SimulatedVolumes(Part):
    async def create(
        self, name: VolumeName, options: Mapping[str, str], *, unless: Callable[[], bool] = lambda: False
    ) -> str:
        def make() -> None:
            if not unless():
                self.machine.volumes.setdefault(name, False)

        await self.perform("create volume", make, writes=True)
        return f"/volumes/{name}/_data"

    async def remove(self, name: VolumeName) -> None:
        await self.perform("remove volume", lambda: self.machine.volumes.pop(name, None))

    async def mount(self, name: VolumeName, options: Mapping[str, str]) -> str:
        await self.perform("mount volume", lambda: self.machine.volumes.setdefault(name, False))
        return f"/volumes/{name}/_data"

    async def unmount(
        self, name: VolumeName, options: Mapping[str, str], *, unless: Callable[[], bool] = lambda: False
    ) -> None:
        if not unless():
            await self.perform("unmount volume", lambda: None)

    async def usages(self, names: Sequence[VolumeName]) -> Mapping[VolumeName, int]:
        await trio.lowlevel.checkpoint()
        return dict.fromkeys(names, 0)

    async def list(self) -> tuple[VolumeName, ...]:
        found = await self.perform("list volumes", lambda: tuple(sorted(self.machine.volumes)))
        return tuple(VolumeName(each) for each in found)

    async def fill(self, name: VolumeName, lowers: tuple[str, ...], path: str) -> None:
        await self.perform("fill volume", lambda: None, writes=True)


class SimulatedHostPaths(Part):
    async def ensure(self, path: str, *, create: bool) -> None:
        await self.perform("ensure path", lambda: None)


class NoRegistry:
    """A registry that nobody reaches."""

    async def manifest(self, reference: Any, credentials: Any) -> Any:
        await trio.sleep(0.2)
        raise PortError("pull manifest", "dial tcp: no route to host", fault=Fault.UNAVAILABLE)

    async def blob(self, *arguments: Any) -> AsyncIterator[bytes]:
        raise PortError("pull blob", "dial tcp: no route to host", fault=Fault.UNAVAILABLE)
        yield b""  # an asynchronous generator, as the port's
