"""From a request's IPAM to the pools of a network: validation in moby's words, then the choice. And what may be
wished for on one that is there.

Pure: what is taken comes in as an AddressSpace. Source: moby api/types/network (ValidateIPAM), daemon/network.go,
libnetwork/ipams/defaultipam.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import ip_address, ip_network

import msgspec

from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.network import NetworkSettings, NetworkState
from engine.aggregates.values import endpoint_options
from engine.aggregates.values.bridge_options import BRIDGE_NAME, DEFAULT_GATEWAYS
from engine.aggregates.values.config import EndpointConfig, EndpointIPAMConfig
from engine.aggregates.values.ids import NetworkID, short
from engine.aggregates.values.links import parse_link
from engine.aggregates.values.subnet import (
    AddressPool,
    Pool,
    choose_subnet,
    claim_subnet,
    ipam_errors,
    make_pool,
    parse_mac_address,
    unique_local_pool,
)
from engine.api.shapes.networks import CreateNetworkBody, IPAMBody, IPAMConfigBody

ENABLE_IPV4 = "com.docker.network.enable_ipv4"
ENABLE_IPV6 = "com.docker.network.enable_ipv6"
INTERFACE_NAME = re.compile(r"(?!\.{1,2}$)[^\s/:%*\"\\\x00-\x1f]{1,15}")
"""What the kernel takes for a name (net/core/dev.c, dev_valid_name) and nftables for that and nothing else."""
INHIBIT_IPV4 = "com.docker.network.bridge.inhibit_ipv4"
OWN = frozenset({"bridge", "macvlan", "ipvlan"})
"""Drivers of networks that users make."""
ELSEWHERE = frozenset({"overlay"})
"""Drivers of dockerd that this engine has not."""


DUMMIES = {"macvlan": "dm-", "ipvlan": "di-"}
"""By which moby names the networks of a driver in its refusals."""


class AddressSpace(msgspec.Struct, frozen=True, kw_only=True):
    """What a choice depends on. networks: subnets of all networks; host_routes: destinations the host reaches already;
    pools: the configured ones (`base`, `size`), IPv4 and IPv6; host_id: pins the host's own IPv6 pool."""

    networks: tuple[str, ...]
    host_routes: tuple[str, ...]
    pools: tuple[AddressPool, ...]
    host_id: str

    def of(self, *, six: bool) -> tuple[AddressPool, ...]:
        pools = tuple(pool for pool in self.pools if (":" in pool.base) == six)
        return pools if pools or not six else (unique_local_pool(self.host_id),)


def check_drivers(body: CreateNetworkBody) -> None:
    """Raises Rejected for drivers, of networks or addresses, that are not there."""
    driver = body.driver or "bridge"
    if driver in ELSEWHERE:
        words = f"network driver {driver}: not supported by this engine (not implemented)"
        raise Rejected(Reason.NOT_IMPLEMENTED, words)
    if driver in ("host", "null"):
        raise Rejected(Reason.FORBIDDEN, f'only one instance of "{driver}" network is allowed')
    if driver not in OWN:
        raise Rejected(Reason.NOT_FOUND, f"could not find plugin {driver} in v1 plugin registry: plugin not found")
    ipam = body.ipam.driver if body.ipam is not None else ""
    if ipam not in ("", "default"):
        raise Rejected(Reason.NOT_FOUND, f"could not find plugin {ipam} in v1 plugin registry: plugin not found")


def check_parent(body: CreateNetworkBody, networks: Iterable[tuple[NetworkID, NetworkSettings]]) -> None:
    """An interface of the host is the parent of one network of a driver at most. Raises Rejected in moby's words."""
    parent = (body.options or {}).get("parent", "")
    for network_id, settings in networks:
        if parent and body.driver == settings.driver and settings.options.get("parent") == parent:
            name = f"{DUMMIES.get(body.driver, '')}{network_id[:12]}"
            raise Rejected(Reason.SYSTEM, f"network {name} is already using parent interface {parent}")


def families(body: CreateNetworkBody, options: dict[str, str]) -> tuple[bool, bool]:
    """(IPv4, IPv6) as the body says, else the driver options, else IPv4 alone. What the body says leaves `options`."""
    found = []
    for said, option, default in ((body.enable_ipv4, ENABLE_IPV4, True), (body.enable_ipv6, ENABLE_IPV6, False)):
        if said is not None:
            options.pop(option, None)
            found.append(said)
        elif option in options:
            found.append(_boolean(option, options[option]))
        else:
            found.append(default)
    if not any(found):
        raise Rejected(Reason.INVALID, "IPv4 or IPv6 must be enabled")
    return found[0], found[1]


def _boolean(option: str, text: str) -> bool:
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise Rejected(Reason.INVALID, f'driver-opt "{option}" is not a valid bool')


def check_default_gateways(driver: str, pools: Sequence[Pool], *, internal: bool) -> None:
    """A bridge that leads nowhere can not lead elsewhere."""
    named = any(name in pool.auxiliary for pool in pools for name in DEFAULT_GATEWAYS.values())
    if driver == "bridge" and internal and named:
        raise Rejected(Reason.INVALID, "no gateway can be set on an internal bridge network")


