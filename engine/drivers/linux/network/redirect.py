"""A firewall rule inside a sandbox: port 53 of 127.0.0.11 leads to the ports the resolver really listens on.

Without it the resolver would hold port 53 of the namespace, and a container could not bind 0.0.0.0:53 for a name server
of its own. Raw nfnetlink, because this is done at the start of every container on a user-defined network.
Source: linux/netfilter/nf_tables.h; moby resolver_unix.go does the same with iptables.
"""

from __future__ import annotations

import errno
import socket
import struct

from engine.drivers.linux.network import conntrack, netlink
from engine.drivers.linux.network.netlink import ACK, CREATE, EXCLUSIVE, REQUEST, Request

_TABLE, _CHAIN = "ishmael_resolver", "output"
_NEWTABLE, _DELTABLE, _NEWCHAIN, _NEWRULE = 0xA00, 0xA02, 0xA03, 0xA06
_LOCAL_OUT, _DSTNAT_PRIORITY = 3, -100
_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
_META_L4PROTO = 16
_DNAT = 1
_REGISTER_1, _REGISTER_2 = 1, 2
_APPEND = 0x800


def redirect(netfilter: socket.socket, address: str, port: int, targets: dict[int, int]) -> None:
    """Lead `port` of `address` to targets[protocol number] of the same address; replaces earlier rules of ours."""
    rules = [_rule(address, port, protocol, target) for protocol, target in targets.items()]
    table = netlink.text(1, _TABLE)
    hook = netlink.nested(4, _big(1, _LOCAL_OUT), _big(2, _DSTNAT_PRIORITY & 0xFFFFFFFF))
    chain = netlink.text(1, _TABLE) + netlink.text(3, _CHAIN) + hook + netlink.text(7, "nat")
    requests = [
        _request(_NEWTABLE, CREATE | EXCLUSIVE, table),
        _request(_NEWCHAIN, CREATE, chain),
        *(_request(_NEWRULE, CREATE | _APPEND, rule) for rule in rules),
    ]
    try:
        netlink.batch(netfilter, requests)
    except netlink.Refused as refused:
        if refused.errno != errno.EEXIST:
            raise
        # Only a namespace served before has the table. Deleting it every time would make the close of the socket wait
        # 10 ms for the kernel to have freed it.
        netlink.batch(netfilter, [_request(_DELTABLE, 0, table), *requests])
        # A client that asks by the socket it had would go on being led to where nobody listens any more.
        conntrack.forget_flows(netfilter, [port])


def _request(kind: int, flags: int, body: bytes) -> Request:
    return Request(kind, REQUEST | ACK | flags, struct.pack(">BBH", socket.AF_INET, 0, 0) + body)


def _rule(address: str, port: int, protocol: int, target: int) -> bytes:
    packed = socket.inet_aton(address)
    expressions = [
        _payload(_NETWORK_HEADER, 16, 4),
        _equal(packed),
        _expression("meta", _big(1, _REGISTER_1), _big(2, _META_L4PROTO)),
        _equal(bytes([protocol])),
        _payload(_TRANSPORT_HEADER, 2, 2),
        _equal(struct.pack(">H", port)),
        _immediate(_REGISTER_1, packed),
        _immediate(_REGISTER_2, struct.pack(">H", target)),
        _expression("nat", _big(1, _DNAT), _big(2, socket.AF_INET), _big(3, _REGISTER_1), _big(5, _REGISTER_2)),
    ]
    return netlink.text(1, _TABLE) + netlink.text(2, _CHAIN) + netlink.nested(4, *expressions)


def _payload(base: int, offset: int, length: int) -> bytes:
    return _expression("payload", _big(1, _REGISTER_1), _big(2, base), _big(3, offset), _big(4, length))


def _equal(data: bytes) -> bytes:
    return _expression("cmp", _big(1, _REGISTER_1), _big(2, 0), netlink.nested(3, netlink.attribute(1, data)))


def _immediate(register: int, data: bytes) -> bytes:
    return _expression("immediate", _big(1, register), netlink.nested(2, netlink.attribute(1, data)))


def _expression(name: str, *attributes: bytes) -> bytes:
    return netlink.nested(1, netlink.text(1, name), netlink.nested(2, *attributes))


def _big(kind: int, value: int) -> bytes:
    return netlink.attribute(kind, struct.pack(">I", value))
