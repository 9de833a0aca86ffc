"""What an endpoint is to the kernel: its veth, how both ends are set, and where its published ports lead. Pure.

Refuses to know: sockets, threads, and what is there already (sandboxes.py, inspector.py).
"""

from __future__ import annotations

import ipaddress

from engine.aggregates.values.bridge_options import ROUTED
from engine.aggregates.values.endpoints import PublishedPort
from engine.drivers.linux.network import links, netlink, networks
from engine.drivers.linux.network.elements import Publication
from engine.drivers.linux.network.networks import SUBLINK_DRIVERS
from engine.drivers.ports.network import Join

LINKED = frozenset({"bridge", *SUBLINK_DRIVERS})
"""Drivers that give a container an interface."""


def attachment(join: Join, veth: int, bridge: int) -> list[netlink.Request]:
    """The host's end of an endpoint as it should be: its name, up, on the bridge (both by index)."""
    name = veth_name(join.endpoint.endpoint_id)
    requests = [links.set_link(veth, name=name, mtu=networks.mtu_of(join.network), master=bridge, up=True)]
    isolated = not networks.icc_of(join.network)
    if isolated or join.ports:
        # Where br_netfilter is loaded, a container that asks for its own published port is answered on the bridge,
        # by the port it asked from: the packet never reaches the IP layer.
        requests.append(links.set_bridge_port(name, hairpin=bool(join.ports), isolated=isolated))
    return requests


def is_sublink(join: Join) -> bool:
    return join.network.driver in SUBLINK_DRIVERS


def veth_name(endpoint_id: str) -> str:
    return f"veth{endpoint_id[:7]}"


def publications_of(join: Join) -> list[Publication]:
    """The elements of an endpoint's ports: those whose host address and endpoint share a family. Internal networks
    publish nothing, as in moby, and containers that are on the wire themselves need nothing published."""
    if join.network.internal or is_sublink(join):
        return []
    found: dict[str, Publication] = {}
    for port in join.ports:
        address = _address_of_family(join, _version(port.host_ip))
        routed = is_routed(join, port)
        if address and (port.host_port or routed):
            publication = Publication(port=port, address=address, routed=routed)
            found.setdefault(publication.place, publication)
    return list(found.values())


def is_routed(join: Join, port: PublishedPort) -> bool:
    """Whether a port is reached at the container's own address, because the network's is routed by others."""
    version = _version(target_of(join, port) or port.host_ip)
    return join.network.driver == "bridge" and networks.gateway_mode(join.network, version) == ROUTED


def needs_relay(join: Join, port: PublishedPort) -> bool:
    """IPv6 addresses are relayed: `::1` can not be DNATed, and a container may have no IPv6 address; DNAT, where it can
    serve the packet, comes before. Likewise an IPv4 host address of a container without IPv4."""
    return _version(port.host_ip) == 6 or not join.endpoint.ipv4_address


def target_of(join: Join, port: PublishedPort) -> str:
    version = _version(port.host_ip)
    return _address_of_family(join, version) or _address_of_family(join, 10 - version)


def _address_of_family(join: Join, version: int) -> str:
    return join.endpoint.ipv4_address if version == 4 else join.endpoint.ipv6_address


def _version(address: str) -> int:
    return ipaddress.ip_address(address).version


def configuration(join: Join, index: int, mtu: int) -> list[netlink.Request]:
    """Name, addresses, up, default routes: in one send."""
    endpoint = join.endpoint
    requests = [links.set_link(index, name=join.interface, mac_address=endpoint.mac_address, mtu=mtu)]
    if endpoint.ipv4_address:
        requests.append(links.new_address(index, endpoint.ipv4_address, endpoint.ipv4_prefix_length))
    if endpoint.ipv6_address:
        requests.append(links.new_address(index, endpoint.ipv6_address, endpoint.ipv6_prefix_length))
    requests.append(links.set_link(index, up=True))
    if join.default_route:
        gateways = (endpoint.ipv4_gateway, endpoint.ipv6_gateway)
        requests += [links.default_route(index, gateway) for gateway in gateways if gateway]
    return requests
