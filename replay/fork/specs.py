"""Options of `docker run` that have a grammar of their own: `-p`, `--network`, `--mount`, `-v`.

Pure. What they mean is decided elsewhere (values/ports.py, mount_rules.py, new_container.py); here words become what
the CLI would send. Source: docker/cli opts/{port,network,mount}.go, cli/command/container/opts.go; go-connections nat.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec.structs import replace

from engine.aggregates.decider import Rejected
from engine.aggregates.values.config import (
    BindOptions,
    EndpointConfig,
    EndpointIPAMConfig,
    HostConfig,
    Mount,
    PortBinding,
    VolumeOptions,
)
from engine.aggregates.values.ports import PortRange, parse_port_range
from replay.fork.options import WishError

Endpoints = Mapping[str, EndpointConfig | None]
"""By the name of a network."""
_LONG_SYNTAX = re.compile(r"\w+=")


def published(specs: Iterable[str]) -> Mapping[str, tuple[PortBinding, ...]]:
    """`-p [[IP:][HOST]:]CONTAINER[/PROTOCOL]`, ports or ranges, or `target=80,published=8080`: by container port.
    Of two ranges each port has its own; a range for one container port means any of it. Raises WishError."""
    found: dict[str, tuple[PortBinding, ...]] = {}
    for spec in specs:
        address, host, container = _parts(_short(spec))
        inside = _range(container, f"invalid containerPort: {container}")
        outside = _range(host, f"invalid hostPort: {host}") if host else None
        length = inside.last - inside.first
        if outside is not None and length and outside.last - outside.first != length:
            raise WishError(f"invalid ranges specified for container and host Ports: {container} and {host}")
        for number in inside:
            binding = PortBinding(host_ip=address, host_port=_host_port(outside, inside, number))
            port = f"{number}/{inside.protocol}"
            found[port] = (*found.get(port, ()), binding)
    return found


def _host_port(outside: PortRange | None, inside: PortRange, number: int) -> str:
    if outside is None:
        return ""
    if inside.first == inside.last and outside.first != outside.last:
        return f"{outside.first}-{outside.last}"
    return str(outside.first + number - inside.first)


def _short(spec: str) -> str:
    """The long syntax in the short one."""
    if "=" not in spec:
        return spec
    said = {"published": "", "target": "", "protocol": "tcp", **_fields(spec.split(","), f"publish {spec!r}")}
    if unknown := said.keys() - {"published", "target", "protocol", "mode"}:
        raise WishError(f"publish {spec!r}: unknown option {sorted(unknown)[0]!r}")
    return f"{said['published']}:{said['target']}/{said['protocol']}"


def _parts(spec: str) -> tuple[str, str, str]:
    """(address, host port, container port): an IPv6 address may stand in brackets."""
    head, _, container = spec.rpartition(":")
    address, _, host = head.rpartition(":")
    if not container.partition("/")[0]:
        raise WishError(f"no port specified: {spec}<empty>")
    return address.removeprefix("[").removesuffix("]"), host, container


def _range(text: str, complaint: str) -> PortRange:
    try:
        return parse_port_range(text)
    except Rejected as error:
        raise WishError(complaint) from error


def attached(spec: str) -> tuple[str, EndpointConfig]:
    """`--network NAME` or `--network name=NAME,alias=...,ip=...`. Raises WishError."""
    if not _LONG_SYNTAX.match(spec):
        return spec, EndpointConfig()
    name, aliases, config, addresses = "", [], EndpointConfig(), EndpointIPAMConfig()
    for field in _row(spec):
        key, _, value = (part.strip() for part in field.partition("="))
        match key.lower():
            case "name":
                name = value
            case "alias":
                aliases.append(value)
            case "ip":
                addresses = replace(addresses, ipv4_address=value)
            case "ip6":
                addresses = replace(addresses, ipv6_address=value)
            case "mac-address":
                config = replace(config, mac_address=value)
            case "gw-priority" if re.fullmatch(r"-?[0-9]+", value):
                config = replace(config, gw_priority=int(value))
            case _:
                raise WishError(f"network {spec!r}: {field!r} is not known here")
    if not name:
        raise WishError("network name/id is not specified")
    return name, replace(
        config, aliases=tuple(aliases) or None, ipam_config=addresses if addresses != EndpointIPAMConfig() else None
    )


def endpoints(networks: Iterable[tuple[str, EndpointConfig]], common: EndpointConfig) -> tuple[str, Endpoints]:
    """(network mode, endpoints). common: what `--ip`, `--network-alias` and `--link` say, of the first network. Raises
    WishError in the CLI's words."""
    wished: dict[str, EndpointConfig] = {}
    for name, config in networks:
        if name in wished:
            raise WishError(f"network {name!r} is specified multiple times")
        wished[name] = config
    mode = next(iter(wished), "default")
    if len({_is_users(name) for name in wished}) > 1:
        raise WishError("conflicting options: cannot attach both user-defined and non-user-defined network-modes")
    first = wished.get(mode, EndpointConfig())
    wished[mode] = _together(first, common if _is_users(mode) else replace(common, links=None))
    for name, config in wished.items():
        if config.aliases and not _is_users(name):
            raise WishError("network-scoped aliases are only supported for user-defined networks")
    # Go writes maps by name; that is the order in which an engine hears of them.
    return mode, {name: wished[name] for name in sorted(wished) if len(wished) > 1 or wished[name] != EndpointConfig()}


