"""Whose namespaces a container shares (`container:<id>`), and whether they can be shared now (CTR-38); and who must be
started before it: these, and those it links to.

Asked twice: by the API, which knows a status for a refusal, and by the start itself, when it comes to it. Words: moby
daemon/container_operations.go, container_operations_unix.go.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.values.config import HostConfig
from engine.aggregates.values.ids import ContainerID


class Kind(Enum):
    """Which namespace."""

    NETWORK = "network"
    PID = "PID"
    IPC = "IPC"


def donors(host: HostConfig) -> dict[Kind, str]:
    """The containers whose namespaces are shared, by id."""
    modes = {Kind.NETWORK: host.network_mode, Kind.PID: host.pid_mode, Kind.IPC: host.ipc_mode}
    return {kind: mode.partition(":")[2] for kind, mode in modes.items() if mode.startswith("container:")}


def dependencies(state: ContainerState) -> tuple[ContainerID, ...]:
    """The other containers that must run before this one starts."""
    shared = (ContainerID(reference) for reference in donors(state.host).values())
    found = dict.fromkeys((*shared, *(link.container_id for link in state.links)))
    return tuple(other for other in found if other != state.container_id)


def by_dependency(states: Iterable[ContainerState]) -> tuple[ContainerState, ...]:
    """In the order of their start: everybody after those of them it depends on."""
    waiting = {state.container_id: state for state in states}
    ordered: dict[ContainerID, ContainerState] = {}
    seen: set[ContainerID] = set()
    for first in waiting:
        path = [first]  # Not recursion: a chain of links may be as long as somebody likes.
        while path:
            container_id = path[-1]
            needed = () if container_id in seen else dependencies(waiting[container_id])
            seen.add(container_id)
            further = [other for other in reversed(needed) if other in waiting and other not in seen]
            if further:
                path += further
            else:
                ordered.setdefault(container_id, waiting[path.pop()])
    return tuple(ordered.values())


def check_donor(state: ContainerState, donor: ContainerState, kind: Kind) -> None:
    """Raises Rejected: CONFLICT unless the donor runs, INVALID for an IPC namespace that it keeps to itself."""
    if donor.container_id == state.container_id:
        raise Rejected(Reason.SYSTEM, f"cannot join own {kind.value} namespace")
    if not donor.alive and kind is Kind.NETWORK:
        status = "exited" if donor.has_been_started else "created"
        raise Rejected(
            Reason.CONFLICT,
            f"cannot join network namespace of a non running container: container {donor.name} is {status}",
        )
    if not donor.alive:
        raise Rejected(Reason.CONFLICT, f"container {donor.container_id} is not running")
    if (donor.host.userns_mode == "host") != (state.host.userns_mode == "host"):
        raise Rejected(
            Reason.INVALID,
            f"container {donor.container_id}: its {kind.value} namespace belongs to another user namespace "
            "(hint: give both or neither --userns=host)",
        )
    if kind is Kind.IPC and donor.host.ipc_mode not in ("shareable", "host"):
        raise Rejected(
            Reason.INVALID,
            f"container {donor.container_id}: non-shareable IPC "
            "(hint: use IpcMode:shareable for the donor container)",
        )
