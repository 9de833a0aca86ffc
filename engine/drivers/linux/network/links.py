"""Routing-netlink requests for bridges, veth pairs, addresses and routes, and reading links back.

Pure encoders, and a few readers over a socket. Source: rtnetlink(7), linux/if_link.h.
"""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import os
import socket
import struct
from collections.abc import Sequence

import msgspec

from engine.drivers.linux.network import netlink
from engine.drivers.linux.network.netlink import ACK, CREATE, DUMP, EXCLUSIVE, REQUEST, Request

_NEWLINK, _DELLINK, _GETLINK, _NEWADDR, _DELADDR, _GETADDR, _NEWROUTE, _DELROUTE, _GETROUTE = (
    16,
    17,
    18,
    20,
    21,
    22,
    24,
    25,
    26,
)
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER, _IFLA_LINKINFO = 1, 3, 4, 5, 10, 18
_IFLA_IFALIAS, _IFLA_NET_NS_FD = 20, 28
_INFO_KIND, _INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_INFO_SLAVE_KIND, _INFO_SLAVE_DATA = 4, 5
_IFLA_VLAN_ID = 1
_BRPORT_MODE, _BRPORT_ISOLATED = 4, 33
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, _IFA_FLAGS = 1, 2, 4, 8
_IFA_F_NODAD = 0x02
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_TABLE = 1, 4, 5, 15
_UP = 1
_MAIN_TABLE, _BOOT_PROTOCOL, _UNIVERSE, _UNICAST = 254, 3, 0, 1
_NAME_BYTES_MAX = 15
_SIOCGIFINDEX = 0x8933


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """A network interface as read back. kind: `bridge`, `veth`, "" for hardware; peer: of a
    veth, the other end's index in its own namespace; master: an index or 0."""

    index: int
    name: str
    kind: str = ""
    peer: int = 0
    alias: str = ""
    master: int = 0
    mtu: int = 0
    up: bool = False


def _head(index: int = 0, flags: int = 0, change: int = 0, family: int = 0) -> bytes:
    return struct.pack("BxHiII", family, 0, index, flags, change)


def mac_bytes(mac_address: str) -> bytes:
    return bytes.fromhex(mac_address.replace(":", ""))


def new_bridge(name: str, mtu: int = 0) -> Request:
    """A bridge, still down. Its MAC address is the lowest of its ports' unless `set_link` gives it one of its own."""
    body = _head() + netlink.text(_IFLA_IFNAME, name)
    if mtu:
        body += netlink.uint32(_IFLA_MTU, mtu)
    body += netlink.nested(_IFLA_LINKINFO, netlink.text(_INFO_KIND, "bridge"))
    return Request(_NEWLINK, REQUEST | ACK | CREATE | EXCLUSIVE, body)


def new_veth(
    name: str, peer: str, netns_fd: int, *, mtu: int = 0, master: int = 0, mac_address: str = "", up: bool = False
) -> Request:
    """A veth pair: `name` here (`%d` in it is a number the kernel chooses), `peer` inside the namespace.

    mtu: of both. master, up: of the end here; the other one is down. mac_address: the other end's. All of it is one
    request because each waits for the RTNL lock, which all namespaces of the host share."""
    inside = _head() + netlink.text(_IFLA_IFNAME, peer) + netlink.uint32(_IFLA_NET_NS_FD, netns_fd)
    outside = _head(flags=_UP if up else 0, change=_UP if up else 0) + netlink.text(_IFLA_IFNAME, name)
    if mac_address:
        inside += netlink.attribute(_IFLA_ADDRESS, mac_bytes(mac_address))
    if mtu:
        inside += netlink.uint32(_IFLA_MTU, mtu)
        outside += netlink.uint32(_IFLA_MTU, mtu)
    if master:
        outside += netlink.uint32(_IFLA_MASTER, master)
    info = netlink.nested(
        _IFLA_LINKINFO,
        netlink.text(_INFO_KIND, "veth"),
        netlink.nested(_INFO_DATA, netlink.attribute(_VETH_INFO_PEER, inside)),
    )
    return Request(_NEWLINK, REQUEST | ACK | CREATE | EXCLUSIVE, outside + info)


def new_dummy(name: str) -> Request:
    """A link to nowhere, down."""
    body = _head() + netlink.text(_IFLA_IFNAME, name)
    body += netlink.nested(_IFLA_LINKINFO, netlink.text(_INFO_KIND, "dummy"))
    return Request(_NEWLINK, REQUEST | ACK | CREATE | EXCLUSIVE, body)


