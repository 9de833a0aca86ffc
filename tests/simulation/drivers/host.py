"""Look-ups over a simulated machine: the host's facts, users, devices."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from engine.drivers.ports.host import HostFacts
from engine.drivers.ports.runtime import RootFilesystem
from engine.oci.resources import DeviceNode
from engine.oci.spec import Identity


class SimulatedHost:
    @property
    def security(self) -> frozenset[str]:
        return self.facts().security

    def facts(self) -> HostFacts:
        return HostFacts(
            name="simulated",
            kernel_version="6.6.0",
            operating_system="Simulated",
            os_version="1",
            architecture="amd64",
            machine="x86_64",
            cpus=2,
            memory_bytes=8 << 30,
            cgroup_version="2",
            controllers=frozenset({"cpu", "memory", "pids"}),
            limits=frozenset(),
            security=frozenset({"seccomp"}),
            ip_forwarding=True,
            open_files=10,
        )

    def file_system(self, path: str) -> str:
        return "extfs"

    def cpu_usage(self) -> tuple[int, int]:
        return 0, 2


class SimulatedIdentities:
    async def resolve(self, user: str, groups: Sequence[str], rootfs: RootFilesystem, *, pid: int = 0) -> Identity:
        await trio.lowlevel.checkpoint()
        return Identity()


class NoDevices:
    async def find(self, path_on_host: str, path_in_container: str, access: str) -> tuple[DeviceNode, ...]:
        await trio.lowlevel.checkpoint()
        return ()

    async def numbers(self, path: str) -> tuple[int, int]:
        await trio.lowlevel.checkpoint()
        return 8, 0

    async def all(self) -> tuple[DeviceNode, ...]:
        await trio.lowlevel.checkpoint()
        return ()
