"""What a user may ask of the interface of one endpoint, by Docker's driver options: its name, and its sysctls.

Source: moby daemon/libnetwork/netlabel (Ifname, EndpointSysctls), daemon/container_operations.go.
"""

from __future__ import annotations

from collections.abc import Mapping

from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.values.sysctls import sysctl_path

IFNAME = "com.docker.network.endpoint.ifname"
SYSCTLS = "com.docker.network.endpoint.sysctls"
PREFIX = "com.docker.network.container_iface_prefix"
"""Of a network: what the names of interfaces begin with, when nobody names one."""
DEFAULT_PREFIX = "eth"
_FAMILIES = ("ipv4", "ipv6", "mpls")
_PLACEHOLDERS = ("IFNAME", "ifname")
_NAME_LENGTH_MAX = 15


def check(options: Mapping[str, str] | None) -> None:
    """Raises Rejected(INVALID) in moby's words."""
    given = options or {}
    settings = given[SYSCTLS].split(",") if SYSCTLS in given else []
    wrong = [_wrong(each) for each in settings if not _is_well_formed(each)]
    name = given.get(IFNAME, "")
    if len(name) > _NAME_LENGTH_MAX or "/" in name or any(character.isspace() for character in name):
        wrong.append(f"invalid interface name {name!r}")
    if wrong:
        raise Rejected(Reason.INVALID, "invalid endpoint settings:\n" + "\n".join(wrong))


def _is_well_formed(text: str) -> bool:
    parts = text.split(".", 4)
    if len(parts) != 5 or parts[1] not in _FAMILIES or parts[3] not in _PLACEHOLDERS or "=" not in parts[4]:
        return False
    sysctl_path(text.partition("=")[0])
    return True


def _wrong(text: str) -> str:
    return (
        f"unrecognised network interface sysctl '{text}'; represent 'net.X.Y.ethN.Z=V' as 'net.X.Y.IFNAME.Z=V', "
        "'X' must be 'ipv4', 'ipv6' or 'mpls'"
    )


def interface_name(options: Mapping[str, str] | None) -> str:
    """The name that was asked for, or ""."""
    return (options or {}).get(IFNAME, "")


def sysctls(options: Mapping[str, str] | None) -> Mapping[str, str]:
    """`net.ipv4.conf.IFNAME.log_martians` to its value: the name is the interface's, once it has one."""
    found = {}
    for each in filter(None, (options or {}).get(SYSCTLS, "").split(",")):
        name, _, value = each.partition("=")
        parts = name.split(".", 4)
        found[".".join((*parts[:3], _PLACEHOLDERS[0], parts[4]))] = value
    return found


def of_interface(given: Mapping[str, str], interface: str) -> dict[str, str]:
    """Sysctls with the interface's name in the placeholder's place; a dot in it is written as a slash."""
    spelled = interface.replace(".", "/")
    return {name.replace(f".{_PLACEHOLDERS[0]}.", f".{spelled}.", 1): value for name, value in given.items()}
