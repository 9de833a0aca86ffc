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


def pair(join: Join, netns_fd: int, bridge: int) -> netlink.Request:
    """A new pair for an endpoint, as it should be but for what is set inside (`configuration`) and on the bridge's port
    (`bridge_port`). bridge: its index."""
    return links.new_veth(
        veth_name(join.endpoint.endpoint_id),
        join.interface,
        netns_fd,
        mtu=networks.mtu_of(join.network),
        master=bridge,
        mac_address=join.endpoint.mac_address,
        up=True,
    )


def attachment(join: Join, veth: int, bridge: int) -> list[netlink.Request]:
    """The host's end of a pair that is there already, as it should be: its name, up, on the bridge (both by index)."""
    name, mtu = veth_name(join.endpoint.endpoint_id), networks.mtu_of(join.network)
    return [links.set_link(veth, name=name, mtu=mtu, master=bridge, up=True), *bridge_port(join)]


def bridge_port(join: Join) -> list[netlink.Request]:
    """What the port of the bridge is told about an endpoint, if anything."""
    isolated = not networks.icc_of(join.network)
    if not isolated and not join.ports:
        return []
    # Where br_netfilter is loaded, a container that asks for its own published port is answered on the bridge,
    # by the port it asked from: the packet never reaches the IP layer.
    return [links.set_bridge_port(veth_name(join.endpoint.endpoint_id), hairpin=bool(join.ports), isolated=isolated)]


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


def identity(join: Join, index: int) -> netlink.Request:
    """Name and addresses of the link layer, of a container's end that was made without them."""
    mtu = networks.mtu_of(join.network)
    return links.set_link(index, name=join.interface, mac_address=join.endpoint.mac_address, mtu=mtu)


def configuration(join: Join, index: int) -> list[netlink.Request]:
    """Addresses, up, default routes: in one send."""
    endpoint = join.endpoint
    requests = []
    if endpoint.ipv4_address:
        requests.append(links.new_address(index, endpoint.ipv4_address, endpoint.ipv4_prefix_length))
    if endpoint.ipv6_address:
        requests.append(links.new_address(index, endpoint.ipv6_address, endpoint.ipv6_prefix_length))
    requests.append(links.set_link(index, up=True))
    if join.default_route:
        gateways = (endpoint.ipv4_gateway, endpoint.ipv6_gateway)
        requests += [links.default_route(index, gateway) for gateway in gateways if gateway]
    return requests
