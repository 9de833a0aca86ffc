"""dockerd's options as a table: flag, daemon.json key, kind, and the DaemonConfig field each sets, if there is one.

The table is what `--help`, daemon.json's unknown-key check and docs/reference/config.md are made of. Source: moby
daemon/command/config.go, config_unix.go, options.go; daemon/config/config.go (findConfigurationConflicts).
"""

from __future__ import annotations

import argparse
import enum
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from engine.aggregates.values.config import Ulimit
from engine.config import (
    DEFAULT_CONFIG_FILE,
    AddressPool,
    ConfigError,
    DaemonConfig,
    RuntimeConfig,
    size_bytes,
    validate,
)


class Kind(enum.Enum):
    """How a value is written. A flag of LIST, MAP and the like may be repeated."""

    TEXT = "text"
    NUMBER = "number"
    BOOLEAN = "boolean"
    SIZE = "size"
    LIST = "list"
    MAP = "map"
    POOLS = "pools"
    ULIMITS = "ulimits"
    RUNTIMES = "runtimes"
    DRIVER_OPTIONS = "driver options"


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """flag: without dashes. key: in daemon.json, "" for command-line only. field: of DaemonConfig, "" when the engine
    does not have it; then `absent` is the value that asks for nothing and is let through."""

    flag: str
    kind: Kind
    help: str
    key: str = ""
    field: str = ""
    short: str = ""
    absent: object = None

    @property
    def implemented(self) -> bool:
        return bool(self.field)


def _have(flag: str, kind: Kind, help_: str, *, key: str = "", field: str = "", short: str = "") -> Option:
    key = key or flag
    return Option(flag=flag, kind=kind, help=help_, key=key, field=field or key.replace("-", "_"), short=short)


def _lack(flag: str, kind: Kind = Kind.TEXT, *, key: str = "", absent: object = "", short: str = "") -> Option:
    absent = {Kind.BOOLEAN: False, Kind.LIST: (), Kind.MAP: {}}.get(kind, absent) if absent == "" else absent
    return Option(flag=flag, kind=kind, help="not implemented", key=key or flag, short=short, absent=absent)


