"""Links between containers: how they are written, and what a linked container is told of the other.

Owns: the notation `container:alias`, the variables of legacy links, and the value that a container keeps of each.
Refuses to know: which container a name means, and whether it runs.
Source: moby opts.ParseLink, daemon/links/links.go.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Sequence

import msgspec

from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.values.ids import ContainerID

_LEFT_OUT = ("HOME", "PATH")
"""Variables of every image: they say nothing about the linked container."""


class Link(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A legacy link, kept by the container that links. name: what the other was called when the link was made."""

    container_id: ContainerID
    name: str
    alias: str


def parse_link(text: str) -> tuple[str, str]:
    """(container, alias) of `container:alias`, of `container`, or as inspect shows it: `/container:/web/alias`. Raises
    Rejected(INVALID)."""
    parts = text.split(":")
    if not text:
        raise Rejected(Reason.INVALID, "empty string specified for links")
    if len(parts) > 2 or not all(parts):
        raise Rejected(Reason.INVALID, f"bad format for links: {text}")
    if len(parts) == 1:
        return text, text
    name, alias = parts
    if name.startswith("/"):
        return name[1:], posixpath.basename(alias)
    return name, alias


def variables(link_name: str, address: str, env: Iterable[str], exposed: Iterable[str]) -> tuple[str, ...]:
    """What the container that links finds in its environment. link_name: `/web/db`; env and exposed (`80/tcp`): the
    other's. The result is as secret as env is."""
    prefix = posixpath.basename(link_name).upper().replace("-", "_")
    ports = sorted((_port(spec) for spec in exposed), key=lambda port: (port[1] != "tcp", port[1], port[0]))
    found = [f"{prefix}_PORT={ports[0][1]}://{address}:{ports[0][0]}"] if ports else []
    for number, protocol in ports:
        name = f"{prefix}_PORT_{number}_{protocol.upper()}"
        found.append(f"{name}={protocol}://{address}:{number}")
        found += [f"{name}_ADDR={address}", f"{name}_PORT={number}", f"{name}_PROTO={protocol}"]
    for first, last, protocol in _ranges(ports):
        name = f"{prefix}_PORT_{first}_{protocol.upper()}"
        found += [f"{name}_START={protocol}://{address}:{first}", f"{name}_PORT_START={first}"]
        found += [f"{name}_END={protocol}://{address}:{last}", f"{name}_PORT_END={last}"]
    found.append(f"{prefix}_NAME={link_name}")
    for variable in env:
        name, separator, value = variable.partition("=")
        if separator and name not in _LEFT_OUT:
            found.append(f"{prefix}_ENV_{name}={value}")
    return tuple(found)


def _port(spec: str) -> tuple[int, str]:
    number, _, protocol = spec.partition("/")
    return int(number), protocol or "tcp"


def _ranges(ports: Sequence[tuple[int, str]]) -> list[tuple[int, int, str]]:
    """(first, last, protocol) of ports that follow each other, at least two."""
    ranges: list[tuple[int, int, str]] = []
    for number, protocol in ports:
        if ranges and ranges[-1][1:] == (number - 1, protocol):
            ranges[-1] = (ranges[-1][0], number, protocol)
        else:
            ranges.append((number, number, protocol))
    return [each for each in ranges if each[1] > each[0]]