def new_vlan(name: str, under: int, number: int) -> Request:
    """VLAN `number` of another link (by index), down."""
    identity = netlink.attribute(_IFLA_VLAN_ID, struct.pack("H", number))
    body = _head() + netlink.text(_IFLA_IFNAME, name) + netlink.uint32(_IFLA_LINK, under)
    body += netlink.nested(_IFLA_LINKINFO, netlink.text(_INFO_KIND, "vlan"), netlink.nested(_INFO_DATA, identity))
    return Request(_NEWLINK, REQUEST | ACK | CREATE | EXCLUSIVE, body)


def new_sublink(name: str, parent: int, kind: str, data: bytes, netns_fd: int) -> Request:
    """A link of `kind` (macvlan, ipvlan) on another one (by index), made in a namespace, down."""
    body = _head() + netlink.text(_IFLA_IFNAME, name) + netlink.uint32(_IFLA_LINK, parent)
    body += netlink.uint32(_IFLA_NET_NS_FD, netns_fd)
    body += netlink.nested(_IFLA_LINKINFO, netlink.text(_INFO_KIND, kind), netlink.nested(_INFO_DATA, data))
    return Request(_NEWLINK, REQUEST | ACK | CREATE | EXCLUSIVE, body)


def set_bridge_port(name: str, *, isolated: bool, hairpin: bool | None = None) -> Request:
    """hairpin: frames may leave by the port they came from; None leaves it as it is. isolated: none go to other
    isolated ports of the bridge."""
    flags = netlink.attribute(_BRPORT_ISOLATED, bytes([isolated]))
    if hairpin is not None:
        flags += netlink.attribute(_BRPORT_MODE, bytes([hairpin]))
    info = netlink.nested(
        _IFLA_LINKINFO, netlink.text(_INFO_SLAVE_KIND, "bridge"), netlink.nested(_INFO_SLAVE_DATA, flags)
    )
    return Request(_NEWLINK, REQUEST | ACK, _head() + netlink.text(_IFLA_IFNAME, name) + info)


def set_link(
    index: int,
    *,
    name: str = "",
    alias: str | None = None,
    mac_address: str = "",
    mtu: int = 0,
    master: int = 0,
    up: bool = False,
) -> Request:
    """Change what is given; a name only while the link is down. `up` comes last, whatever else is in the request."""
    body = _head(index, _UP if up else 0, _UP if up else 0)
    if name:
        body += netlink.text(_IFLA_IFNAME, name)
    if master:
        body += netlink.uint32(_IFLA_MASTER, master)
    if mac_address:
        body += netlink.attribute(_IFLA_ADDRESS, mac_bytes(mac_address))
    if mtu:
        body += netlink.uint32(_IFLA_MTU, mtu)
    if alias is not None:
        body += netlink.attribute(_IFLA_IFALIAS, alias.encode())
    return Request(_NEWLINK, REQUEST | ACK, body)


def mark(name: str, alias: str, mac_address: str = "") -> Request:
    """Say whose a link is, by its name: sent together with the request that makes it, so that an engine which is killed
    leaves no link that is nobody's."""
    body = _head() + netlink.text(_IFLA_IFNAME, name) + netlink.attribute(_IFLA_IFALIAS, alias.encode())
    if mac_address:
        body += netlink.attribute(_IFLA_ADDRESS, mac_bytes(mac_address))
    return Request(_NEWLINK, REQUEST | ACK, body)


def delete_link_at(index: int) -> Request:
    return Request(_DELLINK, REQUEST | ACK, _head(index))


def new_address(index: int, address: str, prefix_length: int) -> Request:
    """Add an address. Duplicate address detection is off: the log allocates each address once, and a tentative IPv6
    address could not be bound for a second."""
    packed = ipaddress.ip_address(address).packed
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    body = struct.pack("BBBBi", family, prefix_length, 0, 0, index)
    body += netlink.attribute(_IFA_LOCAL, packed) + netlink.attribute(_IFA_ADDRESS, packed)
    if family == socket.AF_INET and prefix_length < 31:
        broadcast = ipaddress.IPv4Interface(f"{address}/{prefix_length}").network.broadcast_address
        body += netlink.attribute(_IFA_BROADCAST, broadcast.packed)
    if family == socket.AF_INET6:
        body += netlink.uint32(_IFA_FLAGS, _IFA_F_NODAD)
    return Request(_NEWADDR, REQUEST | ACK | CREATE | EXCLUSIVE, body)


def delete_address(index: int, address: str, prefix_length: int) -> Request:
    packed = ipaddress.ip_address(address).packed
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    body = struct.pack("BBBBi", family, prefix_length, 0, 0, index) + netlink.attribute(_IFA_LOCAL, packed)
    return Request(_DELADDR, REQUEST | ACK, body)


