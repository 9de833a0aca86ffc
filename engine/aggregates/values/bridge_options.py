"""Options of bridge networks that decide what publishing means, by Docker's names.

Source: moby daemon/libnetwork/drivers/bridge/labels.go.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from engine.aggregates.values.ports import ANY_ADDRESSES
from engine.aggregates.values.subnet import Pool

BRIDGE_NAME = "com.docker.network.bridge.name"
HOST_BINDING = "com.docker.network.bridge.host_binding_ipv4"
"""The host's address of ports that are published at none; in spite of its name it may be an IPv6 address."""
GATEWAY_MODES = {
    4: "com.docker.network.bridge.gateway_mode_ipv4",
    6: "com.docker.network.bridge.gateway_mode_ipv6",
}
ROUTED = "routed"
DEFAULT_GATEWAYS = {4: "DefaultGatewayIPv4", 6: "DefaultGatewayIPv6"}
"""Names of auxiliary addresses: where the default routes of containers lead, if not to the bridge."""


def host_addresses(options: Mapping[str, str]) -> tuple[str, ...]:
    """Where a port is published that names no address of the host: everywhere, or as the network says."""
    text = options.get(HOST_BINDING, "")
    if not text or text == ANY_ADDRESSES[0]:
        return ANY_ADDRESSES
    return (str(ipaddress.ip_address(text)),)


def default_gateway(pool: Pool) -> str:
    """Where the default routes of containers lead that have an address of this pool; "" for nowhere."""
    return pool.auxiliary.get(DEFAULT_GATEWAYS[6 if ":" in pool.subnet else 4], pool.gateway)


def is_routed(options: Mapping[str, str], version: int) -> bool:
    """Whether others know the way to the network's addresses of this family: no port of the host leads there."""
    return options.get(GATEWAY_MODES[version], "") == ROUTED
