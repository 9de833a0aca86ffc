"""From a create request to one transaction: image, configuration, names, networks, mounts, secrets.

Owns the order of checks and the defaults of the daemon (CTR-01..07). The rules themselves are pure and live beside the
container aggregate; nothing here touches a kernel.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from engine import transactions
from engine.aggregates.container.commands import CreateContainer
from engine.aggregates.container.log_options import check_log_options, with_daemon_defaults
from engine.aggregates.container.merge import merge
from engine.aggregates.container.mount_rules import mount_points
from engine.aggregates.container.rules import HOST_NETWORK_AND_LINKS, check
from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Cause, Reason, Rejected
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
from engine.aggregates.values.platform import fallbacks
from engine.aggregates.values.platform import parse as parse_platform
from engine.aggregates.values.ports import port_wishes
from engine.aggregates.volume import CreateVolume
from engine.api import creation_versions, naming
from engine.api.context import ApiContext
from engine.api.image_platforms import find
from engine.api.volume_rules import check_driver
from engine.errors import PortError

PLATFORM_SINCE = (1, 41)
ANONYMOUS_LABEL = "com.docker.volume.anonymous"


class CreateBody(ContainerConfig, frozen=True, kw_only=True):
    """The flat body of `POST /containers/create`."""

    host_config: HostConfig = HostConfig()
    networking_config: NetworkingConfig = NetworkingConfig()


class Created(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    id: str
    warnings: tuple[str, ...] = ()


class Creation:
    """One create request on its way."""

    def __init__(self, context: ApiContext, body: CreateBody, api_version: tuple[int, int]) -> None:
        self._context = context
        self._body = body
        self._api_version = api_version
        self._warnings: list[str] = []

    async def run(self, name: str, platform: str, cause: Cause) -> Created:
        """Check everything, then append once. Raises Rejected; then nothing has changed."""
        context = self._context
        container_id = ContainerID(context.entropy.hex_id())
        if name:
            name = checked_name(name)
        config, host = self._split()
        image = self._image(config.image, platform if self._api_version >= PLATFORM_SINCE else "")
        image_config = await context.images.config_of(image)
        config = merge(config, image_config.config)
        host = self._with_defaults(config, host)
        host, warnings = check(config, host, context.facts)
        self._warnings += warnings
        check_log_options(host.log_config)
        port_wishes(config.exposed_ports or {}, host.port_bindings or {}, host.publish_all_ports)
        config = self._with_hostname(config, host, container_id)
        mounts = self._mounts(config, host)
        for point in mounts:
            if point.type == "bind" and not point.create_source:
                await context.ports.host_paths.ensure(point.source, create=False)
        runtime = host.runtime or context.config.default_runtime
        if runtime in context.config.runtimes and any(point.subpath or point.type == "image" for point in mounts):
            raise Rejected(Reason.NOT_IMPLEMENTED, f"runtime {runtime}: no mounts of images and of subpaths")
        env = None
        if config.env:
            env = await context.vault.seal(f"container:{container_id}", msgspec.json.encode(config.env))
        command = CreateContainer(
            container_id=container_id,
            at=context.clock.now_ns(),
            name=name,
            image_id=image.image_id,
            layers=image.chain,
            config=replace(config, env=None),
            env=env,
            host=host,
            networks=self._attachments(host),
            mounts=mounts,
            links=self._links(host),
            platform=image.platform.os if image.platform is not None else "linux",
            runtime=runtime,
        )
        try:
            await self._append(command, cause)
        except (Rejected, PortError):
            if env is not None:
                await context.vault.erase(env.owner)  # The key of a container that never was.
            raise
        return Created(id=container_id, warnings=tuple(self._warnings))

    def _split(self) -> tuple[ContainerConfig, HostConfig]:
        fields = {name: getattr(self._body, name) for name in ContainerConfig.__struct_fields__}
        if ContainerConfig(**fields) == ContainerConfig():
            raise Rejected(Reason.INVALID, "config cannot be empty in order to create a container")
        config = creation_versions.config_of(ContainerConfig(**fields), self._api_version)
        return config, creation_versions.host_of(self._body.host_config, self._api_version)

    def _image(self, name: str, wanted: str) -> ImageState:
        """What is asked for must be there; what is not asked for and does not fit is a warning (CTR-47)."""
        here = self._context.images.host_platform
        if wanted:
            return find(self._context, name, parse_platform(wanted, here))
        image = find(self._context, name)
        if image.platform is not None and image.platform.normalized not in fallbacks(here):
            self._warnings.append(
                f"The requested image's platform ({image.platform}) does not match the detected host platform "
                f"({here}) and no specific platform was requested"
            )
        return image

    def _with_defaults(self, config: ContainerConfig, host: HostConfig) -> HostConfig:
        daemon = self._context.config
        mode = host.network_mode if host.network_mode not in ("", "default") else "bridge"
        log = with_daemon_defaults(host.log_config, LogConfig(type=daemon.log_driver, config=daemon.log_opts))
        return replace(
            host,
            network_mode=self._resolved(mode),
            pid_mode=self._resolved(host.pid_mode),
            ipc_mode=self._resolved(host.ipc_mode) or "private",
            cgroupns_mode=host.cgroupns_mode or ("private" if self._context.facts.cgroup_v2 else "host"),
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
        return f"container:{self._context.views.containers.find(reference).container_id}"

    def _with_hostname(self, config: ContainerConfig, host: HostConfig, container_id: ContainerID) -> ContainerConfig:
        if config.hostname:
            return config
        if host.network_mode.startswith("container:"):
            donor: ContainerState = self._context.views.containers.find(host.network_mode.partition(":")[2])
            return replace(config, hostname=donor.config.hostname)
        own = socket.gethostname() if host.network_mode == "host" or host.uts_mode == "host" else short(container_id)
        return replace(config, hostname=own)

    def _mounts(self, config: ContainerConfig, host: HostConfig) -> tuple[MountPoint, ...]:
        def mounts_of(reference: str) -> tuple[MountPoint, ...]:
            donor: ContainerState = self._context.views.containers.find(reference)
            return donor.mounts

        points = mount_points(config, host, new_name=self._context.entropy.hex_id, mounts_of=mounts_of)
        return tuple(self._with_source(point) for point in points)

    def _with_source(self, point: MountPoint) -> MountPoint:
        if point.type == "image":
            image = self._context.views.images.find(point.source)
            return replace(point, image_id=image.image_id, layers=image.chain)
        if point.type != "volume":
            return point
        if self._context.views.volumes.get(VolumeName(point.name)) is None:
            quotas = self._context.facts.volume_quotas
            check_driver(point.name, point.driver, point.volume_options or {}, quotas=quotas)
        return replace(point, source=f"{self._context.config.data_root}/volumes/{point.name}/_data")

    def _attachments(self, host: HostConfig) -> tuple[NetworkAttachment, ...]:
        """The networks wished for: the network mode's first, then the others in the order given (NET-21)."""
        given: Mapping[str, EndpointConfig | None] = self._body.networking_config.endpoints_config or {}
        if host.network_mode.startswith("container:"):
            return ()
        if len(given) > 1 and self._api_version < (1, 44):
            names = ", ".join(sorted(given))
            raise Rejected(
                Reason.INVALID,
                f"Container cannot be created with multiple network endpoints: {names}",
            )
        wished = {host.network_mode: EndpointConfig()}
        for name, config in given.items():
            key = host.network_mode if self._same_network(name, host.network_mode) else name
            wished[key] = config or EndpointConfig()
        return tuple(self._attachment(name, config, host) for name, config in wished.items())

    def _same_network(self, one: str, other: str) -> bool:
        if one == other or (one == "default" and other == "bridge"):
            return True
        first, second = (self._context.views.networks.lookup(name) for name in (one, other))
        return first is not None and first is second

    def _attachment(self, name: str, config: EndpointConfig, host: HostConfig) -> NetworkAttachment:
        network = self._context.views.networks.lookup(name)
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
            return self._context.views.containers.find(name)
        except Rejected as error:
            # Not 404: clients would take that for the image.
            raise Rejected(Reason.INVALID, f"could not get container for {name}: {error.message}") from error

    async def _append(self, command: CreateContainer, cause: Cause) -> None:
        """The container with its name and volumes, as one transaction; a generated name is drawn anew when taken."""
        attempts = 1 if command.name else naming.ATTEMPTS
        for attempt in range(attempts + 1):
            name = command.name
            if not name:
                last = attempt == attempts
                name = short(command.container_id) if last else naming.generate(self._context.entropy.below)
            try:
                named = replace(command, name=name)
                await self._context.application.execute(
                    *self._volumes(command), *transactions.create(named), cause=cause
                )
            except Rejected as rejected:
                if command.name or attempt == attempts or not rejected.message.startswith("Conflict. The container"):
                    raise
            else:
                return

    def _volumes(self, command: CreateContainer) -> list[CreateVolume]:
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
        return list(volumes.values())


def checked_name(name: str) -> str:
    """A container's name without its slash. Raises Rejected(INVALID) in moby's words."""
    bare = name.removeprefix("/")
    if not RESTRICTED_NAME.fullmatch(bare):
        raise Rejected(
            Reason.INVALID,
            f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
        )
    return bare


def env_of(context: Any, state: ContainerState) -> tuple[str, ...]:
    """A container's environment in the clear, for `inspect` and the process."""
    if state.env is None:
        return ()
    return msgspec.json.decode(context.vault.open(state.env), type=tuple[str, ...])