def check_bridge(settings: NetworkSettings, networks: Iterable[tuple[NetworkID, NetworkSettings]]) -> None:
    """A bridge belongs to one network, which has one subnet of a family. Raises Rejected(FORBIDDEN) in moby's words."""
    if settings.driver != "bridge" or settings.config_only:
        return
    if len(settings.pools) > len({":" in pool.subnet for pool in settings.pools}):
        raise Rejected(Reason.FORBIDDEN, "bridge driver doesn't support multiple subnets")
    bridge = settings.options.get(BRIDGE_NAME)
    if bridge and not INTERFACE_NAME.fullmatch(bridge):
        raise Rejected(Reason.INVALID, f"invalid bridge name {bridge!r}: no interface can have it")
    for network_id, other in networks:
        if bridge and not other.config_only and bridge == (other.options.get(BRIDGE_NAME) or f"br-{short(network_id)}"):
            raise Rejected(
                Reason.FORBIDDEN,
                f"cannot create network {settings.name} ({bridge}): conflicts with network {network_id} ({bridge}): "
                "networks have same bridge name",
            )


def choose_pools(ipam: IPAMBody, *, enable_ipv4: bool, enable_ipv6: bool, space: AddressSpace) -> tuple[Pool, ...]:
    """The pools of a network, IPv4 first. Raises Rejected: INVALID, FORBIDDEN (overlap)."""
    asked = tuple(ipam.config or ())
    validate(asked, enable_ipv4=enable_ipv4, enable_ipv6=enable_ipv6)
    pools: list[Pool] = []
    for six, enabled in ((False, enable_ipv4), (True, enable_ipv6)):
        if not enabled:
            continue
        mine = [config for config in asked if (":" in config.subnet) == six]
        for config in mine or [IPAMConfigBody()]:
            pools.append(_pool(config, six=six, space=space, others=pools))
    return tuple(pools)


def asked_pools(ipam: IPAMBody, *, enable_ipv4: bool, enable_ipv6: bool) -> tuple[Pool, ...]:
    """What a configuration network keeps: what was asked for, nothing chosen. Raises Rejected(INVALID)."""
    asked = tuple(ipam.config or ())
    validate(asked, enable_ipv4=enable_ipv4, enable_ipv6=enable_ipv6)
    return tuple(
        Pool(
            subnet=config.subnet,
            gateway=config.gateway,
            ip_range=config.ip_range,
            auxiliary=dict(config.auxiliary or {}),
        )
        for config in asked
    )


def validate(asked: Sequence[IPAMConfigBody], *, enable_ipv4: bool, enable_ipv6: bool) -> None:
    """All that is wrong, in one refusal, as `docker network create` shows it."""
    errors: list[str] = []
    for config in asked:
        if not config.subnet:
            errors.append("invalid subnet : invalid CIDR block notation")
            continue
        if ":" in config.subnet and not enable_ipv6:
            continue  # moby ignores IPv6 configuration where IPv6 is off
        errors += ipam_errors(
            config.subnet, gateway=config.gateway, ip_range=config.ip_range, auxiliary=config.auxiliary
        )
    if not errors and not enable_ipv4 and any(config.subnet and ":" not in config.subnet for config in asked):
        errors.append("IPv4 configuration is given and IPv4 is not enabled")
    if errors:
        raise Rejected(Reason.INVALID, "invalid network config:\n" + "\n".join(errors))


def _pool(config: IPAMConfigBody, *, six: bool, space: AddressSpace, others: Sequence[Pool]) -> Pool:
    taken = (*space.networks, *(pool.subnet for pool in others))
    base, _, size = config.subnet.partition("/")
    if config.subnet and not ip_address(base).is_unspecified:
        subnet = claim_subnet(config.subnet, taken)
    else:
        # `0.0.0.0/24` asks for any subnet of that size.
        subnet = choose_subnet((*taken, *space.host_routes), space.of(six=six), size=int(size or 0))
    return make_pool(
        subnet,
        gateway=config.gateway,
        ip_range=config.ip_range,
        auxiliary=config.auxiliary,
    )


def check_connect(network: NetworkState, wanted: EndpointConfig | None) -> None:
    """Whether a container can be connected to a network with these wishes (NET-05). Raises Rejected(INVALID)."""
    if network.settings.driver == "host":
        raise Rejected(
            Reason.INVALID, "container cannot be disconnected from host network or connected to host network"
        )
    if wanted is None:
        return
    if wanted.mac_address:
        parse_mac_address(wanted.mac_address)
    for link in wanted.links or ():
        parse_link(link)
    endpoint_options.check(wanted.driver_opts)
    addresses = wanted.ipam_config
    if addresses is not None and (addresses.ipv4_address or addresses.ipv6_address):
        check_wanted_addresses(network, addresses)
    if network.predefined and wanted.aliases:
        raise Rejected(Reason.INVALID, "network-scoped alias is supported only for containers in user defined networks")


def check_wanted_addresses(network: NetworkState, wanted: EndpointIPAMConfig) -> None:
    """Static addresses need a network that a user made, with a subnet that holds them (NET-11)."""
    if network.predefined:
        raise Rejected(Reason.INVALID, "user specified IP address is supported on user defined networks only")
    for address, family in ((wanted.ipv4_address, "IPv4"), (wanted.ipv6_address, "IPv6")):
        if address and not _holds(network, address, family):
            raise Rejected(Reason.INVALID, "no configured subnet or ip-range contain the IP address " + address)


def _holds(network: NetworkState, address: str, family: str) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        raise Rejected(Reason.INVALID, f"invalid {family} address: {address}") from None
    return any(parsed in ip_network(pool.subnet, strict=False) for pool in network.settings.pools)
