"""Networks, Sandboxes and Resolver over the simulated machine. What survives an engine in the kernel survives here:
bridges, published ports, interfaces in living namespaces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import trio

from engine.aggregates.values.drift import Deviation, Difference
from engine.aggregates.values.ids import ContainerID, NetworkID
from engine.drivers.ports.drift import Ledger
from engine.drivers.ports.network import NO_NAMES, Join, NameRecord, NetworkInventory, NetworkSpec, OwnNames
from engine.errors import Fault, PortError
from tests.simulation.drivers.runtime import namespace_of
from tests.simulation.faults import Faults, Gate
from tests.simulation.machine import Machine


class SimulatedNetworks:
    def __init__(self, machine: Machine, gate: Gate, faults: Faults) -> None:
        self._machine = machine
        self._gate = gate
        self._faults = faults

    async def prepare(self) -> None:
        await self._faults.perform(self._gate, "prepare networks", lambda: None, may_fail=False)

    async def create(self, spec: NetworkSpec) -> None:
        def make() -> None:
            if spec.driver == "bridge":
                self._machine.bridges[spec.network_id[:12]] = spec

        # A failed create may have left the bridge: it is found as an orphan, or used by the next try.
        await self._faults.perform(self._gate, "create network", make, may_lie=False)

    async def remove(self, spec: NetworkSpec) -> None:
        def drop() -> None:
            self._machine.bridges.pop(spec.network_id[:12], None)

        await self._faults.perform(self._gate, "remove network", drop)

    async def inventory(self) -> NetworkInventory:
        def look() -> NetworkInventory:
            machine = self._machine
            return NetworkInventory(
                bridges=tuple(machine.bridges),
                veths=tuple(endpoint[:7] for endpoint in machine.veths()),
                ports=tuple(machine.published),
            )

        return await self._faults.perform(self._gate, "network inventory", look)

    async def addresses_of(self, bridge: str) -> tuple[str, ...] | None:
        await trio.lowlevel.checkpoint()
        return None

    async def host_subnets(self) -> tuple[str, ...]:
        await trio.lowlevel.checkpoint()
        return ("10.0.2.0/24",)


class SimulatedNetworkInspector:
    """Bridges, interfaces and published ports that are nobody's, or not there."""

    def __init__(self, machine: Machine, gate: Gate, faults: Faults) -> None:
        self._machine = machine
        self._gate = gate
        self._faults = faults

    async def look(self, ledger: Ledger) -> Sequence[Difference]:
        return await self._faults.perform(self._gate, "look at networks", lambda: self._look(ledger))

    def _look(self, ledger: Ledger) -> list[Difference]:
        machine = self._machine
        known = {spec.network_id[:12] for spec in (*ledger.networks, *ledger.changing)}
        wanted = {spec.network_id[:12]: spec for spec in ledger.networks if spec.driver == "bridge"}
        absent = [spec for name, spec in wanted.items() if name not in machine.bridges]
        ports = {str(port) for port in ledger.ports}
        return [
            *(_missing("bridge", spec.network_id[:12], spec.network_id) for spec in absent),
            *(_stray("bridge", name) for name in machine.bridges if name not in known),
            *(_stray("veth", endpoint) for endpoint in machine.veths() if endpoint not in ledger.leased),
            *(_stray("published port", str(port)) for port in machine.published if str(port) not in ports),
        ]

    async def mend(self, difference: Difference, ledger: Ledger) -> None:
        await self._faults.perform(self._gate, "mend networks", lambda: self._mend(difference, ledger))

    def _mend(self, difference: Difference, ledger: Ledger) -> None:
        machine, subject = self._machine, difference.subject
        if difference.deviation is Deviation.MISSING:
            machine.bridges[subject] = next(spec for spec in ledger.networks if spec.network_id == difference.owner)
        elif difference.kind == "bridge":
            machine.bridges.pop(subject, None)
        elif difference.kind == "veth":
            machine.disconnect(subject)
        else:
            for port in [port for port in machine.published if str(port) == subject]:
                del machine.published[port]


def _missing(kind: str, subject: str, owner: str) -> Difference:
    return Difference(kind=kind, deviation=Deviation.MISSING, subject=subject, owner=owner)


def _stray(kind: str, subject: str) -> Difference:
    return Difference(kind=kind, deviation=Deviation.STRAY, subject=subject)


