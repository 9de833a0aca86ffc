"""Published ports as elements of the firewall's maps: raw nfnetlink messages, and reading the maps back.

Owns: the byte layout of keys and data (each part of a concatenation padded to four bytes) and its transactions.
Refuses to know: the rules that look the maps up (ruleset.py), and which port is whose.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Sequence

import msgspec

from engine.aggregates.values.endpoints import PublishedPort
from engine.drivers.linux.network import netlink
from engine.drivers.linux.network.netlink import ACK, CREATE, DUMP, EXCLUSIVE, REQUEST, Request
from engine.drivers.linux.network.ruleset import TABLE

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}
ANY = {4: "0.0.0.0", 6: "::"}  # noqa: S104 - a key of the maps, nothing is bound here

_NEWSETELEM, _GETSETELEM, _DELSETELEM = (10 << 8) | 12, (10 << 8) | 13, (10 << 8) | 14
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS = 1, 2, 3
_LIST_ELEM, _ELEM_KEY, _ELEM_DATA, _DATA_VALUE = 1, 1, 2, 1


class Publication(msgspec.Struct, frozen=True, kw_only=True):
    """One element: packets to `port` go to `address` (a container's), which is of the same family as port.host_ip."""

    port: PublishedPort
    address: str

    @property
    def version(self) -> int:
        return ipaddress.ip_address(self.address).version


def _location(port: PublishedPort) -> tuple[int, str, bytes]:
    """(address family, map, key) of a published port."""
    host = ipaddress.ip_address(port.host_ip)
    family = socket.AF_INET if host.version == 4 else socket.AF_INET6
    service = struct.pack(">B3xH2x", PROTOCOLS[port.protocol], port.host_port)
    if port.host_ip == ANY[host.version]:
        return family, "published_any", service
    return family, "published_at", host.packed + service


def _request(kind: int, flags: int, port: PublishedPort, address: str = "") -> Request:
    family, map_name, key = _location(port)
    element = netlink.nested(_ELEM_KEY, netlink.attribute(_DATA_VALUE, key))
    if address:
        target = ipaddress.ip_address(address).packed + struct.pack(">H2x", port.container_port)
        element += netlink.nested(_ELEM_DATA, netlink.attribute(_DATA_VALUE, target))
    body = struct.pack(">BBH", family, 0, 0)
    body += netlink.text(_LIST_TABLE, TABLE) + netlink.text(_LIST_SET, map_name)
    body += netlink.nested(_LIST_ELEMENTS, netlink.nested(_LIST_ELEM, element))
    return Request(kind, REQUEST | ACK | flags, body)


def publish(netfilter: socket.socket, publications: Sequence[Publication]) -> None:
    """Add elements, all or none; replace those a crashed run left behind. Idempotent."""
    if not publications:
        return
    added = [_request(_NEWSETELEM, CREATE | EXCLUSIVE, each.port, each.address) for each in publications]
    try:
        netlink.batch(netfilter, added)
    except netlink.Refused as refused:
        if refused.errno != errno.EEXIST:
            raise
    else:
        return
    # The log owns every key, so an element that is there is stale, or this very one after an engine restart.
    withdraw(netfilter, [each.port for each in publications])
    netlink.batch(netfilter, added)


def withdraw(netfilter: socket.socket, ports: Sequence[PublishedPort]) -> None:
    """Delete elements. Those that are gone already are no error."""
    if not ports:
        return
    deleted = [_request(_DELSETELEM, 0, port) for port in ports]
    try:
        netlink.batch(netfilter, deleted)
    except netlink.Refused as refused:
        if refused.errno != errno.ENOENT:
            raise
    else:
        return
    for request in deleted:
        try:
            netlink.batch(netfilter, [request])
        except netlink.Refused as refused:
            if refused.errno != errno.ENOENT:
                raise


def published(netfilter: socket.socket, version: int) -> list[Publication]:
    """What the maps of one family hold now."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    found: list[Publication] = []
    for map_name in ("published_any", "published_at"):
        body = struct.pack(">BBH", family, 0, 0)
        body += netlink.text(_LIST_TABLE, TABLE) + netlink.text(_LIST_SET, map_name)
        try:
            answers = netlink.query(netfilter, Request(_GETSETELEM, REQUEST | DUMP, body))
        except netlink.Refused as refused:
            if refused.errno != errno.ENOENT:
                raise
            continue  # No table: somebody deleted it, or no engine has been here.
        for _, answer in answers:
            elements = netlink.attributes(answer, 4).get(_LIST_ELEMENTS, b"")
            found += [_decoded(element, version) for _, element in netlink.each_attribute(elements)]
    return found


def _decoded(element: bytes, version: int) -> Publication:
    read = netlink.attributes(element)
    key = netlink.attributes(read[_ELEM_KEY])[_DATA_VALUE]
    data = netlink.attributes(read[_ELEM_DATA])[_DATA_VALUE]
    protocol, host_port = struct.unpack(">B3xH2x", key[-8:])
    (container_port,) = struct.unpack(">H2x", data[-4:])
    port = PublishedPort(
        host_ip=str(ipaddress.ip_address(key[:-8])) if len(key) > 8 else ANY[version],
        host_port=host_port,
        container_port=container_port,
        protocol=_PROTOCOL_NAMES[protocol],
    )
    return Publication(port=port, address=str(ipaddress.ip_address(data[:-4])))
