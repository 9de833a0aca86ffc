"""The engine's nftables rules, as text: tables `ip ishmael` and `ip6 ishmael`.

Owns: the static rules (docs/design/network.md explains the order) and the set elements of one network.
Refuses to know: how text reaches the kernel, and the elements of published ports (elements.py).
"""

from __future__ import annotations

import ipaddress

import msgspec

TABLE = "ishmael"
JUDGED = 0x40000000
"""The bit of a packet's mark by which openings.py tells that it may pass between two containers of a bridge."""
USER_CHAIN = "user"
"""Asked first about every forwarded packet; the host's administrator fills it, and the engine never writes it."""


class BridgeRules(msgspec.Struct, frozen=True, kw_only=True):
    """What the firewall knows of one network. subnets: CIDR, both families. internal: nothing in or out. icc: packets
    may be routed within the bridge. masquerade: leave under the host's address. unprotected: unpublished ports are
    reachable from outside (gateway mode nat-unprotected). routed: not masqueraded, published ports are reached at the
    container's own address (gateway mode routed). Both by IP version."""

    bridge: str
    subnets: tuple[str, ...]
    internal: bool = False
    icc: bool = True
    masquerade: bool = True
    unprotected: frozenset[int] = frozenset()
    routed: frozenset[int] = frozenset()


_SETS = """
add table {family} {table}
add set {family} {table} bridges {{ type ifname; }}
add set {family} {table} internal {{ type ifname; }}
add set {family} {table} unprotected {{ type ifname; }}
add set {family} {table} routed {{ type ifname; }}
add set {family} {table} opened {{ type {address} . inet_proto . inet_service; }}
add set {family} {table} same_bridge {{ type ifname . ifname; }}
add set {family} {table} masqueraded {{ type {address}; flags interval; }}
add set {family} {table} home {{ type {address} . ifname; flags interval; }}
add map {family} {table} published_any {{ type inet_proto . inet_service : {address} . inet_service; }}
add map {family} {table} published_at {{ type {address} . inet_proto . inet_service : {address} . inet_service; }}
"""

_CHAINS = """
add chain {family} {table} raw {{ type filter hook prerouting priority raw; }}
add chain {family} {table} forward {{ type filter hook forward priority filter; }}
add chain {family} {table} prerouting {{ type nat hook prerouting priority dstnat; }}
add chain {family} {table} output {{ type nat hook output priority -100; }}
add chain {family} {table} postrouting {{ type nat hook postrouting priority srcnat; }}
add chain {family} {table} publish
add chain {family} {table} {user}
flush chain {family} {table} raw
flush chain {family} {table} forward
flush chain {family} {table} prerouting
flush chain {family} {table} output
flush chain {family} {table} postrouting
flush chain {family} {table} publish
"""

_RULES = """
add rule {family} {table} forward jump {user}
add rule {family} {table} forward ct state established,related accept
add rule {family} {table} forward iifname . oifname @same_bridge accept
add rule {family} {table} forward iifname @bridges oifname @bridges meta mark & {judged} == {judged} accept
add rule {family} {table} forward iifname @internal drop
add rule {family} {table} forward oifname @internal drop
add rule {family} {table} forward oifname @bridges ct status dnat accept
add rule {family} {table} forward oifname @unprotected accept
add rule {family} {table} forward oifname @routed {ip} daddr . meta l4proto . th dport @opened accept
add rule {family} {table} forward oifname @routed meta l4proto {icmp} accept
add rule {family} {table} forward oifname @bridges drop
add rule {family} {table} forward iifname @bridges accept
add rule {family} {table} publish dnat {ip} to {ip} daddr . meta l4proto . th dport map @published_at
add rule {family} {table} publish dnat {ip} to meta l4proto . th dport map @published_any
add rule {family} {table} postrouting ct status dnat {ip} saddr . oifname @home masquerade
add rule {family} {table} postrouting {ip} saddr @masqueraded {ip} saddr . oifname != @home masquerade
"""

_RULES_IPV4 = """
add rule ip {table} raw ip daddr 127.0.0.0/8 iifname @bridges drop
add rule ip {table} prerouting fib daddr type local jump publish
add rule ip {table} output fib daddr type local jump publish
insert rule ip {table} postrouting ip saddr 127.0.0.0/8 oifname @bridges masquerade
"""

_RULES_IPV6 = """
add rule ip6 {table} prerouting fib daddr type local jump publish
add rule ip6 {table} output ip6 daddr != ::1 fib daddr type local jump publish
"""


def base(*, ipv6: bool) -> str:
    """Everything but elements, as one transaction. Sets, maps and their elements are kept; chains are written anew."""
    text = _family("ip", "ip", "ipv4_addr", "icmp") + _RULES_IPV4.format(table=TABLE)
    if ipv6:
        text += _family("ip6", "ip6", "ipv6_addr", "ipv6-icmp") + _RULES_IPV6.format(table=TABLE)
    return text


def _family(family: str, ip: str, address: str, icmp: str) -> str:
    return (_SETS + _CHAINS + _RULES).format(
        family=family, ip=ip, address=address, icmp=icmp, table=TABLE, judged=JUDGED, user=USER_CHAIN
    )


def forward_policy(family: str, policy: str) -> str:
    """policy: `drop` or `accept`, for packets that are no network's of ours."""
    return f"add chain {family} {TABLE} forward {{ type filter hook forward priority filter; policy {policy}; }}\n"


def network_elements(verb: str, rules: BridgeRules, families: tuple[str, ...]) -> str:
    """`add` or `delete` one network's elements."""
    lines = []
    for family in families:
        version = 4 if family == "ip" else 6
        for name, element in _elements(rules, version):
            lines.append(f"{verb} element {family} {TABLE} {name} {{ {element} }}\n")
    return "".join(lines)


def _elements(rules: BridgeRules, version: int) -> list[tuple[str, str]]:
    bridge = f'"{rules.bridge}"'
    found = [("bridges", bridge)]
    if rules.internal:
        found.append(("internal", bridge))
    if version in rules.routed:
        found.append(("routed", bridge))
    if version in rules.unprotected:
        found.append(("unprotected", bridge))
    if rules.icc:
        found.append(("same_bridge", f"{bridge} . {bridge}"))
    for subnet in rules.subnets:
        network = ipaddress.ip_network(subnet, strict=False)
        if network.version != version:
            continue
        found.append(("home", f"{network} . {bridge}"))
        if rules.masquerade and not rules.internal and version not in rules.routed:
            found.append(("masqueraded", str(network)))
    return found
