"""What a request for a container comes to: configuration, networks, mounts and links, decided over views. Pure.

Owns the defaults of the daemon and the order of checks (CTR-01..07); the rules themselves live beside the container
aggregate. Refuses to know: HTTP, the kernel, keys and the log. Names and ids come in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec
from msgspec.structs import replace

from engine.aggregates.container.commands import CreateContainer
from engine.aggregates.container.log_options import check_log_options, with_daemon_defaults
from engine.aggregates.container.mount_rules import mount_points
from engine.aggregates.container.rules import HOST_NETWORK_AND_LINKS, RuleFacts, check, check_namespaces
from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.image import ImageState
from engine.aggregates.values import endpoint_options
from engine.aggregates.values.config import (
    ContainerConfig,
    EndpointConfig,
    HostConfig,
    LogConfig,
    NetworkingConfig,
    RestartPolicy,
)
from engine.aggregates.values.endpoints import NetworkAttachment
from engine.aggregates.values.ids import RESTRICTED_NAME, ContainerID, VolumeName, short
from engine.aggregates.values.links import Link, parse_link
from engine.aggregates.values.mounts import MountPoint
from engine.aggregates.values.ports import port_wishes
from engine.aggregates.volume import CreateVolume
from engine.api.volume_rules import check_driver
from engine.config import DaemonConfig
from engine.projections.containers import Containers
from engine.projections.images import Images
from engine.projections.networks import Networks
from engine.projections.volumes import Volumes

ANONYMOUS_LABEL = "com.docker.volume.anonymous"


class Living(Protocol):
    """All that there is, as it is read."""

    @property
    def containers(self) -> Containers: ...

    @property
    def images(self) -> Images: ...

    @property
    def networks(self) -> Networks: ...

    @property
    def volumes(self) -> Volumes: ...


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """As a client sent it. networking: the networks asked for beside the network mode's."""

    config: ContainerConfig
    host: HostConfig
    networking: NetworkingConfig = NetworkingConfig()


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """command: without a name while nobody gave one, and without env, which is to be sealed."""

    command: CreateContainer
    env: tuple[str, ...]
    warnings: tuple[str, ...]