def default_route(index: int, gateway: str) -> Request:
    """The default route via `gateway`, in place of one that is there."""
    return Request(_NEWROUTE, REQUEST | ACK | CREATE | 0x100, _route(index, gateway))


def delete_default_route(index: int, gateway: str) -> Request:
    return Request(_DELROUTE, REQUEST | ACK, _route(index, gateway))


def _route(index: int, gateway: str) -> bytes:
    packed = ipaddress.ip_address(gateway).packed
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    body = struct.pack("BBBBBBBBI", family, 0, 0, 0, _MAIN_TABLE, _BOOT_PROTOCOL, _UNIVERSE, _UNICAST, 0)
    return body + netlink.attribute(_RTA_GATEWAY, packed) + netlink.uint32(_RTA_OIF, index)


def index_of(route: socket.socket, name: str) -> int:
    """The index of a link in the socket's namespace, without waiting for the RTNL lock. Raises OSError (ENODEV)."""
    if len(name.encode()) > _NAME_BYTES_MAX:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), name)
    request = struct.pack("16si20x", name.encode(), 0)
    index: int = struct.unpack_from("16xi", fcntl.ioctl(route, _SIOCGIFINDEX, request))[0]
    return index


def find(route: socket.socket, name: str) -> Link | None:
    """The link of that name in the socket's namespace, or None."""
    if len(name.encode()) > _NAME_BYTES_MAX:
        return None
    try:
        answers = netlink.query(route, Request(_GETLINK, REQUEST | ACK, _head() + netlink.text(_IFLA_IFNAME, name)))
    except netlink.Refused as refused:
        if refused.errno == errno.ENODEV:
            return None
        raise
    return _link(answers[0][1]) if answers else None


def all_links(route: socket.socket) -> Sequence[Link]:
    answers = netlink.query(route, Request(_GETLINK, REQUEST | DUMP, _head()))
    return [_link(body) for kind, body in answers if kind == _NEWLINK]


def addresses_of(route: socket.socket, index: int) -> list[tuple[str, int]]:
    """(address, prefix length) of a link, without IPv6 link-local ones."""
    return all_addresses(route).get(index, [])


def all_addresses(route: socket.socket) -> dict[int, list[tuple[str, int]]]:
    """By the index of the link: (address, prefix length), without IPv6 link-local ones."""
    found: dict[int, list[tuple[str, int]]] = {}
    for kind, body in netlink.query(route, Request(_GETADDR, REQUEST | DUMP, struct.pack("BBBBi", 0, 0, 0, 0, 0))):
        _, prefix_length, _, scope, owner = struct.unpack_from("BBBBi", body)
        if kind != _NEWADDR or scope == 253:
            continue
        read = netlink.attributes(body, 8)
        packed = read.get(_IFA_LOCAL) or read.get(_IFA_ADDRESS)
        if packed:
            found.setdefault(owner, []).append((str(ipaddress.ip_address(packed)), prefix_length))
    return found


def route_destinations(route: socket.socket) -> list[str]:
    """Destinations (CIDR) of the unicast routes in the main table, without the default route: what a new subnet must
    not overlap."""
    found = []
    head = struct.pack("BBBBBBBBI", 0, 0, 0, 0, 0, 0, 0, 0, 0)
    for kind, body in netlink.query(route, Request(_GETROUTE, REQUEST | DUMP, head)):
        family, prefix_length, _, _, table, _, _, route_type = struct.unpack_from("BBBBBBBB", body)
        if kind != _NEWROUTE or route_type != _UNICAST or not prefix_length or table != _MAIN_TABLE:
            continue
        packed = netlink.attributes(body, 12).get(_RTA_DST, b"")
        if family in (socket.AF_INET, socket.AF_INET6) and packed:
            found.append(f"{ipaddress.ip_address(packed)}/{prefix_length}")
    return found


def _link(body: bytes) -> Link:
    _, _, index, flags, _ = struct.unpack_from("BxHiII", body)
    read = netlink.attributes(body, 16)
    info = netlink.attributes(read.get(_IFLA_LINKINFO, b""))
    return Link(
        index=index,
        name=_text(read.get(_IFLA_IFNAME)),
        kind=_text(info.get(_INFO_KIND)),
        peer=struct.unpack("I", read[_IFLA_LINK])[0] if _IFLA_LINK in read else 0,
        alias=_text(read.get(_IFLA_IFALIAS)),
        master=struct.unpack("I", read[_IFLA_MASTER])[0] if _IFLA_MASTER in read else 0,
        mtu=struct.unpack("I", read[_IFLA_MTU])[0] if _IFLA_MTU in read else 0,
        up=bool(flags & _UP),
    )


def _text(payload: bytes | None) -> str:
    return payload.rstrip(b"\0").decode(errors="replace") if payload else ""
