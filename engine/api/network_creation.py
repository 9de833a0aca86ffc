"""`POST /networks/create`: from a body to a network whose bridge is there (NET-01, NET-09 to NET-12, NET-40).

Subnets are chosen here, under one lock, because "overlaps no other network" is a rule over all networks and so no
single stream's: choosing and appending are one step for this engine. Likewise "no network is made of it any more".
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from engine.aggregates.decider import Cause, Reason, Rejected
from engine.aggregates.names import NameKind, ReserveName
from engine.aggregates.network import CreateNetwork, NetworkState, NetworkStatus
from engine.aggregates.values.ids import NetworkID
from engine.api.context import ApiContext
from engine.api.new_network import NewNetworks
from engine.api.shapes import networks as shapes
from engine.api.streams import unaborted
from engine.errors import Fault, PortError

SETTLE_DEADLINE_S = 60.0
"""A bridge is made in milliseconds; what takes longer than this is stuck, and its client is told so."""


class NetworkCreation:
    """Making networks, with the lock that choosing subnets needs."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._choosing = trio.Lock()

    async def create(self, body: shapes.CreateNetworkBody, cause: Cause) -> NetworkID:
        """The new network's id, when its bridge is there. Raises Rejected, PortError."""
        context = self._context
        planning = NewNetworks(
            context.views.networks, context.config, host_routes=context.host_routes(), host_id=context.engine_id
        )
        planning.check(body)
        network_id = NetworkID(context.entropy.hex_id())
        async with self._choosing:
            settings = planning.settings(body)
            with unaborted():  # the next choice must see this one, also when its client has left
                await context.application.execute(
                    ReserveName(kind=NameKind.NETWORK, name=settings.name, owner=network_id),
                    CreateNetwork(network_id=network_id, at=context.clock.now_ns(), settings=settings),
                    cause=cause,
                )
        state = await self.settled(network_id, lambda state: state.settled, f"network {settings.name}")
        if state.status is NetworkStatus.FAILED:
            raise PortError("create network", state.error, fault=Fault(state.fault) if state.fault else Fault.SYSTEM)
        return network_id

    async def settled(self, network_id: NetworkID, predicate: Callable[[Any], object], what: str) -> NetworkState:
        """The network once the kernel has followed. Raises PortError."""
        with trio.move_on_after(SETTLE_DEADLINE_S):
            state = await self._context.pump.until(f"network:{network_id}", predicate)
            assert isinstance(state, NetworkState)
            return state
        raise PortError("network", f"{what}: the kernel has not followed within {SETTLE_DEADLINE_S:.0f} s")

    @asynccontextmanager
    async def unused(self, state: NetworkState) -> AsyncIterator[None]:
        """For the length of the block no network is made of this configuration. Raises Rejected(FORBIDDEN) when one
        is."""
        if not state.settings.config_only:
            yield
            return
        async with self._choosing:
            name = state.settings.name
            if any(other.settings.config_from == name for other in self._context.views.networks):
                words = f'error while removing network: configuration network "{name}" is in use'
                raise Rejected(Reason.FORBIDDEN, words)
            yield