def _is_users(mode: str) -> bool:
    return HostConfig(network_mode=mode).on_user_network


def _together(first: EndpointConfig, common: EndpointConfig) -> EndpointConfig:
    one, other = first.ipam_config or EndpointIPAMConfig(), common.ipam_config or EndpointIPAMConfig()
    for said, words in (
        (first.aliases and common.aliases, "--network-alias and per-network alias"),
        (one.ipv4_address and other.ipv4_address, "--ip and per-network IPv4 address"),
        (one.ipv6_address and other.ipv6_address, "--ip6 and per-network IPv6 address"),
    ):
        if said:
            raise WishError(f"conflicting options: cannot specify both {words}")
    addresses = EndpointIPAMConfig(
        ipv4_address=one.ipv4_address or other.ipv4_address, ipv6_address=one.ipv6_address or other.ipv6_address
    )
    return replace(
        first,
        aliases=first.aliases or common.aliases,
        links=common.links,
        ipam_config=addresses if addresses != EndpointIPAMConfig() else None,
    )


def mounted(spec: str) -> Mount:
    """`--mount type=bind,source=/a,target=/b,readonly`; without a type a volume. Raises WishError."""
    mount = Mount(type="volume")
    for field in _row(spec):
        key, given, value = field.partition("=")
        match key.lower():
            case "type" if value in ("bind", "volume", "tmpfs"):
                mount = replace(mount, type=value)
            case "source" | "src":
                mount = replace(mount, source=_absolute(value))
            case "target" | "dst" | "destination":
                mount = replace(mount, target=value)
            case "readonly" | "ro":
                mount = replace(mount, read_only=_boolean(field, given, value))
            case "bind-propagation":
                mount = _with_bind(mount, propagation=value)
            case "bind-create-src":
                mount = _with_bind(mount, create_mountpoint=_boolean(field, given, value))
            case "volume-nocopy":
                options = mount.volume_options or VolumeOptions()
                mount = replace(mount, volume_options=replace(options, no_copy=_boolean(field, given, value)))
            case _:
                raise WishError(f"mount {spec!r}: {field!r} is not known here")
    return mount


def _with_bind(mount: Mount, **options: Any) -> Mount:
    return replace(mount, bind_options=replace(mount.bind_options or BindOptions(), **options))


def _boolean(field: str, given: str, value: str) -> bool:
    if given and value not in ("1", "true", "0", "false"):
        raise WishError(f"invalid value for {field!r}: it is true or false")
    return not given or value in ("1", "true")


def volumes(specs: Iterable[str]) -> tuple[tuple[str, ...], Mapping[str, dict[str, Any]]]:
    """`-v`: (binds and named volumes, places of volumes without a name). Raises WishError."""
    binds = tuple(_absolute(spec) for spec in specs if ":" in spec)
    return binds, {spec: {} for spec in specs if ":" not in spec}


def _absolute(source: str) -> str:
    if source.startswith("."):
        raise WishError(f"{source!r}: a path of the host is told from its root on: nobody knows where this one begins")
    return source


def _row(spec: str) -> list[str]:
    return next(csv.reader([spec]), [])


def _fields(fields: Iterable[str], what: str) -> Mapping[str, str]:
    found = {}
    for field in fields:
        name, said, value = field.partition("=")
        if not said or not name:
            raise WishError(f"{what}: invalid format (should be name=value but got {field!r})")
        found[name] = value
    return found