class NewContainers:
    """hostname: the host's own. new_name: of an anonymous volume, another one with each call."""

    def __init__(
        self, views: Living, daemon: DaemonConfig, facts: RuleFacts, *, hostname: str, new_name: Callable[[], str]
    ) -> None:
        self._views = views
        self._daemon = daemon
        self._facts = facts
        self._hostname = hostname
        self._new_name = new_name

    def plan(
        self,
        request: Request,
        image: ImageState,
        config: ContainerConfig,
        container_id: ContainerID,
        *,
        name: str,
        at: int,
    ) -> Plan:
        """config: the request's over the image's (merge.py). Raises Rejected for the first rule that is broken."""
        host, warnings = self.checked(request, config)
        check_log_options(host.log_config)
        port_wishes(config.exposed_ports or {}, host.port_bindings or {}, host.publish_all_ports)
        config = self._with_hostname(config, host, container_id)
        mounts = self._mounts(config, host)
        runtime = host.runtime or self._daemon.default_runtime
        if runtime in self._daemon.runtimes and any(point.subpath or point.type == "image" for point in mounts):
            raise Rejected(Reason.NOT_IMPLEMENTED, f"runtime {runtime}: no mounts of images and of subpaths")
        command = CreateContainer(
            container_id=container_id,
            at=at,
            name=name,
            image_id=image.image_id,
            layers=image.chain,
            config=replace(config, env=None),
            env=None,
            host=host,
            networks=self._attachments(host, request.networking),
            mounts=mounts,
            links=self._links(host),
            platform=image.platform.os if image.platform is not None else "linux",
            runtime=runtime,
        )
        return Plan(command=command, env=config.env or (), warnings=warnings)

    def checked(self, request: Request, config: ContainerConfig) -> tuple[HostConfig, tuple[str, ...]]:
        """The host's part with its defaults, and warnings; what can be said without an image. Raises Rejected."""
        check_namespaces(request.config, request.host)
        return check(config, self._with_defaults(request.host), self._facts)

    def _with_defaults(self, host: HostConfig) -> HostConfig:
        daemon = self._daemon
        mode = host.network_mode if host.network_mode not in ("", "default") else "bridge"
        log = with_daemon_defaults(host.log_config, LogConfig(type=daemon.log_driver, config=daemon.log_opts))
        return replace(
            host,
            network_mode=self._resolved(mode),
            pid_mode=self._resolved(host.pid_mode),
            ipc_mode=self._resolved(host.ipc_mode) or "private",
            cgroupns_mode=host.cgroupns_mode or ("private" if self._facts.cgroup_v2 else "host"),
            shm_size=host.shm_size or daemon.default_shm_size_bytes,
            memory_swap=host.memory_swap or (2 * host.memory if host.memory > 0 else 0),
            oom_kill_disable=bool(host.oom_kill_disable),
            pids_limit=host.pids_limit if host.pids_limit is not None and host.pids_limit > 0 else None,
            log_config=log,
            restart_policy=replace(host.restart_policy, name=host.restart_policy.name or "no")
            if host.restart_policy != RestartPolicy()
            else RestartPolicy(name="no"),
        )

    def _resolved(self, mode: str) -> str:
        """`container:web` with the id for the name: the mode must survive a rename."""
        kind, _, reference = mode.partition(":")
        if kind != "container" or not reference:
            return mode
        return f"container:{self._named(reference).container_id}"

    def _named(self, reference: str) -> ContainerState:
        """Another container that the request names. Not 404 when it is not there: clients would take that for the image
        and pull it."""
        try:
            return self._views.containers.find(reference)
        except Rejected as error:
            raise Rejected(Reason.INVALID, error.message) from error

    def _with_hostname(self, config: ContainerConfig, host: HostConfig, container_id: ContainerID) -> ContainerConfig:
        if config.hostname:
            return config
        if host.network_mode.startswith("container:"):
            donor: ContainerState = self._views.containers.find(host.network_mode.partition(":")[2])
            return replace(config, hostname=donor.config.hostname)
        own = self._hostname if host.network_mode == "host" or host.uts_mode == "host" else short(container_id)
        return replace(config, hostname=own)

    def _mounts(self, config: ContainerConfig, host: HostConfig) -> tuple[MountPoint, ...]:
        def mounts_of(reference: str) -> tuple[MountPoint, ...]:
            return self._named(reference).mounts

        points = mount_points(config, host, new_name=self._new_name, mounts_of=mounts_of)
        return tuple(self._with_source(point) for point in points)

    def _with_source(self, point: MountPoint) -> MountPoint:
        if point.type == "image":
            image = self._views.images.find(point.source)
            return replace(point, image_id=image.image_id, layers=image.chain)
        if point.type != "volume":
            return point
        if self._views.volumes.get(VolumeName(point.name)) is None:
            quotas = self._facts.volume_quotas
            check_driver(point.name, point.driver, point.volume_options or {}, quotas=quotas)
        return replace(point, source=f"{self._daemon.data_root}/volumes/{point.name}/_data")

    def _attachments(self, host: HostConfig, networking: NetworkingConfig) -> tuple[NetworkAttachment, ...]:
        """The networks wished for: the network mode's first, then the others in the order given (NET-21)."""
        given: Mapping[str, EndpointConfig | None] = networking.endpoints_config or {}
        if host.network_mode.startswith("container:"):
            return ()
        wished = {host.network_mode: EndpointConfig()}
        for name, config in given.items():
            key = host.network_mode if self._same_network(name, host.network_mode) else name
            wished[key] = config or EndpointConfig()
        return tuple(self._attachment(name, config, host) for name, config in wished.items())

    def _same_network(self, one: str, other: str) -> bool:
        if one == other or (one == "default" and other == "bridge"):
            return True
        first, second = (self._views.networks.lookup(name) for name in (one, other))
        return first is not None and first is second

    def _attachment(self, name: str, config: EndpointConfig, host: HostConfig) -> NetworkAttachment:
        network = self._views.networks.lookup(name)
        if host.links and name == host.network_mode and not config.links and host.on_user_network:
            config = replace(config, links=host.links)  # What `--link` means there; the CLI says it in both places.
        for link in config.links or ():
            parse_link(link)
        try:
            endpoint_options.check(config.driver_opts)
        except Rejected as error:
            raise Rejected(error.reason, f"invalid config for network {name}: {error.message}") from error
        if network is None:
            return NetworkAttachment(name=name, config=config)
        wanted = config.ipam_config
        if network.predefined and wanted is not None and (wanted.ipv4_address or wanted.ipv6_address):
            raise Rejected(
                Reason.INVALID,
                "invalid config for network bridge: invalid endpoint settings:\n"
                "user-specified IP address is supported on user-defined networks only",
            )
        if network.predefined and config.aliases and host.network_mode in ("bridge", "host", "none"):
            raise Rejected(
                Reason.INVALID,
                f"invalid config for network {name}: invalid endpoint settings:\n"
                "network-scoped alias is supported only for containers in user defined networks",
            )
        return NetworkAttachment(name=network.settings.name, config=config)

    def _links(self, host: HostConfig) -> tuple[Link, ...]:
        """CTR-44: legacy links, which have no meaning on other networks. Source: moby daemon/daemon_unix.go
        registerLinks."""
        found: dict[str, Link] = {}
        for text in host.links or ():
            name, alias = parse_link(text)
            if host.on_user_network:
                continue
            linked = self._linked(name)
            while linked.host.network_mode.startswith("container:"):
                linked = self._linked(linked.host.network_mode.partition(":")[2])
            if linked.host.network_mode == "host":
                raise Rejected(Reason.INVALID, HOST_NETWORK_AND_LINKS)
            found.setdefault(alias, Link(container_id=linked.container_id, name=linked.name, alias=alias))
        return tuple(found.values())

    def _linked(self, name: str) -> ContainerState:
        try:
            return self._named(name)
        except Rejected as error:
            raise Rejected(error.reason, f"could not get container for {name}: {error.message}") from error


def volumes_of(command: CreateContainer) -> tuple[CreateVolume, ...]:
    """The volumes that a container asks for, each once; those that are there stay as they are."""
    volumes: dict[str, CreateVolume] = {}
    for point in command.mounts:
        if point.type == "volume" and point.name not in volumes:
            labels = {**(point.volume_labels or {}), **({ANONYMOUS_LABEL: ""} if point.anonymous else {})}
            volumes[point.name] = CreateVolume(
                name=VolumeName(point.name),
                at=command.at,
                driver=point.driver,
                options=point.volume_options or {},
                labels=labels,
                anonymous=point.anonymous,
            )
    return tuple(volumes.values())


def checked_name(name: str) -> str:
    """A container's name without its slash. Raises Rejected(INVALID) in moby's words."""
    bare = name.removeprefix("/")
    if not RESTRICTED_NAME.fullmatch(bare):
        raise Rejected(
            Reason.INVALID,
            f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
        )
    return bare
