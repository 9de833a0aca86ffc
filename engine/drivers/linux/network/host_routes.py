"""What the host reaches already: destinations of its routing table, so that no new network takes them."""

from __future__ import annotations

import ipaddress
import struct
from pathlib import Path


def host_routes(proc: Path = Path("/proc/net")) -> tuple[str, ...]:
    """CIDRs of all routes but default ones, IPv4 and IPv6. Nothing where /proc tells nothing."""
    return (*_ipv4(_lines(proc / "route")), *_ipv6(_lines(proc / "ipv6_route")))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _ipv4(lines: list[str]) -> list[str]:
    """`eth0 000011AC 00000000 ... mask`: addresses as the kernel's own 32-bit words, in hexadecimal."""
    found = []
    for line in lines[1:]:
        fields = line.split()
        if len(fields) < 8 or fields[7] == "00000000":
            continue
        destination, mask = (ipaddress.IPv4Address(struct.pack("=I", int(fields[index], 16))) for index in (1, 7))
        found.append(str(ipaddress.ip_network(f"{destination}/{mask}", strict=False)))
    return found


def _ipv6(lines: list[str]) -> list[str]:
    """`fe800000... 40 ...`: the address and the prefix length in hexadecimal. Link-local is everywhere."""
    found = []
    for line in lines:
        fields = line.split()
        if len(fields) < 2 or fields[1] == "00":
            continue
        network = ipaddress.ip_network((bytes.fromhex(fields[0]), int(fields[1], 16)), strict=False)
        if not (network.is_link_local or network.is_multicast or network.is_loopback):
            found.append(str(network))
    return found
