"""What the configuration makes of the default network: pure.

Owns: `--bridge`, `--bip`, `--fixed-cidr`, `--default-gateway`, their IPv6 kin, `--mtu`, `--icc`, `--ip`, ... What no
option names stays as it was at the last start, as a docker0 that is there keeps its address in moby.
Source: moby daemon/daemon_unix.go (initBridgeDriver, getDefaultBridgeIPAMConf, selectBIP).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from engine.aggregates.network import NetworkSettings
from engine.aggregates.values.bridge_options import BRIDGE_NAME, DEFAULT_GATEWAYS, HOST_BINDING
from engine.aggregates.values.subnet import (
    DEFAULT_NETWORK,
    AddressPool,
    Pool,
    choose_subnet,
    make_pool,
    unique_local_pool,
)
from engine.config import ConfigError, DaemonConfig

DEFAULT_BRIDGE = "docker0"
_LINK_LOCAL = ipaddress.IPv6Network("fe80::/64")
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


def settings(
    config: DaemonConfig,
    taken: Sequence[str],
    *,
    host_id: str = "",
    before: Sequence[Pool] = (),
    given: Sequence[str] = (),
) -> NetworkSettings:
    """taken: subnets of others. before: the pools that the network has had. given: the addresses of the bridge that
    `--bridge` names. Raises Rejected when no pool is free, ConfigError."""
    pools = [_pool(config, 4, taken, host_id, before, given)]
    if config.ipv6:
        pools.append(_pool(config, 6, taken, host_id, before, given))
    return NetworkSettings(
        name=DEFAULT_NETWORK,
        driver="bridge",
        pools=tuple(pools),
        enable_ipv6=config.ipv6,
        options={
            "com.docker.network.bridge.default_bridge": "true",
            "com.docker.network.bridge.enable_icc": _word(config.icc),
            "com.docker.network.bridge.enable_ip_masquerade": _word(config.ip_masq),
            HOST_BINDING: config.ip,
            BRIDGE_NAME: config.bridge or DEFAULT_BRIDGE,
            "com.docker.network.driver.mtu": str(config.mtu),
        },
    )


def _pool(
    config: DaemonConfig, version: int, taken: Sequence[str], host_id: str, before: Sequence[Pool], given: Sequence[str]
) -> Pool:
    own, fixed = (config.bip, config.fixed_cidr) if version == 4 else (config.bip6, config.fixed_cidr_v6)
    ip_range = str(ipaddress.ip_network(fixed, strict=False)) if fixed else ""
    address = _own_address(config, version, own, ip_range, before, given)
    subnet = str(address.network) if address is not None else ip_range
    if not subnet:
        subnet = choose_subnet(taken, _pools(config, version, host_id))
    gateway = str(address.ip) if address is not None else ""
    return make_pool(subnet, gateway=gateway, ip_range=ip_range, auxiliary=_leads_to(config, version, subnet, gateway))


def _leads_to(config: DaemonConfig, version: int, subnet: str, gateway: str) -> dict[str, str]:
    """The address that `--default-gateway` names, which is nobody else's: one of the pool's auxiliary ones."""
    wanted = config.default_gateway if version == 4 else config.default_gateway_v6
    if not wanted:
        return {}
    address, name = ipaddress.ip_address(wanted), DEFAULT_GATEWAYS[version]
    if address not in ipaddress.ip_network(subnet):
        raise ConfigError(f"auxiliary address: ({name}:{wanted}) must belong to the master pool: {subnet}")
    if gateway and address == ipaddress.ip_address(gateway):
        raise ConfigError(f"failed to allocate secondary ip address ({name}:{wanted}): Address already in use")
    return {name: str(address)}


def _own_address(
    config: DaemonConfig, version: int, own: str, fixed: str, before: Sequence[Pool], given: Sequence[str]
) -> Interface | None:
    """The bridge's address: as configured, else one it has that fits what is configured; None for a new one."""
    if own:
        interface = ipaddress.ip_interface(own)
        if fixed and not _contains(interface.network, fixed):
            raise ConfigError(f"invalid {_option(version)}: {fixed} is outside the default bridge's subnet {own}")
        return interface
    if config.bridge:
        return _given_address(config.bridge, version, fixed, given)
    for pool in before:
        subnet = ipaddress.ip_network(pool.subnet)
        if subnet.version == version and (not fixed or _contains(subnet, fixed)):
            return ipaddress.ip_interface(f"{pool.gateway}/{subnet.prefixlen}")
    return None


def _given_address(bridge: str, version: int, fixed: str, given: Sequence[str]) -> Interface:
    addresses = [each for each in map(ipaddress.ip_interface, given) if each.version == version]
    addresses = [each for each in addresses if each.ip not in _LINK_LOCAL]
    if not addresses:
        raise ConfigError(f"bridge {bridge} has no IPv{version} address configured")
    found = next((each for each in addresses if fixed and _contains(each.network, fixed)), addresses[0])
    if fixed and not _contains(found.network, fixed):
        raise ConfigError(
            f"{_option(version)}={fixed} is outside any subnet implied by addresses on the user-managed default bridge"
        )
    return found


def _option(version: int) -> str:
    return "fixed-cidr" if version == 4 else "fixed-cidr-v6"


def _contains(subnet: ipaddress.IPv4Network | ipaddress.IPv6Network, fixed: str) -> bool:
    inner = ipaddress.ip_network(fixed)
    return subnet.version == inner.version and inner.prefixlen >= subnet.prefixlen and inner.network_address in subnet


def _pools(config: DaemonConfig, version: int, host_id: str) -> list[AddressPool]:
    pools = [AddressPool(base=pool.base, size=pool.size) for pool in config.default_address_pools]
    fitting = [pool for pool in pools if (":" in pool.base) == (version == 6)]
    return fitting or ([unique_local_pool(host_id)] if version == 6 else [])


def _word(flag: bool) -> str:
    return "true" if flag else "false"
