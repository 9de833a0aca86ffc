"""A container's configuration, in the Engine API's own vocabulary.

Owns: ContainerConfig, HostConfig and what they are made of, as frozen values whose JSON is Docker's JSON (`renamed`
to PascalCase). One schema serves the request body, the log and `inspect`, so a field can not be lost on the way
between three of them (docs/decisions/0003-docker-vocabulary.md).
Refuses to know: which combinations are legal (rules.py beside the deciders) and what they mean to a kernel.

Go's encoder sends `null` for empty lists and maps, so those fields take None; readers use `or ()`. Env is never in a
stored ContainerConfig: `without_env` strips it and the command carries it sealed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import field

from engine.aggregates.values.go_values import binary_bytes


class Value(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """Base of all configuration values: frozen, Docker's names in JSON, defaults left out when stored."""


class HealthConfig(Value, frozen=True, kw_only=True):
    """`HEALTHCHECK`: durations in ns, 0 means inherit or default (30 s, 30 s, 0 s, 5 s); retries 0 means 3."""

    test: tuple[str, ...] | None = None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class ContainerConfig(Value, frozen=True, kw_only=True):
    """What the process is told: portable between hosts. Source: Engine API `ContainerConfig`."""

    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: Mapping[str, dict[str, Any]] | None = None
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    healthcheck: HealthConfig | None = None
    args_escaped: bool = False
    image: str = ""
    volumes: Mapping[str, dict[str, Any]] | None = None
    working_dir: str = ""
    entrypoint: tuple[str, ...] | None = None
    network_disabled: bool = False
    mac_address: str = ""
    on_build: tuple[str, ...] | None = None
    labels: Mapping[str, str] | None = None
    stop_signal: str = ""
    stop_timeout: int | None = None
    shell: tuple[str, ...] | None = None


class PortBinding(Value, frozen=True, kw_only=True):
    """One host side of a published port. `host_port` is "" for an ephemeral one, or a range `8000-8010`."""

    host_ip: str = ""
    host_port: str = ""


class RestartPolicy(Value, frozen=True, kw_only=True):
    """name: "" or no, always, unless-stopped, on-failure; the count is for on-failure, 0 means unlimited."""

    name: str = ""
    maximum_retry_count: int = 0


class LogConfig(Value, frozen=True, kw_only=True):
    """type "" means the daemon's default driver."""

    type: str = ""
    config: Mapping[str, str] | None = None


class Device(Value, frozen=True, kw_only=True):
    path_on_host: str = ""
    path_in_container: str = ""
    cgroup_permissions: str = ""


class DeviceRequest(Value, frozen=True, kw_only=True):
    driver: str = ""
    count: int = 0
    device_ids: tuple[str, ...] | None = field(default=None, name="DeviceIDs")
    capabilities: tuple[tuple[str, ...], ...] | None = None
    options: Mapping[str, str] | None = None


class WeightDevice(Value, frozen=True, kw_only=True):
    path: str = ""
    weight: int = 0


class ThrottleDevice(Value, frozen=True, kw_only=True):
    path: str = ""
    rate: int = 0


class Ulimit(Value, frozen=True, kw_only=True):
    name: str = ""
    soft: int = 0
    hard: int = 0


class BindOptions(Value, frozen=True, kw_only=True):
    propagation: str = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False


class DriverConfig(Value, frozen=True, kw_only=True):
    name: str = ""
    options: Mapping[str, str] | None = None


class VolumeOptions(Value, frozen=True, kw_only=True):
    no_copy: bool = False
    labels: Mapping[str, str] | None = None
    driver_config: DriverConfig | None = None
    subpath: str = ""


class ImageOptions(Value, frozen=True, kw_only=True):
    subpath: str = ""


class TmpfsOptions(Value, frozen=True, kw_only=True):
    size_bytes: int = 0
    mode: int = 0
    options: tuple[tuple[str, ...], ...] | None = None


class Mount(Value, frozen=True, kw_only=True):
    """One entry of HostConfig.Mounts (`--mount`). type: bind, volume, tmpfs, image, npipe, cluster."""

    target: str = ""
    source: str = ""
    type: str = ""
    read_only: bool = False
    consistency: str = ""
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    image_options: ImageOptions | None = None
    tmpfs_options: TmpfsOptions | None = None


