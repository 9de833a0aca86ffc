"""What legacy links open on a network with `enable_icc=false`, as nftables text: table `bridge ishmael`.

How it works: bridge ports of such a network are isolated from each other in the kernel (links.py), so nothing passes
between two of them. The port of a container that links is not; it is a `linker` here, and its frames to and from other
ports are dropped but for what its own chain accepts: the exposed ports of those it links to, the neighbour
discovery between the two, and later fragments of what passed. The rules keep no state, as moby's for links do not
(connection tracking of bridged frames is a module that not every kernel has); what a linked container sends from an
exposed TCP port may answer but not open a connection.

Where br_netfilter is loaded the accepted frames meet the rules for routed packets next, which can not tell them from
what is routed back to the bridge it came from: a mark says that they were judged. It goes when the packet enters a
network namespace, so no container sees or forges it.
Rough edges: the port of a linker is not reached by a foreign port of the bridge (as with moby).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from engine.drivers.linux.network.ruleset import JUDGED, TABLE

_TABLE = f"""
add table bridge {TABLE}
add set bridge {TABLE} linkers {{ type ifname; }}
add map bridge {TABLE} links {{ type ifname : verdict; }}
add chain bridge {TABLE} forward {{ type filter hook forward priority filter; }}
flush chain bridge {TABLE} forward
add rule bridge {TABLE} forward iifname vmap @links
add rule bridge {TABLE} forward oifname vmap @links
add rule bridge {TABLE} forward iifname @linkers drop
add rule bridge {TABLE} forward oifname @linkers drop
"""
_ACCEPT = f"meta mark set meta mark or {JUDGED:#x} accept"


def opened(veth: str, openings: Mapping[str, Iterable[str]]) -> str:
    """Make `veth` a linker that reaches exactly `openings`: exposed ports (`80/tcp`) by the veth of the linked."""
    rules = [rule for linked, ports in sorted(openings.items()) for rule in _between(veth, linked, ports)]
    lines = [f"add chain bridge {TABLE} {veth}", f"flush chain bridge {TABLE} {veth}"]
    lines += [f"add rule bridge {TABLE} {veth} {rule}" for rule in rules]
    lines.append(f'add element bridge {TABLE} linkers {{ "{veth}" }}')
    lines.append(f'add element bridge {TABLE} links {{ "{veth}" : jump {veth} }}')
    return _TABLE + "\n".join(lines) + "\n"


def closed(veth: str) -> str:
    """Forget a linker, also one that is none."""
    lines = [
        f'delete element bridge {TABLE} links {{ "{veth}" }}',
        f'delete element bridge {TABLE} linkers {{ "{veth}" }}',
        f"delete chain bridge {TABLE} {veth}",
    ]
    return opened(veth, {}) + "\n".join(lines) + "\n"


def _between(linker: str, linked: str, ports: Iterable[str]) -> list[str]:
    there = f'iifname "{linker}" oifname "{linked}"'
    back = f'iifname "{linked}" oifname "{linker}"'
    rules = []
    for direction in (there, back):
        rules.append(f"{direction} ether type arp accept")
        rules.append(f"{direction} icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} {_ACCEPT}")
        rules.append(f"{direction} ip frag-off & 0x1fff != 0 {_ACCEPT}")
        rules.append(f"{direction} frag frag-off != 0 {_ACCEPT}")
    for port in sorted(ports):
        number, _, protocol = port.partition("/")
        protocol = protocol or "tcp"
        answers = "tcp flags & (syn | ack) != syn " if protocol == "tcp" else ""
        rules.append(f"{there} {protocol} dport {number} {_ACCEPT}")
        rules.append(f"{back} {protocol} sport {number} {answers}{_ACCEPT}")
    return rules
