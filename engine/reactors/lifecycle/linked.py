"""Legacy links (CTR-44): what a container on the default bridge is told of those it links to.

Owns: whether the linked ones can be linked to now, their variables, the lines in /etc/hosts and what the bridge lets
through with `--icc=false`; both follow a linked container to its next address while the one that links runs on.
How it works: addresses are read from the bridge's leases and not from containers: a lease is there before the start
that took it has its outcome, so of two starts at once the later one sees the earlier one's.
Source: moby daemon/container_operations_unix.go.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

from msgspec.structs import replace

from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.values.endpoints import Endpoint
from engine.aggregates.values.etc_files import relinked
from engine.aggregates.values.links import Link, variables
from engine.drivers.ports.network import Join, Opening, Sandboxes
from engine.drivers.ports.storage import ContainerFolders
from engine.errors import PortError
from engine.reactors.base import Hands
from engine.reactors.lifecycle.sandbox import joins

logger = logging.getLogger("ishmael.lifecycle")


class Linked:
    """with_variables: whether the environment of the linked containers is told, as it was until Docker 28."""

    def __init__(
        self, hands: Hands, folders: ContainerFolders, sandboxes: Sandboxes, *, with_variables: bool
    ) -> None:
        self._hands = hands
        self._folders = folders
        self._sandboxes = sandboxes
        self._with_variables = with_variables

    def check(self, state: ContainerState, endpoints: Sequence[Endpoint]) -> None:
        """Raises Rejected unless everybody it links to runs, on the default bridge as it does itself."""
        if not self._on_bridge(endpoints):
            return
        for link in state.links:
            linked = self._hands.container(link.container_id)
            if not linked.alive:
                words = f"/{self._name(link)} AS /{state.name}/{link.alias}"
                raise Rejected(Reason.SYSTEM, f"Cannot link to a non running container: {words}")
            if self._lease(link) is None:
                words = f"Cannot link to /{linked.name}, as it does not belong to the default network"
                raise Rejected(Reason.SYSTEM, words)

    def variables(self, state: ContainerState) -> tuple[str, ...]:
        """Those of the linked containers that run: a secret, made anew for every process and kept nowhere. moby refuses
        an exec when one of them has ended; here it only has fewer variables."""
        found: list[str] = []
        for link in state.links if self._with_variables else ():
            linked, lease = self._hands.container(link.container_id), self._lease(link)
            if linked.alive and lease is not None:
                exposed = linked.config.exposed_ports or {}
                found += variables(
                    f"/{state.name}/{link.alias}", lease.ipv4_address, self._hands.env(linked), exposed
                )
        return tuple(found)

    def records(self, state: ContainerState, endpoints: Sequence[Endpoint]) -> tuple[tuple[str, str], ...]:
        """(address, names) for the container's own /etc/hosts."""
        if not self._on_bridge(endpoints):
            return ()
        return tuple(record for link in state.links for record in self._records(link))

    def opened(self, state: ContainerState, planned: Sequence[Join]) -> tuple[Join, ...]:
        """The joins of a container, the one to the default bridge with the exposed ports of those it links to."""
        bridge = self._hands.views.networks.named("bridge")
        openings = tuple(opening for link in state.links if (opening := self._opening(link)) is not None)
        return tuple(
            replace(join, openings=openings)
            if bridge is not None and join.network.network_id == bridge.network_id
            else join
            for join in planned
        )

    def _opening(self, link: Link) -> Opening | None:
        lease, linked = self._lease(link), self._hands.container(link.container_id)
        if lease is None:
            return None
        return Opening(endpoint_id=lease.endpoint_id, ports=tuple(linked.config.exposed_ports or ()))

    async def open(self, state: ContainerState) -> None:
        """Let a running container reach what its links allow now, and nothing else. Raises PortError."""
        bridge = self._hands.views.networks.named("bridge")
        lease = bridge.endpoints.get(state.container_id) if bridge is not None else None
        if lease is not None:
            for join in self.opened(state, joins((lease,), state.networks, (), self._hands.views.networks)):
                await self._sandboxes.open_between(join)

    async def tell(self, state: ContainerState) -> None:
        """Bring everybody who links to this container up to date: it has an address on the bridge."""
        for owner, link in self._hands.views.containers.linking_to(state.container_id):
            records = self._records(link)
            if not records or not (owner.alive or owner.starting):
                continue
            try:
                change = partial(relinked, alias=link.alias, records=records)
                await self._folders.edit(owner.container_id, "hosts", change)
                await self.open(owner)
            except PortError as error:
                # What a container made of its own file does not hold up another one's start.
                logger.warning("%s, which links to %s, is not told of it: %s", owner.name, state.name, error.message)

    def _records(self, link: Link) -> tuple[tuple[str, str], ...]:
        """The linked container by its alias, its hostname and its name."""
        lease, linked = self._lease(link), self._hands.container(link.container_id)
        if lease is None:
            return ()
        names = " ".join(dict.fromkeys((link.alias, linked.config.hostname, self._name(link))))
        return tuple((address, names) for address in (lease.ipv4_address, lease.ipv6_address) if address)

    def _name(self, link: Link) -> str:
        """Its name now; of one that is gone, the name it had."""
        linked = self._hands.views.containers.get(link.container_id)
        return linked.name if linked is not None else link.name

    def _on_bridge(self, endpoints: Sequence[Endpoint]) -> bool:
        bridge = self._hands.views.networks.named("bridge")
        return bridge is not None and any(endpoint.network_id == bridge.network_id for endpoint in endpoints)

    def _lease(self, link: Link) -> Endpoint | None:
        bridge = self._hands.views.networks.named("bridge")
        return bridge.endpoints.get(link.container_id) if bridge is not None else None
