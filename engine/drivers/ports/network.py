"""Port: networks and endpoints in the kernel. Names derive from ids, so whatever is found can be traced to its owner.

The driver allocates nothing: addresses and ports come from the log (aggregates/network, aggregates/ports) and are
only made true here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from engine.aggregates.values.endpoint_options import DEFAULT_PREFIX
from engine.aggregates.values.endpoints import Endpoint, PublishedPort
from engine.aggregates.values.ids import ContainerID, NetworkID


class NetworkSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A network to make. driver: bridge, macvlan, ipvlan, host, null. subnets and gateways as CIDR and address;
    options by Docker's names (`com.docker.network.bridge.name`, ...)."""

    network_id: NetworkID
    name: str
    driver: str
    internal: bool = False
    subnets: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    options: Mapping[str, str] = {}


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """Ports (`80/tcp`) of another endpoint of the same network."""

    endpoint_id: str
    ports: tuple[str, ...]


class Join(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint to join to a sandbox. interface: `eth0`...; default_route: this endpoint carries it. endpoint_name:
    the container's name, for the words of an error. fixed: the interface's name is the user's choice. sysctls: of the
    interface, whose name in them is IFNAME. openings: what is reached although the network keeps its containers
    apart (`enable_icc=false`); none elsewhere."""

    network: NetworkSpec
    endpoint: Endpoint
    interface: str
    default_route: bool
    endpoint_name: str = ""
    ports: tuple[PublishedPort, ...] = ()
    fixed: bool = False
    sysctls: Mapping[str, str] = {}
    openings: tuple[Opening, ...] = ()


class NetworkInventory(msgspec.Struct, frozen=True, kw_only=True):
    """What the kernel has under our names: network ids (first 12) of bridges, endpoint ids (first 7) of veths,
    published ports in the map, container ids with a sandbox."""

    bridges: tuple[str, ...] = ()
    veths: tuple[str, ...] = ()
    ports: tuple[PublishedPort, ...] = ()
    sandboxes: tuple[str, ...] = ()


class NameRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A name in a network's DNS zone: every container name, alias and short id, with its addresses."""

    name: str
    ipv4_address: str = ""
    ipv6_address: str = ""
    container_name: str = ""


OwnNames = Mapping[NetworkID, Mapping[str, str]]
"""Names that one container alone has for others on its networks (links): in lower case, to the names there."""
NO_NAMES: OwnNames = {}


class Networks(Protocol):
    """Networks: the bridge, its addresses and its part of the firewall."""

    async def prepare(self) -> None:
        """Make the host ready for networks (static rules, forwarding), once per start, before any. Idempotent."""
        ...

    async def create(self, spec: NetworkSpec) -> None: ...

    async def remove(self, spec: NetworkSpec) -> None: ...

    async def inventory(self) -> NetworkInventory: ...

    async def addresses_of(self, bridge: str) -> tuple[str, ...] | None:
        """The addresses of an interface of the host, with prefix lengths; None when there is no such interface."""
        ...

    async def host_subnets(self) -> tuple[str, ...]:
        """Destinations the host reaches already, those of our own bridges left out."""
        ...


class Sandboxes(Protocol):
    """A container's network namespace and the endpoints in it."""

    async def open(
        self,
        container_id: ContainerID,
        sysctls: Mapping[str, str],
        *,
        joined: bool = True,
        remapped: bool = False,
        beside: int = 0,
    ) -> int:
        """A network namespace for the container with lo up; its fd, which the caller closes. The namespace lives as
        long as somebody holds it: an engine that dies before the start leaves nothing. joined: endpoints follow.
        remapped: it belongs to a user namespace of its own, with the map of this engine;
        or to the one of the process `beside`."""
        ...

    async def enter(self, container_id: ContainerID, pid: int) -> int:
        """The namespace of a running container's first process; its fd, which the caller closes. Raises PortError when
        the process is gone."""
        ...

    async def free_interface(self, container_id: ContainerID, pid: int, prefix: str = DEFAULT_PREFIX) -> str:
        """The first `<prefix>N` that a running container's namespace does not have: a disconnect leaves gaps, which may
        be filled. Raises PortError when the process is gone."""
        ...

    async def join(self, container_id: ContainerID, netns_fd: int, joins: Sequence[Join]) -> None:
        """Join endpoints and publish their ports, all or nothing. Raises PortError(`Bind for 0.0.0.0:80 failed: port is
        already allocated`) when a foreign process holds a host port."""
        ...

    async def leave(self, container_id: ContainerID, joins: Sequence[Join], *, sandbox_gone: bool) -> None:
        """Undo `join`. sandbox_gone: the namespace died with its processes, and the veth with it; without it others who
        share the namespace lose the interface."""
        ...

    async def route(self, container_id: ContainerID, netns_fd: int, join: Join) -> None:
        """Lead the default routes of a living sandbox through this endpoint: they end with the endpoint that carried
        them, and do not go elsewhere by themselves. Idempotent."""
        ...

    async def open_between(self, join: Join) -> None:
        """Let a joined endpoint reach exactly `join.openings`, in place of what it reached before. Nothing to do on a
        network whose containers reach each other. Idempotent; `leave` closes."""
        ...

    async def adopt(self, container_id: ContainerID, pid: int, joins: Sequence[Join]) -> None:
        """After an engine restart: take hold of a live container's namespace again (ports, resolver)."""
        ...


class Resolver(Protocol):
    """Names on user-defined networks, answered at 127.0.0.11:53 inside each sandbox."""

    async def serve(
        self,
        container_id: ContainerID,
        netns_fd: int,
        networks: Sequence[NetworkID],
        upstreams: Sequence[str],
        links: OwnNames = NO_NAMES,
    ) -> None: ...

    async def stop_serving(self, container_id: ContainerID) -> None: ...

    def publish(self, network_id: NetworkID, records: Sequence[NameRecord]) -> None:
        """Replace the zone of a network."""
        ...
