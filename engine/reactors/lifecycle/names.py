"""Names on networks: the zones the resolver answers from, and which container is served which.

Owns: republishing a network's zone when its endpoints or their names change, and serving user-defined networks.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from engine.aggregates.container.state import ContainerState
from engine.aggregates.network import NetworkState
from engine.aggregates.values.endpoints import Endpoint
from engine.aggregates.values.ids import NetworkID
from engine.aggregates.values.links import parse_link
from engine.drivers.ports.network import OwnNames, Resolver, Sandboxes
from engine.reactors.base import Hands
from engine.reactors.lifecycle.sandbox import name_records


class Names:
    def __init__(self, hands: Hands, sandboxes: Sandboxes, resolver: Resolver, upstreams: Sequence[str]) -> None:
        self._hands = hands
        self._sandboxes = sandboxes
        self._resolver = resolver
        self._upstreams = tuple(upstreams)

    async def follow(self, after: int) -> None:
        """Keep every zone up to date."""
        for network in self._hands.views.networks:
            self.publish(network)
        async for recorded in self._hands.pump.subscribe(after, "network"):
            network = self._hands.application.state("network", recorded.key)
            assert isinstance(network, NetworkState)
            self.publish(network)

    def publish(self, network: NetworkState) -> None:
        if network.user_defined:
            containers = self._hands.views.containers
            names: dict[str, str] = {
                owner: state.name for owner in network.endpoints if (state := containers.get(owner)) is not None
            }
            self._resolver.publish(network.network_id, name_records(network, names))

    def resolving_of(self, endpoints: Sequence[Endpoint]) -> tuple[NetworkID, ...]:
        """The user-defined networks among those of the endpoints: with none, there is no resolver of ours."""
        networks = [self._hands.views.networks.get(endpoint.network_id) for endpoint in endpoints]
        return tuple(
            network.network_id
            for network in networks
            if network is not None and network.user_defined and network.settings.driver not in ("host", "null")
        )

    def upstreams(self, state: ContainerState, endpoints: Sequence[Endpoint]) -> tuple[str, ...]:
        """Where questions about other names go; nowhere from a container that is on internal networks only (NET-26)."""
        networks = [self._hands.views.networks.get(endpoint.network_id) for endpoint in endpoints]
        if all(network is not None and network.settings.internal for network in networks):
            return ()
        return tuple(filter(None, state.host.dns or ())) or self._upstreams

    def links(self, state: ContainerState, networks: Sequence[NetworkID]) -> OwnNames:
        """The names that only this container has for others on these networks (NET-24)."""
        found: dict[NetworkID, dict[str, str]] = {}
        for attachment in state.networks:
            network = self._hands.views.networks.lookup(attachment.network_id or attachment.name)
            if network is not None and network.network_id in networks:
                pairs = (parse_link(link) for link in attachment.config.links or ())
                found[network.network_id] = {alias.lower(): name.lower() for name, alias in pairs}
        return found

    async def serve_running(self, state: ContainerState) -> None:
        """Serve a running container by what it is on now."""
        if not state.pid or not self.resolving_of(state.endpoints):
            return
        netns_fd = await self._sandboxes.enter(state.container_id, state.pid)
        try:
            await self.serve(state, netns_fd, state.endpoints)
        finally:
            os.close(netns_fd)

    async def serve(self, state: ContainerState, netns_fd: int, endpoints: Sequence[Endpoint]) -> None:
        """Serve a namespace by these endpoints; without a user-defined network among them nothing is served."""
        networks = self.resolving_of(endpoints)
        if networks:
            upstreams, links = self.upstreams(state, endpoints), self.links(state, networks)
            await self._resolver.serve(state.container_id, netns_fd, networks, upstreams, links)
