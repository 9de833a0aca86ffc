"""What the log and its own ports can tell without a driver's help: leases, processes, and what lies on disk.

Owns: one inspector (engine/drivers/ports/drift.py) for each. Networks and mounts have theirs beside their drivers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from engine.aggregates.network import ReleaseEndpoint
from engine.aggregates.ports import ReleasePorts
from engine.aggregates.values.drift import Deviation, Difference
from engine.aggregates.values.ids import ContainerID, NetworkID, VolumeName
from engine.drivers.ports.drift import Holder, Ledger
from engine.drivers.ports.runtime import Inventory, Runtime
from engine.drivers.ports.storage import ContainerFolders, LayerStore, RootFilesystems
from engine.drivers.ports.volume import Volumes
from engine.errors import Fault, PortError
from engine.reactors.base import Hands

NAME = "drift"
SIGKILL = 9
ADDRESS_LEASE, PORT_LEASE = "address lease", "port lease"
PROCESS, GROUP = "process", "cgroup"
LAYER, RW_LAYER, FOLDER, VOLUME = "layer", "read-write layer", "container folder", "volume"


def _lives(ledger: Ledger, container_id: str) -> bool:
    holder = ledger.containers.get(ContainerID(container_id))
    return holder is not None and holder.lives


def _stray(kind: str, subject: str, owner: str = "", words: str = "") -> Difference:
    return Difference(kind=kind, deviation=Deviation.STRAY, subject=subject, owner=owner, words=words)


def _missing(kind: str, subject: str, owner: str = "", words: str = "") -> Difference:
    return Difference(kind=kind, deviation=Deviation.MISSING, subject=subject, owner=owner, words=words)


class LeaseInspector:
    """Addresses and ports of containers that neither run nor start: an exit that a crash cut in half. The log compared
    with itself."""

    def __init__(self, hands: Hands) -> None:
        self._hands = hands

    async def look(self, ledger: Ledger) -> Sequence[Difference]:
        return [
            *(
                _stray(ADDRESS_LEASE, f"{network_id[:12]} {owner[:12]}", owner, f"on network {network_id}")
                for network_id, owner in ledger.leases
                if not _lives(ledger, owner)
            ),
            *(_stray(PORT_LEASE, owner[:12], owner) for owner in ledger.port_leases if not _lives(ledger, owner)),
        ]

    async def mend(self, difference: Difference, ledger: Ledger) -> None:
        owner = ContainerID(difference.owner)
        if difference.kind == PORT_LEASE:
            await self._hands.report(NAME, "drift:leases", ReleasePorts(container_id=owner))
            return
        network_id = NetworkID(difference.words.removeprefix("on network "))
        await self._hands.report(NAME, "drift:leases", ReleaseEndpoint(network_id=network_id, container_id=owner))


class ProcessInspector:
    """Processes of containers that by the log do not run, or run for another time, and cgroups that nobody is in."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def look(self, ledger: Ledger) -> Sequence[Difference]:
        inventory = await self._runtime.list()
        return [*self._strays(ledger, inventory), *_lost(ledger, inventory)]

    def _strays(self, ledger: Ledger, inventory: Inventory) -> list[Difference]:
        found = []
        for it in inventory.running:
            holder = ledger.containers.get(ContainerID(it.container_id))
            if holder is None or not holder.lives or (not it.exec_id and it.run != holder.run):
                found.append(_stray(PROCESS, str(it.pid), it.container_id, it.exec_id))
        for container_id in inventory.orphans:
            # At a start of the engine also one that is about to be started (again): what an earlier supervisor left in
            # its cgroup must not run beside the new process. Later a start under way has one that is its own.
            if ledger.recovering or not _lives(ledger, container_id):
                found.append(_stray(GROUP, container_id))
        return found

    async def mend(self, difference: Difference, ledger: Ledger) -> None:
        if difference.deviation is Deviation.MISSING:
            raise PortError("mend", "its end is told by the engine's recovery", fault=Fault.UNAVAILABLE)
        if difference.kind == GROUP:
            await self._runtime.forget(difference.subject, 0)
            return
        # It is killed, and forgotten when its exit comes.
        await self._runtime.signal(difference.owner, SIGKILL, exec_id=difference.words)
        paused = {str(it.pid) for it in (await self._runtime.list()).running if it.paused}
        if difference.subject in paused:
            await self._runtime.thaw(difference.owner)  # A frozen process can not die (cgroup v1).


def _lost(ledger: Ledger, inventory: Inventory) -> list[Difference]:
    known = {(it.container_id, it.run) for it in inventory.running if not it.exec_id}
    known |= {(it.container_id, it.run) for it in inventory.exits if not it.exec_id}

    def gone(holder: Holder) -> bool:
        return holder.rests and (holder.container_id, holder.run) not in known

    lost = filter(gone, ledger.containers.values())
    return [_missing(PROCESS, holder.container_id[:12], holder.container_id) for holder in lost]


class StorageInspector:
    """Directories of layers, containers and volumes. collect: discards layers that nothing uses, and their blobs."""

    def __init__(
        self,
        layers: LayerStore,
        rootfs: RootFilesystems,
        folders: ContainerFolders,
        volumes: Volumes,
        collect: Callable[[], Awaitable[int]],
    ) -> None:
        self._layers = layers
        self._rootfs = rootfs
        self._folders = folders
        self._volumes = volumes
        self._collect = collect

    async def look(self, ledger: Ledger) -> Sequence[Difference]:
        there = await self._layers.inventory()
        folders, volumes = set(await self._folders.list_folders()), set(await self._volumes.list())
        unknown, gone = sorted(volumes - ledger.volumes.keys()), sorted(ledger.volumes.keys() - volumes)
        containers = ledger.containers
        begun = [owner for owner, holder in containers.items() if holder.begun and holder.lives]
        known = ledger.layers | ledger.leased_layers
        lost = "what it had written is lost"
        return [
            *(_stray(RW_LAYER, owner) for owner in there.containers if owner not in containers),
            *(_missing(RW_LAYER, owner, owner, lost) for owner in begun if owner not in there.containers),
            *(_stray(FOLDER, owner) for owner in sorted(folders) if owner not in containers),
            *(_stray(LAYER, chain_id) for chain_id in there.layers if chain_id not in known),
            *(_missing(LAYER, chain_id) for chain_id in sorted(ledger.layers - set(there.layers))),
            *(_stray(VOLUME, name, words="it is not in the log") for name in unknown),
            *(_missing(VOLUME, name, name, "its data is lost") for name in gone),
        ]

    async def mend(self, difference: Difference, ledger: Ledger) -> None:
        match difference.kind, difference.deviation:
            case "read-write layer", Deviation.STRAY:
                await self._rootfs.discard_rootfs(ContainerID(difference.subject))
            case "container folder", Deviation.STRAY:
                await self._folders.discard(ContainerID(difference.subject))
            case "layer", Deviation.STRAY:
                await self._collect()
            case "volume", Deviation.MISSING:
                name = VolumeName(difference.subject)
                await self._volumes.create(name, ledger.volumes[name])
            case "volume", _:
                raise PortError("mend", "it may be somebody's data: remove it by hand, or create the volume again")
            case "layer", _:
                raise PortError("mend", "pull or load its image again")
            case _:
                raise PortError("mend", "nothing can bring it back")
