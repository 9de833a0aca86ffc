"""DNS zones of networks as plain values: which names and addresses are known to a container on some of them.

Source: moby daemon/libnetwork/sandbox.go (`name.network` and its splits), network.go (ResolveName, ResolveIP).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from engine.drivers.ports.network import NameRecord


class Zone(msgspec.Struct, frozen=True, kw_only=True):
    """One network's names, in lower case, and its reverse: address to container name."""

    names: Mapping[str, tuple[NameRecord, ...]] = {}
    pointers: Mapping[str, str] = {}


class NamedZone(msgspec.Struct, frozen=True, kw_only=True):
    """A zone under its network's name. links: names that only the asking container has for others there, in lower
    case."""

    network_name: str
    zone: Zone
    links: Mapping[str, str] = {}

    def lookup(self, name: str) -> tuple[NameRecord, ...]:
        """A link hides a name of the zone that is spelled alike."""
        return self.zone.names.get(self.links.get(name, name), ())


def make_zone(records: Iterable[NameRecord]) -> Zone:
    """Records of one name are kept together, equal addresses once: an alias may have several containers."""
    names: dict[str, list[NameRecord]] = {}
    pointers: dict[str, str] = {}
    for record in records:
        same = names.setdefault(record.name.lower(), [])
        if all((each.ipv4_address, each.ipv6_address) != (record.ipv4_address, record.ipv6_address) for each in same):
            same.append(record)
        for address in (record.ipv4_address, record.ipv6_address):
            if address:
                pointers.setdefault(address, record.container_name or record.name)
    return Zone(names={name: tuple(same) for name, same in names.items()}, pointers=pointers)


def find(zones: Sequence[NamedZone], name: str) -> tuple[NameRecord, ...]:
    """Records for a name without its final dot, in any case; nothing when no zone knows it.

    `a.b.c` is looked for whole in every zone, then as `a.b` in network `c`, then as `a` in network `b.c`: names of
    containers and of networks may have dots."""
    wanted = name.lower()
    for each in sorted(zones, key=lambda zone: wanted not in zone.links):
        if found := each.lookup(wanted):
            return found
    labels = wanted.split(".")
    for cut in range(len(labels) - 1, 0, -1):
        head, network_name = ".".join(labels[:cut]), ".".join(labels[cut:])
        for each in zones:
            if each.network_name.lower() == network_name and (found := each.lookup(head)):
                return found
    return ()


def reverse(zones: Sequence[NamedZone], address: str) -> str:
    """`name.network` of an address, or ""."""
    for each in zones:
        if name := each.zone.pointers.get(address):
            return f"{name}.{each.network_name}" if each.network_name else name
    return ""
