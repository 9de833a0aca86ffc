"""Forgetting UDP flows when what they lead to comes or goes: a published port, the resolver of a sandbox.

A UDP flow that was tracked before its port was published keeps its old way as long as packets keep coming, and one that
was tracked while it was published keeps leading to a container that is gone. TCP needs nothing: a connection ends.
Source: linux/netfilter/nfnetlink_conntrack.h; moby clears the same entries (drivers/bridge, clearConntrackEntries).
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Collection, Iterable

from engine.aggregates.values.endpoints import PublishedPort
from engine.drivers.linux.network import netlink
from engine.drivers.linux.network.netlink import ACK, DUMP, REQUEST, Request

_CT_GET, _CT_DELETE = (1 << 8) | 1, (1 << 8) | 2
_TUPLE_ORIG, _ID, _ZONE, _FILTER = 1, 12, 18, 25
_TUPLE_PROTO = 2
_PROTO_NUM, _PROTO_DST_PORT = 1, 3
_FILTER_ORIG_FLAGS = 1
_BY_PROTOCOL, _BY_DESTINATION_PORT = 1 << 3, 1 << 5


def forget_udp(netfilter: socket.socket, ports: Iterable[PublishedPort]) -> None:
    """Delete the tracked flows to the host ports of published UDP ports, of both families. Idempotent."""
    forget_flows(netfilter, {port.host_port for port in ports if port.protocol == "udp"})


def forget_flows(netfilter: socket.socket, ports: Collection[int]) -> None:
    """Delete the tracked UDP flows to these ports. Idempotent. The kernel filters (5.8 or later); on older ones the
    whole table is read, and filtered here."""
    for host_port in sorted(ports):
        for family in (socket.AF_INET, socket.AF_INET6):
            # A kernel without this interface publishes ports all the same; moby only warns, too.
            with contextlib.suppress(OSError):
                for entry in _flows(netfilter, family, host_port):
                    _delete(netfilter, family, entry)


def _flows(netfilter: socket.socket, family: int, host_port: int) -> list[dict[int, bytes]]:
    service = netlink.attribute(_PROTO_NUM, bytes([socket.IPPROTO_UDP]))
    service += netlink.attribute(_PROTO_DST_PORT, struct.pack(">H", host_port))
    body = struct.pack(">BBH", family, 0, 0)
    body += netlink.nested(_TUPLE_ORIG, netlink.nested(_TUPLE_PROTO, service))
    body += netlink.nested(_FILTER, netlink.uint32(_FILTER_ORIG_FLAGS, _BY_PROTOCOL | _BY_DESTINATION_PORT))
    answers = netlink.query(netfilter, Request(_CT_GET, REQUEST | DUMP, body))
    entries = [netlink.attributes(answer, 4) for _, answer in answers]
    return [entry for entry in entries if _service(entry) == (socket.IPPROTO_UDP, host_port)]


def _service(entry: dict[int, bytes]) -> tuple[int, int]:
    """(protocol, destination port) as the client sent it."""
    proto = netlink.attributes(netlink.attributes(entry.get(_TUPLE_ORIG, b"")).get(_TUPLE_PROTO, b""))
    number = proto.get(_PROTO_NUM, b"\0")[0]
    port = proto.get(_PROTO_DST_PORT, b"\0\0")
    return number, int.from_bytes(port, "big")


def _delete(netfilter: socket.socket, family: int, entry: dict[int, bytes]) -> None:
    body = struct.pack(">BBH", family, 0, 0)
    for kind in (_TUPLE_ORIG, _ID, _ZONE):
        if kind in entry:
            body += netlink.attribute(kind | (0x8000 if kind == _TUPLE_ORIG else 0), entry[kind])
    try:
        netlink.transact(netfilter, [Request(_CT_DELETE, REQUEST | ACK, body)])
    except netlink.Refused as refused:
        if refused.errno != errno.ENOENT:  # it ended by itself meanwhile
            raise