OPTIONS: tuple[Option, ...] = (
    _have("host", Kind.LIST, "sockets to listen on: unix://, tcp://, fd://", key="hosts", short="H"),
    _have("data-root", Kind.TEXT, "directory of the log and everything kept", short="g"),
    _have("exec-root", Kind.TEXT, "directory of sockets and other state of this boot"),
    _have("pidfile", Kind.TEXT, "file that holds the engine's process id", short="p"),
    _have("group", Kind.TEXT, "group of unix sockets", short="G"),
    _have("debug", Kind.BOOLEAN, "log at level debug", short="D"),
    _have("log-level", Kind.TEXT, "debug, info, warn, error or fatal", short="l"),
    _have("live-restore", Kind.BOOLEAN, "containers go on running when the engine stops"),
    _have("shutdown-timeout", Kind.NUMBER, "seconds to wait for containers to stop", field="shutdown_timeout_s"),
    _have("label", Kind.LIST, "key=value labels of the engine", key="labels"),
    _have("registry-mirror", Kind.LIST, "mirrors of Docker Hub", key="registry-mirrors"),
    _have("insecure-registry", Kind.LIST, "registries without verified TLS", key="insecure-registries"),
    _have("http-proxy", Kind.TEXT, "URL of the proxy for registries without TLS"),
    _have("https-proxy", Kind.TEXT, "URL of the proxy for registries with TLS"),
    _have("no-proxy", Kind.TEXT, "hosts, domains and networks that are reached without a proxy"),
    _have("max-concurrent-downloads", Kind.NUMBER, "layers of a pull downloaded side by side"),
    _have("max-concurrent-uploads", Kind.NUMBER, "layers of a push uploaded side by side"),
    _have("max-download-attempts", Kind.NUMBER, "tries for each layer"),
    _have("default-runtime", Kind.TEXT, "runtime of containers that ask for none"),
    _have("add-runtime", Kind.RUNTIMES, "name=path of an OCI runtime", key="runtimes"),
    _have("exec-opt", Kind.LIST, "native.cgroupdriver=cgroupfs or systemd", key="exec-opts", field="cgroup_driver"),
    _have("cgroup-parent", Kind.TEXT, "parent cgroup of all containers"),
    _have("default-ulimit", Kind.ULIMITS, "name=soft[:hard]", key="default-ulimits"),
    _have("default-shm-size", Kind.SIZE, "size of /dev/shm", field="default_shm_size_bytes"),
    _have("init", Kind.BOOLEAN, "run an init in every container"),
    _have("init-path", Kind.TEXT, "the init's binary"),
    _have("no-new-privileges", Kind.BOOLEAN, "set no_new_privs by default"),
    _have("seccomp-profile", Kind.TEXT, "builtin, unconfined or a path"),
    _have("userns-remap", Kind.TEXT, "default or user[:group]: the containers' root is another user of the host"),
    _have("storage-driver", Kind.TEXT, "overlay2, or vfs (whole copies) where it cannot be mounted", short="s"),
    _have("log-driver", Kind.TEXT, "default log driver"),
    _have("log-opt", Kind.MAP, "key=value of the default log driver", key="log-opts"),
    _have("bridge", Kind.TEXT, "an interface of yours for the default network; none for no such network", short="b"),
    _have("bip", Kind.TEXT, "address of the default bridge, with prefix length"),
    _have("bip6", Kind.TEXT, "IPv6 address of the default bridge, with prefix length"),
    _have("fixed-cidr", Kind.TEXT, "part of the default bridge's subnet that containers get addresses of"),
    _have("fixed-cidr-v6", Kind.TEXT, "the same of its IPv6 subnet"),
    _have("default-gateway", Kind.TEXT, "where default routes lead on the default bridge, if not to it"),
    _have("default-gateway-v6", Kind.TEXT, "the same for IPv6"),
    _have("ipv6", Kind.BOOLEAN, "the default bridge has IPv6 addresses, too"),
    _have("ip", Kind.TEXT, "address of the host where ports of the default network are published"),
    _have("mtu", Kind.NUMBER, "MTU of the default bridge"),
    _have(
        "default-network-opt", Kind.DRIVER_OPTIONS, "driver=option=value of new networks", key="default-network-opts"
    ),
    _have("default-address-pool", Kind.POOLS, "base=CIDR,size=N for new networks", key="default-address-pools"),
    _have("iptables", Kind.BOOLEAN, "add firewall rules"),
    _have("ip-forward", Kind.BOOLEAN, "enable IP forwarding on the host"),
    _have("ip-masq", Kind.BOOLEAN, "masquerade the default bridge"),
    _have("icc", Kind.BOOLEAN, "containers of the default bridge may reach each other"),
    _have("userland-proxy", Kind.BOOLEAN, "published ports are reachable over loopback"),
    _have("dns", Kind.LIST, "name servers of containers"),
    _have("dns-opt", Kind.LIST, "resolver options of containers", key="dns-opts"),
    _have("dns-search", Kind.LIST, "search domains of containers"),
    _have("history-events", Kind.NUMBER, "newest events of the log that are not sealed into the archive"),
    _have("history-low-days", Kind.NUMBER, "days after which execs and notes are forgotten; 0 keeps them"),
    _have("history-max-size", Kind.SIZE, "size that sealed history may have; 0 is no limit", field="history_bytes_max"),
    _lack("allow-direct-routing", Kind.BOOLEAN),
    _lack("api-cors-header"),
    _lack("authorization-plugin", Kind.LIST, key="authorization-plugins"),
    _lack("bridge-accept-fwmark"),
    _lack("cdi-spec-dir", Kind.LIST, key="cdi-spec-dirs"),
    _lack("containerd"),
    _lack("containerd-namespace", absent="moby"),
    _lack("containerd-plugins-namespace", absent="plugins.moby"),
    _lack("cpu-rt-period", Kind.NUMBER, absent=0),
    _lack("cpu-rt-runtime", Kind.NUMBER, absent=0),
    _lack("cri-containerd", Kind.BOOLEAN),
    _lack("default-cgroupns-mode"),
    _lack("default-ipc-mode", absent="private"),
    _lack("experimental", Kind.BOOLEAN),
    _lack("feature", Kind.MAP, key="features"),
    _lack("firewall-backend", absent="nftables"),
    _lack("host-gateway-ip", Kind.LIST, key="host-gateway-ips"),
    _lack("ip-forward-no-drop", Kind.BOOLEAN),
    _lack("ip6tables", Kind.BOOLEAN, absent=False),
    _lack("log-format", absent="text"),
    _lack("metrics-addr"),
    _lack("network-control-plane-mtu", Kind.NUMBER, absent=1500),
    _lack("network-diagnostic-port", Kind.NUMBER, absent=0),
    _lack("node-generic-resource", Kind.LIST, key="node-generic-resources"),
    _lack("nri-opts", Kind.MAP),
    _lack("raw-logs", Kind.BOOLEAN),
    _lack("restart", Kind.BOOLEAN, absent=True, short="r"),
    _lack("rootless", Kind.BOOLEAN),
    _lack("selinux-enabled", Kind.BOOLEAN),
    _lack("storage-opt", Kind.LIST, key="storage-opts"),
    _lack("swarm-default-advertise-addr"),
    _lack("tls", Kind.BOOLEAN),
    _lack("tlscacert"),
    _lack("tlscert"),
    _lack("tlskey"),
    _lack("tlsverify", Kind.BOOLEAN),
    _lack("userland-proxy-path"),
)


