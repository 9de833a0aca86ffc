"""All drivers of one engine's life over one machine."""

from __future__ import annotations

from typing import Any, cast

import trio

from engine.aggregates.container.rules import RuleFacts
from engine.aggregates.values.platform import Platform
from engine.oci.spec import HostTraits
from engine.surroundings import Drivers, Surroundings
from engine.transactions import EphemeralRange
from tests.simulation.drivers.host import NoDevices, SimulatedHost, SimulatedIdentities
from tests.simulation.drivers.network import (
    SimulatedNetworkInspector,
    SimulatedNetworks,
    SimulatedResolver,
    SimulatedSandboxes,
)
from tests.simulation.drivers.runtime import SimulatedRuntime
from tests.simulation.drivers.storage import (
    NoRegistry,
    SimulatedBlobs,
    SimulatedFolders,
    SimulatedHostPaths,
    SimulatedLayers,
    SimulatedRootFilesystems,
    SimulatedVolumes,
)
from tests.simulation.faults import Faults, Gate
from tests.simulation.machine import Machine

SURROUNDINGS = Surroundings(
    traits=HostTraits(machine="x86_64", kernel=(6, 6), cgroup_v2=True, profile=None),
    rules=RuleFacts(cpus=frozenset({0, 1}), cgroup_v2=True),
    platform=Platform(os="linux", architecture="amd64"),
    ephemeral=EphemeralRange(first=40000, last=40007),
    resolv_conf="nameserver 192.0.2.53\n",
)


def simulated_drivers(machine: Machine, gate: Gate, faults: Faults) -> Drivers:
    runtime = SimulatedRuntime(machine, gate, faults)
    given = (machine, gate, faults)

    async def begin(nursery: trio.Nursery) -> None:
        await nursery.start(runtime.run)

    absent = cast(Any, None)  # what no simulated client asks for
    return Drivers(
        host=SimulatedHost(),
        runtime=runtime,
        streams=runtime,
        meter=runtime,
        identities=SimulatedIdentities(),
        devices=NoDevices(),
        blobs=cast(Any, SimulatedBlobs(*given)),
        layers=cast(Any, SimulatedLayers(*given)),
        archives=absent,
        rootfs=cast(Any, SimulatedRootFilesystems(*given)),
        files=absent,
        folders=SimulatedFolders(*given),
        volumes=SimulatedVolumes(*given),
        host_paths=SimulatedHostPaths(*given),
        networks=SimulatedNetworks(*given),
        sandboxes=SimulatedSandboxes(*given),
        resolver=SimulatedResolver(gate, faults),
        logs=absent,
        inspectors=(SimulatedNetworkInspector(*given),),
        process_table=absent,
        registry=cast(Any, NoRegistry()),
        begin=begin,
        let_go=runtime.let_go,
        configure=lambda config: None,
    )
