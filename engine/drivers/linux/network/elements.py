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
_ELEMENTS_AT_ONCE = 256
"""A list of elements is an attribute, whose length has 16 bits."""
_LIST_ELEM, _ELEM_KEY, _ELEM_DATA, _DATA_VALUE = 1, 1, 2, 1


class Publication(msgspec.Struct, frozen=True, kw_only=True):
    """One element: packets to `port` go to `address` (a container's), which is of the same family as port.host_ip.
    routed: they are sent to that address itself, and let through to the container's port; of `port` no more counts."""

    port: PublishedPort
    address: str
    routed: bool = False

    @property
    def version(self) -> int:
        return ipaddress.ip_address(self.address).version


    @property
    def place(self) -> str:
        """As nft would write the key, which is what the kernel knows it by."""
        if self.routed:
            return f"{_bracketed(self.address)}:{self.port.container_port}/{self.port.protocol}"
        return f"{_bracketed(self.port.host_ip)}:{self.port.host_port}/{self.port.protocol}"

    @property
    def target(self) -> str:
        return "" if self.routed else f"{_bracketed(self.address)}:{self.port.container_port}"


def _bracketed(address: str) -> str:
    return f"[{ipaddress.ip_address(address)}]" if ":" in address else address


def _location(publication: Publication) -> tuple[int, str, bytes]:
    """(address family, map or set, key)."""
    port = publication.port
    if publication.routed:
        inside = ipaddress.ip_address(publication.address)
        family = socket.AF_INET if inside.version == 4 else socket.AF_INET6
        service = struct.pack(">B3xH2x", PROTOCOLS[port.protocol], port.container_port)
        return family, "opened", inside.packed + service
    host = ipaddress.ip_address(port.host_ip)
    family = socket.AF_INET if host.version == 4 else socket.AF_INET6
    service = struct.pack(">B3xH2x", PROTOCOLS[port.protocol], port.host_port)
    if port.host_ip == ANY[host.version]:
        return family, "published_any", service
    return family, "published_at", host.packed + service


def _requests(kind: int, flags: int, publications: Sequence[Publication]) -> list[Request]:
    """Messages of many elements each: the kernel acknowledges messages, and drops acknowledgements that nobody has read
    when there are hundreds."""
    groups: dict[tuple[int, str], list[bytes]] = {}
    for publication in publications:
        family, name, key = _location(publication)
        element = netlink.nested(_ELEM_KEY, netlink.attribute(_DATA_VALUE, key))
        if kind == _NEWSETELEM and not publication.routed:
            inside = ipaddress.ip_address(publication.address).packed
            target = inside + struct.pack(">H2x", publication.port.container_port)
            element += netlink.nested(_ELEM_DATA, netlink.attribute(_DATA_VALUE, target))
        groups.setdefault((family, name), []).append(netlink.nested(_LIST_ELEM, element))
    found = []
    for (family, name), elements in groups.items():
        head = struct.pack(">BBH", family, 0, 0) + netlink.text(_LIST_TABLE, TABLE) + netlink.text(_LIST_SET, name)
        for first in range(0, len(elements), _ELEMENTS_AT_ONCE):
            together = netlink.nested(_LIST_ELEMENTS, *elements[first : first + _ELEMENTS_AT_ONCE])
            found.append(Request(kind, REQUEST | ACK | flags, head + together))
    return found


def publish(netfilter: socket.socket, publications: Sequence[Publication]) -> None:
    """Add elements, all or none; replace those a crashed run left behind. Idempotent."""
    if not publications:
        return
    added = _requests(_NEWSETELEM, CREATE | EXCLUSIVE, publications)
    try:
        netlink.batch(netfilter, added)
    except netlink.Refused as refused:
        if refused.errno != errno.EEXIST:
            raise
    else:
        return
    # The log owns every key, so an element that is there is stale, or this very one after an engine restart.
    withdraw(netfilter, publications)
    netlink.batch(netfilter, added)


def withdraw(netfilter: socket.socket, publications: Sequence[Publication]) -> None:
    """Delete elements, whatever they lead to. Those that are gone already are no error."""
    if not publications:
        return
    try:
        netlink.batch(netfilter, _requests(_DELSETELEM, 0, publications))
    except netlink.Refused as refused:
        if refused.errno != errno.ENOENT:
            raise
    else:
        return
    for publication in publications:
        try:
            netlink.batch(netfilter, _requests(_DELSETELEM, 0, [publication]))
        except netlink.Refused as refused:
            if refused.errno != errno.ENOENT:
                raise


def published(netfilter: socket.socket, version: int) -> list[Publication]:
    """What the maps of one family hold now."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    found: list[Publication] = []
    for map_name in ("published_any", "published_at", "opened"):
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
            read = _opened if map_name == "opened" else _decoded
            found += [read(element, version) for _, element in netlink.each_attribute(elements)]
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
        protocol=_PROTOCOL_NAMES.get(protocol, str(protocol)),
    )
    return Publication(port=port, address=str(ipaddress.ip_address(data[:-4])))


def _opened(element: bytes, _version: int) -> Publication:
    key = netlink.attributes(netlink.attributes(element)[_ELEM_KEY])[_DATA_VALUE]
    protocol, container_port = struct.unpack(">B3xH2x", key[-8:])
    address = str(ipaddress.ip_address(key[:-8]))
    name = _PROTOCOL_NAMES.get(protocol, str(protocol))
    port = PublishedPort(host_ip=address, host_port=0, container_port=container_port, protocol=name)
    return Publication(port=port, address=address, routed=True)
