"""The daemon's configuration: dockerd's flags and daemon.json, merged into one frozen DaemonConfig.

Owns the values, their validation and the rules of merging. The flags themselves are the table in engine/options.py.
Words of refusal are moby's (daemon/config/config.go), because installers and users search for them. An option that
dockerd has and this engine has not is refused at start-up unless it asks for what is the case anyway: an engine that
ignores a setting lies about what it runs.
"""

from __future__ import annotations

import ipaddress
import urllib.parse
from collections.abc import Mapping

import msgspec

from engine.aggregates.container.log_options import check_log_options
from engine.aggregates.decider import Rejected
from engine.aggregates.values import go_values
from engine.aggregates.values.config import LogConfig, Ulimit

DEFAULT_HOST = "unix:///var/run/docker.sock"
DEFAULT_CONFIG_FILE = "/etc/ishmael/daemon.json"
BUILT_IN_RUNTIMES = ("native", "runc", "io.containerd.runc.v2")
"""The engine's own runtime, and what files written for dockerd call the one that it has of its own. A runtime added
under the name `runc` is meant instead."""
STORAGE_DRIVERS = frozenset({"", "overlay2", "vfs"})
"""Of which "" is whatever works on the data root."""
LOG_LEVELS = frozenset({"panic", "fatal", "error", "warn", "info", "debug", "trace"})

_LINK_LOCAL = ipaddress.IPv6Network("fe80::/64")


class ConfigError(Exception):
    """The configuration can not be used; the text is for whoever wrote it."""


class AddressPool(msgspec.Struct, frozen=True, kw_only=True):
    """Where new networks get their subnets: `base` (CIDR) cut into networks of prefix length `size`."""

    base: str
    size: int


class RuntimeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A foreign OCI runtime: the binary and arguments put before its verbs."""

    path: str
    runtime_args: tuple[str, ...] = ()


DEFAULT_ADDRESS_POOLS = (
    *(AddressPool(base=f"172.{second}.0.0/16", size=16) for second in range(17, 20)),
    AddressPool(base="172.20.0.0/14", size=16),
    AddressPool(base="172.24.0.0/14", size=16),
    AddressPool(base="172.28.0.0/14", size=16),
    AddressPool(base="192.168.0.0/16", size=20),
)
"""As dockerd's; addresses in IPv4 only."""


class DaemonConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be configured, with its default. Sizes in bytes, times in seconds, paths absolute.

    hosts: `unix://path`, `tcp://host:port`, `fd://`. group: of unix sockets, a name or a number. bip: the default
    bridge's address with prefix, "" for the first free pool; bip6 likewise. fixed_cidr, fixed_cidr_v6: what containers
    get addresses of there, and its subnet where no address names one. default_gateway, default_gateway_v6: where their
    default routes lead there, "" for the bridge itself. bridge: of the default network, an interface that
    an administrator made, `none` for no such network, "" for docker0. default_network_opts: of new networks, by
    driver. ip: of the host, where the default network's ports are published.
    shutdown_timeout_s: -1 waits for ever. seccomp_profile: `builtin`, `unconfined` or a path. cgroup_driver:
    `cgroupfs`, `systemd`, or "" for what suits the host.
    userns_remap: `default`, or `user[:group]`, whose subordinate ids containers get.
    default_shm_size_bytes: of a private /dev/shm. history_events: of the log that stay unsealed. history_low_days: age
    at which low-retention events are forgotten, 0 for never. history_bytes_max: of sealed history, 0 for no limit."""

    hosts: tuple[str, ...] = (DEFAULT_HOST,)
    data_root: str = "/var/lib/ishmael"
    exec_root: str = "/var/run/ishmael"
    pidfile: str = "/var/run/ishmael.pid"
    group: str = "docker"
    debug: bool = False
    log_level: str = "info"
    live_restore: bool = True
    shutdown_timeout_s: int = 15
    labels: tuple[str, ...] = ()

    registry_mirrors: tuple[str, ...] = ()
    insecure_registries: tuple[str, ...] = ()
    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""
    max_concurrent_downloads: int = 3
    max_concurrent_uploads: int = 5
    max_download_attempts: int = 5

    default_runtime: str = "native"
    runtimes: Mapping[str, RuntimeConfig] = {}
    cgroup_driver: str = ""
    cgroup_parent: str = ""
    default_ulimits: tuple[Ulimit, ...] = ()
    default_shm_size_bytes: int = 64 << 20
    init: bool = False
    init_path: str = ""
    no_new_privileges: bool = False
    seccomp_profile: str = "builtin"
    userns_remap: str = ""
    storage_driver: str = ""
    log_driver: str = "json-file"
    log_opts: Mapping[str, str] = {}

    bridge: str = ""
    bip: str = ""
    bip6: str = ""
    fixed_cidr: str = ""
    fixed_cidr_v6: str = ""
    default_gateway: str = ""
    default_gateway_v6: str = ""
    ipv6: bool = False
    ip: str = "0.0.0.0"  # noqa: S104 - dockerd's default, where ports are published
    mtu: int = 1500
    default_network_opts: Mapping[str, Mapping[str, str]] = {}
    default_address_pools: tuple[AddressPool, ...] = DEFAULT_ADDRESS_POOLS
    iptables: bool = True
    ip_forward: bool = True
    ip_masq: bool = True
    icc: bool = True
    userland_proxy: bool = True
    dns: tuple[str, ...] = ()
    dns_opts: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()

    history_events: int = 32_768
    history_low_days: int = 30
    history_bytes_max: int = 0


def validate(config: DaemonConfig) -> DaemonConfig:
    """Itself, when the values make sense together. Raises ConfigError."""
    if config.log_level.lower() not in LOG_LEVELS:
        raise ConfigError(f"invalid logging level: {config.log_level}")
    for name in ("max_concurrent_downloads", "max_concurrent_uploads", "max_download_attempts"):
        if getattr(config, name) < 0:
            raise ConfigError(f"invalid {name.replace('_', ' ')}: {getattr(config, name)}")
    for name, least in (("history_events", 1), ("history_low_days", 0), ("history_bytes_max", 0)):
        if getattr(config, name) < least:
            raise ConfigError(f"invalid {name.replace('_', ' ')}: {getattr(config, name)}")
    if config.storage_driver not in STORAGE_DRIVERS:
        raise ConfigError(f"storage-driver {config.storage_driver}: not implemented; there are overlay2 and vfs")
    if config.default_runtime not in (*BUILT_IN_RUNTIMES, *config.runtimes):
        raise ConfigError(f"specified default runtime '{config.default_runtime}' does not exist")
    for path in (config.data_root, config.exec_root):
        if not path.startswith("/"):
            raise ConfigError(f"not an absolute path: {path}")
    _validate_labels(config.labels)
    for host in config.hosts:
        split_host(host)
    for mirror in config.registry_mirrors:
        _validate_mirror(mirror)
    for address in (config.ip, *config.dns):
        if not _is_address(address):
            raise ConfigError(f"{address} is not an ip address")
    _validate_networks(config)
    try:
        check_log_options(LogConfig(type=config.log_driver, config=config.log_opts))
    except Rejected as error:
        raise ConfigError(f"failed to set log opts: {error.message}") from error
    return config


def split_host(host: str) -> tuple[str, str]:
    """`unix:///run/x.sock` as ("unix", "/run/x.sock"). Raises ConfigError for what can not be listened on."""
    scheme, separator, address = host.partition("://")
    if not separator:
        scheme, address = ("unix", host) if host.startswith("/") else ("tcp", host)
    if scheme == "tcp":
        name, _, port = address.rpartition(":")
        if not port.isdecimal() or int(port) > 65535:
            raise ConfigError(f"invalid bind address ({host}): a port is needed")
        return scheme, f"{name}:{port}"
    if scheme == "unix":
        return scheme, address or DEFAULT_HOST.removeprefix("unix://")
    if scheme == "fd":
        return scheme, address
    raise ConfigError(f"invalid bind address ({host}): unsupported proto")


def _validate_labels(labels: tuple[str, ...]) -> None:
    seen: dict[str, str] = {}
    for label in labels:
        key, separator, value = label.partition("=")
        if not separator:
            raise ConfigError(f"bad attribute format: {label}")
        if seen.setdefault(key, value) != value:
            raise ConfigError(f"conflict labels for {key}={value} and {key}={seen[key]}")


def _validate_mirror(mirror: str) -> None:
    url = urllib.parse.urlsplit(mirror)
    if url.scheme not in ("http", "https"):
        raise ConfigError(
            f"invalid mirror: no scheme specified for \"{mirror}\": must use either 'https://' or 'http://'"
        )
    if url.query or url.fragment or url.username:
        raise ConfigError(f'invalid mirror: "{mirror}" must not have a user, a query or a fragment')


def _validate_networks(config: DaemonConfig) -> None:
    if not config.iptables and not config.icc:
        raise ConfigError(
            "You specified --iptables=false with --icc=false. ICC=false uses iptables to function. Please set --icc or "
            "--iptables to true"
        )
    if config.mtu < 0:
        raise ConfigError(f"invalid default MTU: {config.mtu}")
    _validate_default_bridge(config)
    for pool in config.default_address_pools:
        try:
            network = ipaddress.ip_network(pool.base)
        except ValueError as error:
            raise ConfigError(f"invalid default address pool: {error}") from error
        if not network.prefixlen <= pool.size <= network.max_prefixlen:
            raise ConfigError(f"invalid default address pool: {pool.base} cannot be cut into /{pool.size}")


def _validate_default_bridge(config: DaemonConfig) -> None:
    for option, address, version in (("bip", config.bip, 4), ("bip6", config.bip6, 6)):
        if config.bridge and address:
            raise ConfigError(f"You specified -b & --{option}, mutually exclusive options. Please specify only one")
        if address:
            _validate_bridge_address(option, address, version)
    for option, cidr, version in (("fixed-cidr", config.fixed_cidr, 4), ("fixed-cidr-v6", config.fixed_cidr_v6, 6)):
        if cidr:
            _validate_fixed_cidr(option, cidr, version)
    gateways = (("default-gateway", config.default_gateway, 4), ("default-gateway-v6", config.default_gateway_v6, 6))
    for option, address, version in gateways:
        if address and not _is_address(address):
            raise ConfigError(f"invalid {option}: {address} is not an ip address")
        if address and ipaddress.ip_address(address).version != version:
            raise ConfigError(f"invalid {option}: {address} is not an IPv{version} address")


def _validate_bridge_address(option: str, text: str, version: int) -> None:
    try:
        bridge = ipaddress.ip_interface(text)
    except ValueError as error:
        raise ConfigError(f"invalid {option}: {text}: {error}") from error
    if bridge.version != version:
        raise ConfigError(f"invalid {option}: {text} is not an IPv{version} address")
    if bridge.ip == bridge.network.network_address or "/" not in text:
        raise ConfigError(f"invalid {option}: {text} must be an address of a host, with its prefix length")


def _validate_fixed_cidr(option: str, text: str, version: int) -> None:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise ConfigError(f"invalid {option}: invalid CIDR address: {text}") from error
    if network.version != version or "/" not in text:
        raise ConfigError(f"invalid {option}: {text} is not an IPv{version} subnet")
    if network.version == 6 and network.overlaps(_LINK_LOCAL):
        raise ConfigError(f"invalid {option}: clash with the Link-Local prefix 'fe80::/64'")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def size_bytes(text: str) -> int:
    """`64M`, `1.5g`, `1048576`: binary units. Raises ConfigError."""
    try:
        return go_values.binary_bytes(text)
    except ValueError as error:
        raise ConfigError(str(error)) from error