def parser() -> argparse.ArgumentParser:
    """The command line. Flags that were not given are absent from the result, so that merging can tell."""
    command = argparse.ArgumentParser(
        prog="ishmaeld", allow_abbrev=False, argument_default=argparse.SUPPRESS, description="The Ishmael daemon."
    )
    command.add_argument("--config-file", default=DEFAULT_CONFIG_FILE, help="daemon.json")
    command.add_argument("--validate", action="store_true", default=False, help="check the configuration and exit")
    command.add_argument("-v", "--version", action="store_true", default=False, help="print the version and exit")
    for option in OPTIONS:
        names = [f"-{option.short}"] if option.short else []
        names.append(f"--{option.flag}")
        shown = option.help if option.implemented else argparse.SUPPRESS
        if option.kind is Kind.BOOLEAN:
            command.add_argument(
                *names, dest=option.flag, nargs="?", const=True, type=_boolean, metavar="BOOL", help=shown
            )
        elif option.kind in (Kind.TEXT, Kind.NUMBER, Kind.SIZE):
            command.add_argument(*names, dest=option.flag, metavar=option.kind.name, help=shown)
        else:
            command.add_argument(*names, dest=option.flag, action="append", metavar=option.kind.name, help=shown)
    return command


def load(arguments: argparse.Namespace) -> DaemonConfig:
    """Merge flags and file. A missing file is no error at the default path. Raises ConfigError."""
    flags = {name: value for name, value in vars(arguments).items() if name in _BY_FLAG}
    path = Path(arguments.config_file)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        if arguments.config_file != DEFAULT_CONFIG_FILE:
            raise ConfigError(f"unable to configure the daemon with file {path}: {error.strerror}") from error
        text = ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"unable to configure the daemon with file {path}: {error}") from error
    try:
        return merge(flags, text)
    except ConfigError as error:
        if text:
            raise ConfigError(f"unable to configure the daemon with file {path}: {error}") from error
        raise


def merge(flags: Mapping[str, Any], text: str) -> DaemonConfig:
    """Flags (by flag name) over the text of a daemon.json. A key that is in both is an error, except `runtimes`."""
    written = flatten(_parse(text))
    unknown = sorted(key for key in written if key not in _BY_KEY)
    if unknown:
        raise ConfigError(f"the following directives don't match any configuration option: {', '.join(unknown)}")
    both = [
        f"{option.key}: (from flag: {_shown(flags[option.flag])}, from file: {_shown(written[option.key])})"
        for option in OPTIONS
        if option.flag in flags and option.key in written and option.kind is not Kind.RUNTIMES
    ]
    if both:
        raise ConfigError(
            f"the following directives are specified both as a flag and in the configuration file: {', '.join(both)}"
        )
    fields: dict[str, Any] = {}
    for option in OPTIONS:
        for source in (written.get(option.key), flags.get(option.flag)):
            if source is not None:
                _set(fields, option, source)
    return validate(DaemonConfig(**fields))


def flatten(document: Mapping[str, Any]) -> dict[str, Any]:
    """dockerd reads `{"proxies": {"http-proxy": ...}}` as if its inner keys stood outside."""
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, dict) and key not in _BY_KEY:
            flat.update(value)
        else:
            flat[key] = value
    return flat


def _parse(text: str) -> dict[str, Any]:
    if not text.strip():
        return {}
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(str(error)) from error
    if not isinstance(document, dict):
        raise ConfigError("the configuration is not a JSON object")
    return document


def _set(fields: dict[str, Any], option: Option, source: object) -> None:
    try:
        value = _READERS[option.kind](source)
    except (ValueError, TypeError, KeyError, msgspec.ValidationError) as error:
        raise ConfigError(f'invalid value "{_shown(source)}" for {option.flag}: {error}') from error
    if not option.implemented:
        if value != option.absent:
            raise ConfigError(f"the option {option.flag} is not implemented by this engine")
        return
    if option.flag == "exec-opt":
        value = _cgroup_driver(value)
    if option.kind is Kind.RUNTIMES:
        value = {**fields.get(option.field, {}), **value}
    fields[option.field] = value


