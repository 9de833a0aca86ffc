"""Names of kernel parameters, as sysctl(8) reads them: whichever of `.` and `/` comes first separates."""

from __future__ import annotations

_SWAP = str.maketrans("./", "/.")


def dotted(name: str) -> str:
    """`net/ipv4/conf/eth0.100/forwarding` is `net.ipv4.conf.eth0/100.forwarding`."""
    first = next((character for character in name if character in "./"), ".")
    return name if first == "." else name.translate(_SWAP)


def sysctl_path(name: str) -> str:
    """`net.ipv4.conf.eth0/100.forwarding` is `/proc/sys/net/ipv4/conf/eth0.100/forwarding`."""
    return "/proc/sys/" + name.translate(_SWAP)
