"""Names of kernel parameters, as sysctl(8) reads them: whichever of `.` and `/` comes first separates."""

from __future__ import annotations

from engine.aggregates.decider import Reason, Rejected

_SWAP = str.maketrans("./", "/.")


def dotted(name: str) -> str:
    """`net/ipv4/conf/eth0.100/forwarding` is `net.ipv4.conf.eth0/100.forwarding`."""
    first = next((character for character in name if character in "./"), ".")
    return name if first == "." else name.translate(_SWAP)


def sysctl_path(name: str) -> str:
    """`net.ipv4.conf.eth0/100.forwarding` is `/proc/sys/net/ipv4/conf/eth0.100/forwarding`. Raises Rejected(INVALID)
    for a name that leads out of where it begins: `net.//.kernel.core_pattern` would be a parameter of the host."""
    path = name.translate(_SWAP)
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise Rejected(Reason.INVALID, f'sysctl "{name}" is not the name of a kernel parameter')
    return f"/proc/sys/{path}"