class SimulatedSandboxes:
    def __init__(self, machine: Machine, gate: Gate, faults: Faults) -> None:
        self._machine = machine
        self._gate = gate
        self._faults = faults

    async def open(
        self,
        container_id: ContainerID,
        sysctls: Mapping[str, str],
        *,
        joined: bool = True,
        remapped: bool = False,
        beside: int = 0,
    ) -> int:
        def make() -> int:
            namespace = self._machine.unshare()
            given = namespace.descriptor()
            namespace.opened()
            return given

        return await self._faults.perform(self._gate, "open sandbox", make, prompt=True)

    async def enter(self, container_id: ContainerID, pid: int) -> int:
        def find() -> int:
            process = self._machine.processes.get(pid)
            if process is None or process.namespace is None:
                raise PortError("network", "the container is not running", errno=3)
            return process.namespace.enter()

        return await self._faults.perform(self._gate, "enter sandbox", find, prompt=True)

    async def free_interface(self, container_id: ContainerID, pid: int, prefix: str = "eth") -> str:
        def find() -> str:
            process = self._machine.processes.get(pid)
            if process is None or process.namespace is None:
                raise PortError("network", "the container is not running", errno=3)
            taken = process.namespace.interfaces
            return next(name for number in range(len(taken) + 1) if (name := f"{prefix}{number}") not in taken)

        return await self._faults.perform(self._gate, "free interface", find)

    async def join(self, container_id: ContainerID, netns_fd: int, joins: Sequence[Join]) -> None:
        def connect() -> None:
            machine = self._machine
            namespace = namespace_of(machine, netns_fd)
            for join in joins:
                if join.network.network_id[:12] not in machine.bridges:
                    words = f"network {join.network.network_id} has no bridge"
                    raise PortError("join", words, fault=Fault.NOT_FOUND)
                if join.interface in namespace.interfaces:
                    raise PortError("join", "failed to set up container networking: file exists", errno=17)
            for join in joins:
                endpoint = join.endpoint
                bridge = join.network.network_id[:12]
                machine.connect(namespace, join.interface, endpoint.endpoint_id, bridge, endpoint.ipv4_address)
                for port in () if join.network.internal else join.ports:
                    machine.publish(port, endpoint.endpoint_id)

        await self._faults.perform(self._gate, "join", connect, may_lie=False)

    async def leave(self, container_id: ContainerID, joins: Sequence[Join], *, sandbox_gone: bool) -> None:
        def disconnect() -> None:
            for join in joins:
                for port in join.ports:
                    self._machine.published.pop(port, None)
                if not sandbox_gone:
                    self._machine.disconnect(join.endpoint.endpoint_id)

        await self._faults.perform(self._gate, "leave", disconnect)

    async def route(self, container_id: ContainerID, netns_fd: int, join: Join) -> None:
        await self._faults.perform(self._gate, "route", lambda: None)

    async def open_between(self, join: Join) -> None:
        await self._faults.perform(self._gate, "open between", lambda: None)

    async def adopt(self, container_id: ContainerID, pid: int, joins: Sequence[Join]) -> None:
        def publish() -> None:
            for join in joins:
                for port in () if join.network.internal else join.ports:
                    self._machine.publish(port, join.endpoint.endpoint_id)

        await self._faults.perform(self._gate, "adopt", publish)


class SimulatedResolver:
    """What is served to whom is the engine's own and goes with it."""

    def __init__(self, gate: Gate, faults: Faults) -> None:
        self._gate = gate
        self._faults = faults
        self.zones: dict[str, tuple[NameRecord, ...]] = {}
        self.served: dict[str, tuple[str, ...]] = {}

    async def serve(
        self,
        container_id: ContainerID,
        netns_fd: int,
        networks: Sequence[NetworkID],
        upstreams: Sequence[str],
        links: OwnNames = NO_NAMES,
    ) -> None:
        def begin() -> None:
            self.served[container_id] = tuple(networks)

        await self._faults.perform(self._gate, "serve names", begin)

    async def stop_serving(self, container_id: ContainerID) -> None:
        await self._faults.perform(
            self._gate, "stop serving names", lambda: self.served.pop(container_id, None), may_fail=False
        )

    def publish(self, network_id: NetworkID, records: Sequence[NameRecord]) -> None:
        self.zones[network_id] = tuple(records)

    def records(self, container_id: ContainerID, name: str) -> tuple[NameRecord, ...]:
        """What the container would be answered."""
        zones = (self.zones.get(network_id, ()) for network_id in self.served.get(container_id, ()))
        return tuple(record for zone in zones for record in zone if record.name == name)
