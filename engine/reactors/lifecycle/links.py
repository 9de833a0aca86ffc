"""Connecting a running container to a network, and taking it off again.

The address is in the log with the wish (transactions.py); the kernel follows; a refusal gives the address back.
"""

from __future__ import annotations

import logging
import os

import trio
from msgspec.structs import replace

from engine.aggregates.container import commands as c
from engine.aggregates.container.state import ContainerState
from engine.aggregates.network import NetworkState, ReleaseEndpoint
from engine.aggregates.values.endpoints import Endpoint, NetworkAttachment
from engine.aggregates.values.ids import ContainerID, NetworkID
from engine.drivers.ports.network import Join, Sandboxes
from engine.errors import PortError
from engine.reactors.base import Hands
from engine.reactors.lifecycle import plan as effects
from engine.reactors.lifecycle.linked import Linked
from engine.reactors.lifecycle.names import Names
from engine.reactors.lifecycle.sandbox import joins, joins_of

logger = logging.getLogger("ishmael.lifecycle")
NAME = "lifecycle"


class Links:
    def __init__(self, hands: Hands, sandboxes: Sandboxes, names: Names, linked: Linked) -> None:
        self._hands = hands
        self._sandboxes = sandboxes
        self._names = names
        self._linked = linked

    async def join(self, effect: effects.JoinNetwork, correlation: str) -> None:
        """Join at the address that the wish came with, report. Idempotent."""
        network_id = NetworkID(effect.network_id)
        state = self._hands.container(effect.container_id)
        wish = next((wish for wish in state.connecting if wish.network_id == network_id), None)
        if wish is None:
            return  # The container ended or left meanwhile, and took the wish with it.
        try:
            endpoint = self._endpoint(effect)
            await self._make(wish, endpoint)
            await self._linked.tell(state)
        except PortError as error:
            await self._hands.report(
                NAME,
                correlation,
                c.ReportConnectFailed(container_id=effect.container_id, network_id=network_id, error=error.message),
                ReleaseEndpoint(network_id=network_id, container_id=effect.container_id),
            )
            return
        await self._hands.report(
            NAME,
            correlation,
            c.ReportConnected(container_id=effect.container_id, network_id=network_id, endpoint=endpoint),
        )
        await self._names.serve_running(self._hands.container(effect.container_id))

    async def unlinked(self, state: ContainerState) -> None:
        """A link was taken back while its container may run: what it opened is closed."""
        try:
            await self._linked.open(state)
        except PortError as error:
            logger.warning("what a link of %s had opened stays so until it ends: %s", state.name, error.message)

    def _endpoint(self, effect: effects.JoinNetwork) -> Endpoint:
        network = self._hands.application.state("network", effect.network_id)
        assert isinstance(network, NetworkState)
        endpoint = network.endpoints.get(effect.container_id)
        if endpoint is None:
            raise PortError("connect", f"the container holds no address on network {network.settings.name}")
        return endpoint

    async def _make(self, wish: NetworkAttachment, endpoint: Endpoint) -> None:
        state = self._hands.container(endpoint.container_id)
        planned = joins((*state.endpoints, endpoint), (*state.networks, wish), state.ports, self._hands.views.networks)
        mine = next((join for join in planned if join.endpoint.endpoint_id == endpoint.endpoint_id), None)
        if mine is None:
            return
        (mine,) = self._linked.opened(state, (mine,))
        # The ports stay where the start put them: only a new start moves them to another gateway (as in moby).
        mine = replace(mine, ports=())
        if not mine.fixed:
            prefix = mine.interface.rstrip("0123456789")
            interface = await self._sandboxes.free_interface(state.container_id, state.pid, prefix)
            mine = replace(mine, interface=interface)
        await self._in_namespace(state.pid, state.container_id, mine)

    async def _in_namespace(self, pid: int, container_id: ContainerID, join: Join) -> None:
        netns_fd = await self._sandboxes.enter(container_id, pid)
        try:
            await self._sandboxes.join(container_id, netns_fd, (join,))
        finally:
            os.close(netns_fd)

    async def _move_default_route(self, state: ContainerState, left: str) -> None:
        """The endpoint that comes next by priority carries the default route now (NET-22)."""
        staying = [endpoint for endpoint in state.endpoints if endpoint.network_id != left]
        wishes = [attachment for attachment in state.networks if attachment.network_id != left]
        planned = joins(staying, wishes, (), self._hands.views.networks)
        gateway = next((join for join in planned if join.default_route), None)
        if gateway is None or not state.pid:
            return
        netns_fd = await self._sandboxes.enter(state.container_id, state.pid)
        try:
            await self._sandboxes.route(state.container_id, netns_fd, gateway)
        finally:
            os.close(netns_fd)

    async def leave(self, effect: effects.LeaveNetwork, correlation: str) -> None:
        state = self._hands.container(effect.container_id)
        leaving = [
            join
            for join in joins_of(state, self._hands.views.networks)
            if join.endpoint.network_id == effect.network_id
        ]
        await self._sandboxes.leave(effect.container_id, leaving, sandbox_gone=False)
        if any(join.default_route for join in leaving):
            try:
                await self._move_default_route(state, effect.network_id)
            except PortError as error:
                # The container may have taken its routes into its own hands: leaving is not held up by that.
                logger.warning("container %s keeps no default route: %s", state.container_id, error.message)
        with trio.CancelScope(shield=True):
            await self._hands.report(
                NAME,
                correlation,
                c.ReportDisconnected(container_id=effect.container_id, network_id=effect.network_id),
                ReleaseEndpoint(network_id=NetworkID(effect.network_id), container_id=effect.container_id),
            )
        await self._names.serve_running(self._hands.container(effect.container_id))
