"""Create requests of older clients, as the API of their age meant them.

Pure. Fields that came later are dropped where ignoring them was the rule, and refused where a client could not tell
that they were ignored. Source: moby daemon/server/router/container/container_routes.go postContainersCreate.
"""

from __future__ import annotations

from msgspec.structs import replace

from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.values.config import ContainerConfig, HostConfig, Mount, NetworkingConfig
from engine.api.versions import ApiVersion

OPTIONS = (("VolumeOptions", "volume"), ("BindOptions", "bind"), ("TmpfsOptions", "tmpfs"), ("ImageOptions", "image"))


def config_of(config: ContainerConfig, version: ApiVersion) -> ContainerConfig:
    """StartInterval of health checks came with 1.44."""
    health = config.healthcheck
    if version < (1, 44) and health is not None:
        return replace(config, healthcheck=replace(health, start_interval=0))
    return config


def host_of(host: HostConfig, version: ApiVersion) -> HostConfig:
    """Raises Rejected(INVALID) for what is not to be ignored silently."""
    mounts = tuple(_mount(mount, version) for mount in host.mounts or ())
    host = replace(host, mounts=mounts or host.mounts)
    if version < (1, 40) and not host.ipc_mode:
        host = replace(host, ipc_mode="shareable")
    if version < (1, 42):
        host = replace(host, console_size=None)
    if version < (1, 43):
        host = replace(host, annotations=None)
    return host


def networking_of(networking: NetworkingConfig, host: HostConfig, version: ApiVersion) -> NetworkingConfig:
    """More than one network at once came with 1.44. Raises Rejected(INVALID)."""
    given = networking.endpoints_config or {}
    if len(given) > 1 and version < (1, 44) and not host.network_mode.startswith("container:"):
        names = ", ".join(sorted(given))
        raise Rejected(Reason.INVALID, f"Container cannot be created with multiple network endpoints: {names}")
    return networking


def _mount(mount: Mount, version: ApiVersion) -> Mount:
    mount = _options(mount, version)
    bind, volume = mount.bind_options, mount.volume_options
    if version < (1, 48) and mount.type == "image":
        raise Rejected(Reason.INVALID, 'Mount type "Image" needs API v1.48 or newer')
    if version < (1, 45) and volume is not None and volume.subpath:
        raise Rejected(Reason.INVALID, "VolumeOptions.Subpath needs API v1.45 or newer")
    if bind is None:
        return mount
    if version < (1, 44) and mount.type == "bind" and bind.read_only_force_recursive:
        raise Rejected(Reason.INVALID, "BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer")
    if version < (1, 42):
        bind = replace(bind, create_mountpoint=False)
    if version < (1, 40):
        bind = replace(bind, non_recursive=False)
    return replace(mount, bind_options=bind)


def _options(mount: Mount, version: ApiVersion) -> Mount:
    """Options of another type of mount: dropped for clients before 1.42, which were not told, refused since."""
    for name, kind in OPTIONS:
        field = f"{kind}_options"
        if getattr(mount, field) is None or mount.type == kind:
            continue
        if version < (1, 42):
            mount = replace(mount, **{field: None})
        else:
            raise Rejected(Reason.INVALID, f'{name} must not be specified on mount type "{mount.type}"')
    return mount