class Resources(Value, frozen=True, kw_only=True):
    """Limits of the container's cgroup. Bytes, shares, microseconds, billionths of a CPU; 0 means not set."""

    cpu_shares: int = 0
    memory: int = 0
    nano_cpus: int = 0
    cgroup_parent: str = ""
    blkio_weight: int = 0
    blkio_weight_device: tuple[WeightDevice, ...] | None = None
    blkio_device_read_bps: tuple[ThrottleDevice, ...] | None = None
    blkio_device_write_bps: tuple[ThrottleDevice, ...] | None = None
    blkio_device_read_iops: tuple[ThrottleDevice, ...] | None = field(default=None, name="BlkioDeviceReadIOps")
    blkio_device_write_iops: tuple[ThrottleDevice, ...] | None = field(default=None, name="BlkioDeviceWriteIOps")
    cpu_period: int = 0
    cpu_quota: int = 0
    cpu_realtime_period: int = 0
    cpu_realtime_runtime: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    devices: tuple[Device, ...] | None = None
    device_cgroup_rules: tuple[str, ...] | None = None
    device_requests: tuple[DeviceRequest, ...] | None = None
    memory_reservation: int = 0
    memory_swap: int = 0
    memory_swappiness: int | None = None
    oom_kill_disable: bool | None = None
    pids_limit: int | None = None
    ulimits: tuple[Ulimit, ...] | None = None
    init: bool | None = None


class HostConfig(Resources, frozen=True, kw_only=True):
    """What this host is asked for. Source: Engine API `HostConfig`."""

    binds: tuple[str, ...] | None = None
    container_id_file: str = field(default="", name="ContainerIDFile")
    log_config: LogConfig = LogConfig()
    network_mode: str = ""
    port_bindings: Mapping[str, tuple[PortBinding, ...] | None] | None = None
    restart_policy: RestartPolicy = RestartPolicy()
    auto_remove: bool = False
    volume_driver: str = ""
    volumes_from: tuple[str, ...] | None = None
    mounts: tuple[Mount, ...] | None = None
    console_size: tuple[int, int] | None = None
    annotations: Mapping[str, str] | None = None
    cap_add: tuple[str, ...] | None = None
    cap_drop: tuple[str, ...] | None = None
    cgroupns_mode: str = ""
    dns: tuple[str, ...] | None = None
    dns_options: tuple[str, ...] | None = None
    dns_search: tuple[str, ...] | None = None
    extra_hosts: tuple[str, ...] | None = None
    group_add: tuple[str, ...] | None = None
    ipc_mode: str = ""
    cgroup: str = ""
    links: tuple[str, ...] | None = None
    oom_score_adj: int = 0
    pid_mode: str = ""
    privileged: bool = False
    publish_all_ports: bool = False
    readonly_rootfs: bool = False
    security_opt: tuple[str, ...] | None = None
    storage_opt: Mapping[str, str] | None = None
    tmpfs: Mapping[str, str] | None = None
    uts_mode: str = field(default="", name="UTSMode")
    userns_mode: str = ""
    shm_size: int = 0
    sysctls: Mapping[str, str] | None = None
    runtime: str = ""
    isolation: str = ""
    masked_paths: tuple[str, ...] | None = None
    readonly_paths: tuple[str, ...] | None = None

    @property
    def limit_bytes(self) -> int:
        """What the read-write layer may hold (`StorageOpt` size), 0 for no limit. Raises ValueError."""
        sizes = [value for key, value in (self.storage_opt or {}).items() if key.lower() == "size"]
        return binary_bytes(sizes[0]) if sizes else 0

    @property
    def on_user_network(self) -> bool:
        """Its first network is one that a user made."""
        mode = self.network_mode
        return mode not in ("", "default", "bridge", "host", "none") and not mode.startswith("container:")


class EndpointIPAMConfig(Value, frozen=True, kw_only=True):
    ipv4_address: str = field(default="", name="IPv4Address")
    ipv6_address: str = field(default="", name="IPv6Address")
    link_local_ips: tuple[str, ...] | None = field(default=None, name="LinkLocalIPs")


class EndpointConfig(Value, frozen=True, kw_only=True):
    """What a user may ask of one endpoint (the request half of Docker's EndpointSettings)."""

    ipam_config: EndpointIPAMConfig | None = field(default=None, name="IPAMConfig")
    links: tuple[str, ...] | None = None
    mac_address: str = ""
    aliases: tuple[str, ...] | None = None
    driver_opts: Mapping[str, str] | None = None
    gw_priority: int = 0


class NetworkingConfig(Value, frozen=True, kw_only=True):
    endpoints_config: Mapping[str, EndpointConfig | None] | None = None
