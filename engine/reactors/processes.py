"""From a container's state to what is executed: the OCI spec of its first process, and the process of an exec.

Owns looking up what a spec needs of the world (user, devices, namespaces of others) and opening the sealed
environment. The spec itself is built by pure functions (engine/oci).
"""

from __future__ import annotations

from typing import Any

import msgspec

from engine.aggregates.container.donors import Kind, check_donor, donors
from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.exec import ExecSpec
from engine.aggregates.values.config import Resources
from engine.aggregates.values.mounts import MountPoint
from engine.aggregates.values.security import apparmor_profile
from engine.drivers.ports.identities import HostDevices, Identities
from engine.drivers.ports.runtime import RootFilesystem
from engine.oci import spec as oci
from engine.oci.resources import DeviceNode, limited_devices
from engine.reactors.base import Hands
from engine.reactors.lifecycle.etc import EtcPaths
from engine.reactors.lifecycle.linked import Linked


class Sandboxing(msgspec.Struct, frozen=True, kw_only=True):
    """Which network namespace: an fd, a path to join, or the host's."""

    netns_fd: int
    path: str = ""
    host: bool = False


class Processes:
    def __init__(
        self, hands: Hands, linked: Linked, identities: Identities, devices: HostDevices, traits: oci.HostTraits
    ) -> None:
        self._hands = hands
        self._linked = linked
        self._identities = identities
        self._devices = devices
        self._traits = traits

    async def of_container(
        self,
        state: ContainerState,
        rootfs: RootFilesystem,
        mounts: tuple[MountPoint, ...],
        files: EtcPaths,
        sandboxing: Sandboxing,
    ) -> dict[str, Any]:
        """The spec of a start. Raises Rejected or PortError."""
        identity = await self._identities.resolve(
            state.config.user, tuple(state.host.group_add or ()), rootfs
        )
        given = oci.SpecInput(
            container_id=state.container_id,
            config=state.config,
            env=(*self._linked.variables(state), *self.env(state)),
            host=state.host,
            identity=identity,
            mounts=mounts,
            files={
                "/etc/resolv.conf": files.resolv_conf,
                "/etc/hostname": files.hostname,
                "/etc/hosts": files.hosts,
            },
            shared=self._shared(state, sandboxing),
            devices=await self._nodes(state),
            traits=self._traits,
            device_numbers=await self.device_numbers(state.host),
        )
        if oci.uses_init(given) and not self._traits.init_path:
            raise Rejected(Reason.SYSTEM, 'exec: "docker-init": executable file not found in $PATH')
        return oci.build_spec(given)

    def is_remapped(self, state: ContainerState) -> bool:
        """Whether its namespaces belong to a user namespace of its own."""
        return oci.is_remapped(state.host, self._traits)

    def env(self, state: ContainerState) -> tuple[str, ...]:
        """The environment in the clear, as the container was made with it."""
        return self._hands.env(state)

    def donor(self, state: ContainerState, kind: Kind) -> ContainerState | None:
        """The container whose namespace is shared, if one is. Raises Rejected when it can not be."""
        reference = donors(state.host).get(kind)
        if reference is None:
            return None
        donor = self._hands.views.containers.find(reference)
        check_donor(state, donor, kind)
        return donor

    def _shared(self, state: ContainerState, sandboxing: Sandboxing) -> oci.Shared:
        pids, ipc = self.donor(state, Kind.PID), self.donor(state, Kind.IPC)
        # To share one of these namespaces, the containers must also share the user namespace that it belongs to.
        owner = self.donor(state, Kind.NETWORK) or ipc or pids
        return oci.Shared(
            user=f"/proc/{owner.pid}/ns/user" if owner else "",
            pid=f"/proc/{pids.pid}/ns/pid" if pids else "",
            ipc=f"/proc/{ipc.pid}/ns/ipc" if ipc else "",
            shm=f"/proc/{ipc.pid}/root/dev/shm" if ipc else "",
            network=sandboxing.path,
            host_network=sandboxing.host,
        )

    async def _nodes(self, state: ContainerState) -> tuple[DeviceNode, ...]:
        """What was asked for; the privileged have all that the host has besides."""
        found: list[DeviceNode] = list(await self._devices.all()) if state.host.privileged else []
        there = {node.path for node in found}
        for device in state.host.devices or ():
            access = "rwm" if state.host.privileged else device.cgroup_permissions
            nodes = await self._devices.find(device.path_on_host, device.path_in_container, access)
            found += [node for node in nodes if node.path not in there]
        return tuple(found)

    async def device_numbers(self, host: Resources) -> dict[str, tuple[int, int]]:
        """Of the devices that limits name. Raises PortError for one that is not there."""
        return {path: await self._devices.numbers(path) for path in limited_devices(host)}

    async def of_exec(
        self, state: ContainerState, spec: ExecSpec, cmd: tuple[str, ...], env: tuple[str, ...]
    ) -> dict[str, Any]:
        """The `process` object of an exec: the container's own settings, with what the exec asks for over them."""
        rootfs = RootFilesystem(lowers=(), upper="", work="")
        identity = await self._identities.resolve(
            spec.user or state.config.user, tuple(state.host.group_add or ()), rootfs, pid=state.pid
        )
        names = oci.capability_set(state.host, privileged=True if spec.privileged else None)
        process: dict[str, Any] = {
            "args": list(cmd),
            "cwd": spec.working_dir or state.config.working_dir or "/",
            "env": oci.environment(
                (*self._linked.variables(state), *self.env(state), *env),
                state.config.hostname,
                identity.home,
                tty=spec.tty,
            ),
            "user": oci.user(identity),
            "terminal": spec.tty,
            "noNewPrivileges": oci.no_new_privileges(state.host, self._traits),
            "capabilities": oci.capability_sets(names),
            "rlimits": oci.rlimits(state.host.ulimits or (), self._traits.ulimits),
        }
        if state.host.oom_score_adj:
            process["oomScoreAdj"] = state.host.oom_score_adj
        if self._traits.apparmor:
            process["apparmorProfile"] = apparmor_profile(state.host)
        return process
