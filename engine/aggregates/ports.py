"""The host's published ports: one ledger stream, so that no two containers ever hold the same one.

A port belongs to a container from the start's intent to its exit. Whether a foreign process listens on a port is the
kernel's business: the network driver finds out when it binds.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import ClassVar, assert_never

import msgspec
from msgspec.structs import replace

from engine.aggregates.decider import Command, Decider, Event, Reason, Rejected
from engine.aggregates.values.endpoints import PortWish, PublishedPort
from engine.aggregates.values.ids import ContainerID

STREAM_KEY = "host"


class PortCommand(Command, frozen=True, kw_only=True):
    container_id: ContainerID

    @property
    def key(self) -> str:
        return STREAM_KEY


class ReservePorts(PortCommand, frozen=True, kw_only=True):
    """All of the wishes or none. ephemeral_first..last: the kernel's range; avoid: ports known to be taken by
    others."""

    wishes: tuple[PortWish, ...]
    ephemeral_first: int = 32768
    ephemeral_last: int = 60999
    avoid: frozenset[int] = frozenset()


class ReleasePorts(PortCommand, frozen=True, kw_only=True):
    """Give back everything the container holds; nothing happens when it holds nothing."""


class PortsReserved(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "ports.reserved"
    container_id: ContainerID
    ports: tuple[PublishedPort, ...]


class PortsReleased(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "ports.released"
    container_id: ContainerID


class PortState(msgspec.Struct, frozen=True, kw_only=True):
    """`cursor` is the last ephemeral port given: the next search starts behind it, so that a port rests before
    reuse."""

    held: Mapping[ContainerID, tuple[PublishedPort, ...]] = {}
    cursor: int = 0


def evolve(state: PortState, event: PortsReserved | PortsReleased) -> PortState:
    match event:
        case PortsReserved():
            cursor = max((port.host_port for port in event.ports if port.host_port >= 32768), default=state.cursor)
            held = {**state.held, event.container_id: event.ports}
            return PortState(held=held, cursor=cursor)
        case PortsReleased():
            held = {owner: ports for owner, ports in state.held.items() if owner != event.container_id}
            return PortState(held=held, cursor=state.cursor)
        case _:
            assert_never(event)


def decide(state: PortState, command: ReservePorts | ReleasePorts) -> tuple[Event, ...]:
    match command:
        case ReservePorts():
            if not command.wishes or command.container_id in state.held:
                return ()
            return (PortsReserved(container_id=command.container_id, ports=_reserve(state, command)),)
        case ReleasePorts():
            held = command.container_id in state.held
            return (PortsReleased(container_id=command.container_id),) if held else ()
        case _:
            assert_never(command)


def _reserve(state: PortState, command: ReservePorts) -> tuple[PublishedPort, ...]:
    taken: dict[tuple[str, int], frozenset[str]] = {}
    for ports in state.held.values():
        for port in (port for port in ports if port.host_port):
            slot = (port.protocol, port.host_port)
            taken[slot] = taken.get(slot, frozenset()) | {port.host_ip}
    given: list[PublishedPort] = []
    cursor = state.cursor
    for group in _groups(command.wishes):
        first = group[0]
        if first.routed:
            given += [_published(wish, 0) for wish in group]
            continue
        for number in _candidates(first, command, cursor):
            holders = taken.get((first.protocol, number), frozenset())
            if all(_free(holders, wish.host_ip) for wish in group):
                break
        else:
            raise Rejected(Reason.SYSTEM, _refused(first))
        taken[(first.protocol, number)] = holders | {wish.host_ip for wish in group}
        cursor = number if first.first_port == 0 else cursor
        given += [_published(wish, number) for wish in group]
    return tuple(given)


def _published(wish: PortWish, number: int) -> PublishedPort:
    return PublishedPort(
        host_ip=wish.host_ip, host_port=number, container_port=wish.container_port, protocol=wish.protocol
    )


def _groups(wishes: tuple[PortWish, ...]) -> list[tuple[PortWish, ...]]:
    """Wishes that must get the same number: 0.0.0.0 and :: of one dual-stack publication, as in moby."""
    groups: list[tuple[PortWish, ...]] = []
    for wish in wishes:
        if groups and groups[-1] == (replace(wish, host_ip="0.0.0.0"),) and wish.host_ip == "::":  # noqa: S104 - compared
            groups[-1] = (*groups[-1], wish)
        else:
            groups.append((wish,))
    return groups


def _candidates(wish: PortWish, command: ReservePorts, cursor: int) -> Iterator[int]:
    if wish.first_port:
        return iter(range(wish.first_port, wish.last_port + 1))
    first, last = command.ephemeral_first, command.ephemeral_last
    begin = cursor + 1 if first <= cursor < last else first
    return (number for number in chain(range(begin, last + 1), range(first, begin)) if number not in command.avoid)


def _free(holders: frozenset[str], host_ip: str) -> bool:
    """A wildcard address collides with every address of its family."""
    family = ipaddress.ip_address(host_ip).version
    for holder in holders:
        if ipaddress.ip_address(holder).version != family:
            continue
        if holder == host_ip or _is_any(holder) or _is_any(host_ip):
            return False
    return True


def _is_any(address: str) -> bool:
    return address in ("0.0.0.0", "::")  # noqa: S104 - compared, not bound


def _refused(wish: PortWish) -> str:
    if wish.first_port == 0:
        return "all ports are allocated"
    host = f"[{wish.host_ip}]" if ":" in wish.host_ip else wish.host_ip
    return f"Bind for {host}:{wish.first_port} failed: port is already allocated"


DECIDER: Decider[PortState] = Decider(
    name="ports",
    initial=lambda key: PortState(),
    decide=decide,
    evolve=evolve,
    terminal=lambda state: False,
    commands=(ReservePorts, ReleasePorts),
    events=(PortsReserved, PortsReleased),
)
