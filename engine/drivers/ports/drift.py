"""Port: comparing a part of the world with the log, and making it so. A part is looked at by whoever makes it: only the
driver of a network knows what it asked of the kernel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from engine.aggregates.values.drift import Difference
from engine.aggregates.values.endpoints import PublishedPort
from engine.aggregates.values.ids import ContainerID, NetworkID, VolumeName
from engine.drivers.ports.network import Join, NetworkSpec


class LiveEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint of a container whose process `pid` runs."""

    container_id: ContainerID
    pid: int
    join: Join


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """A container as far as the kernel is concerned. lives: a process runs, or is about to. rests: nothing is under way
    with it, so that what it should have must be there. begun: it ran once, so it has a read-write layer."""

    container_id: ContainerID
    run: int
    lives: bool
    starting: bool
    rests: bool
    begun: bool


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """What the log says should be, and what it allows because it comes or goes just now.

    networks: those that must be there; changing: those that may. endpoints, of containers that run and rest, must be
    there; endpoint ids in `leased` may. ports: may be published. volumes: with their options; mounted: those that a
    container uses that lives; in_use: those that may be mounted. recovering: nothing is under way but what an earlier
    engine left."""

    networks: tuple[NetworkSpec, ...] = ()
    changing: tuple[NetworkSpec, ...] = ()
    endpoints: tuple[LiveEndpoint, ...] = ()
    leased: frozenset[str] = frozenset()
    ports: frozenset[PublishedPort] = frozenset()
    leases: tuple[tuple[NetworkID, ContainerID], ...] = ()
    port_leases: tuple[ContainerID, ...] = ()
    containers: Mapping[ContainerID, Holder] = {}
    volumes: Mapping[VolumeName, Mapping[str, str]] = {}
    mounted: frozenset[VolumeName] = frozenset()
    in_use: frozenset[VolumeName] = frozenset()
    layers: frozenset[str] = frozenset()
    leased_layers: frozenset[str] = frozenset()
    recovering: bool = False


class Inspector(Protocol):
    """One part of the world."""

    async def look(self, ledger: Ledger) -> Sequence[Difference]:
        """All differences, those first that others hang on. Changes nothing. Something that is on its way may be among
        them: the caller looks twice."""
        ...

    async def mend(self, difference: Difference, ledger: Ledger) -> None:
        """Make it as the log says; idempotent. Raises PortError when that can not be."""
        ...