def _cgroup_driver(options: Sequence[str]) -> str:
    driver = ""
    for text in options:
        key, _, value = (part.strip() for part in text.partition("="))
        if not key or not value:
            raise ConfigError(f"invalid exec-opt ({text}): must be formatted 'opt=value'")
        if key.lower() != "native.cgroupdriver":
            raise ConfigError(f"invalid exec-opt ({text}): unknown option: '{key}'")
        if value not in ("cgroupfs", "systemd"):
            raise ConfigError(f"native.cgroupdriver option {value} not supported")
        driver = value
    return driver


def _boolean(source: object) -> bool:
    if isinstance(source, bool):
        return source
    words = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}
    try:
        return words[str(source).lower()]
    except KeyError as error:
        raise ValueError("invalid syntax") from error


def _text(source: object) -> str:
    if not isinstance(source, str):
        raise TypeError("a text is needed")
    return source


def _number(source: object) -> int:
    if isinstance(source, bool) or not isinstance(source, int | str):
        raise TypeError("a number is needed")
    return int(source)


def _size(source: object) -> int:
    return source if isinstance(source, int) else size_bytes(_text(source))


def _list(source: object) -> tuple[str, ...]:
    if isinstance(source, str):
        raise TypeError("a list is needed")
    return msgspec.convert(source, tuple[str, ...])


def _map(source: object) -> dict[str, str]:
    if isinstance(source, dict):
        return {str(key): value if isinstance(value, str) else json.dumps(value) for key, value in source.items()}
    pairs = [text.partition("=") for text in _list(source)]
    if any(not separator for _, separator, _ in pairs):
        raise ValueError("key=value is needed")
    return {key: value for key, _, value in pairs}


def _driver_options(source: object) -> dict[str, dict[str, str]]:
    if isinstance(source, dict):
        return {str(driver): _map(options) for driver, options in source.items()}
    found: dict[str, dict[str, str]] = {}
    for text in _list(source):
        ((driver, option),) = _map([text]).items()
        found[driver] = {**found.get(driver, {}), **_map([option])}
    return found


def _pools(source: object) -> tuple[AddressPool, ...]:
    entries = msgspec.convert(source, list[dict[str, Any] | str])
    pools = [_map(text.split(",")) if isinstance(text, str) else text for text in entries]
    return tuple(AddressPool(base=pool["base"], size=int(pool["size"])) for pool in pools)


def _ulimits(source: object) -> tuple[Ulimit, ...]:
    if isinstance(source, dict):
        return tuple(
            Ulimit(name=name, soft=int(value["Soft"]), hard=int(value["Hard"])) for name, value in source.items()
        )
    found = []
    for name, limits in _map(source).items():
        soft, _, hard = limits.partition(":")
        found.append(Ulimit(name=name, soft=int(soft), hard=int(hard or soft)))
    return tuple(found)


def _runtimes(source: object) -> dict[str, RuntimeConfig]:
    if not isinstance(source, dict):
        source = {name: {"path": path} for name, path in _map(source).items()}
    found: dict[str, RuntimeConfig] = {}
    for name, value in source.items():
        unknown = sorted(set(value) - {"path", "runtimeArgs"})
        if unknown:
            raise ValueError(f"runtime {name}: {', '.join(unknown)}: not implemented by this engine")
        if name == "native":
            raise ValueError("runtime name 'native' is reserved")
        found[name] = RuntimeConfig(path=_text(value["path"]), runtime_args=_list(value.get("runtimeArgs", ())))
    return found


def _shown(value: object) -> str:
    return json.dumps(value) if isinstance(value, dict | list | bool) else str(value)


_READERS: Mapping[Kind, Callable[[Any], Any]] = {
    Kind.TEXT: _text,
    Kind.NUMBER: _number,
    Kind.BOOLEAN: _boolean,
    Kind.SIZE: _size,
    Kind.LIST: _list,
    Kind.MAP: _map,
    Kind.POOLS: _pools,
    Kind.ULIMITS: _ulimits,
    Kind.RUNTIMES: _runtimes,
    Kind.DRIVER_OPTIONS: _driver_options,
}
_BY_FLAG = {option.flag: option for option in OPTIONS}
_BY_KEY = {option.key: option for option in OPTIONS}
