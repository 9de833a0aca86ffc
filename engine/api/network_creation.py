"""`POST /networks/create`: from a body to a network whose bridge is there (NET-01, NET-09 to NET-12, NET-40).

Subnets are chosen here, under one lock, because "overlaps no other network" is a rule over all networks and so no
single stream's: choosing and appending are one step for this engine. Likewise "no network is made of it any more".
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import trio

from engine.aggregates.decider import Cause, Reason, Rejected
from engine.aggregates.names import NameKind, ReserveName
from engine.aggregates.network import CreateNetwork, NetworkSettings, NetworkState, NetworkStatus
from engine.aggregates.values.ids import NetworkID
from engine.aggregates.values.subnet import AddressPool, Pool
from engine.api import config_networks, subnets
from engine.api.context import ApiContext
from engine.api.shapes import networks as shapes
from engine.api.streams import unaborted
from engine.errors import Fault, PortError

PREDEFINED_NAMES = frozenset({"bridge", "host", "none", "default"})
SETTLE_DEADLINE_S = 60.0
"""A bridge is made in milliseconds; what takes longer than this is stuck, and its client is told so."""


class NetworkCreation:
    """Making networks, with the lock that choosing subnets needs."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._choosing = trio.Lock()

    async def create(self, body: shapes.CreateNetworkBody, cause: Cause) -> NetworkID:
        """The new network's id, when its bridge is there. Raises Rejected, PortError."""
        self._check(body)
        network_id = NetworkID(self._context.entropy.hex_id())
        async with self._choosing:
            settings = self._settings(body)
            with unaborted():  # the next choice must see this one, also when its client has left
                await self._context.application.execute(
                    ReserveName(kind=NameKind.NETWORK, name=settings.name, owner=network_id),
                    CreateNetwork(network_id=network_id, at=self._context.clock.now_ns(), settings=settings),
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

    def _check(self, body: shapes.CreateNetworkBody) -> None:
        if not body.name.strip():
            raise Rejected(Reason.INVALID, "invalid network name: name is empty")
        if body.name in PREDEFINED_NAMES:
            raise Rejected(Reason.FORBIDDEN, f"operation is not permitted on predefined {body.name} network ")
        if self._context.views.networks.named(body.name) is not None:
            raise Rejected(Reason.CONFLICT, f"network with name {body.name} already exists")
        config_networks.check(body)
        if body.ingress or body.scope == "swarm":
            words = "swarm networks: not supported by this engine (not implemented)"
            raise Rejected(Reason.NOT_IMPLEMENTED, words)

    def _settings(self, body: shapes.CreateNetworkBody) -> NetworkSettings:
        source = config_networks.source_of(body)
        if source:
            body = config_networks.configured(body, self._config_network(source).settings)
        driver = config_networks.DRIVER if body.config_only else body.driver or "bridge"
        if not body.config_only:
            subnets.check_drivers(body)
            subnets.check_parent(body, [(state.network_id, state.settings) for state in self._context.views.networks])
        defaults = {} if source else self._context.config.default_network_opts.get(body.driver or "bridge", {})
        options = {**defaults, **(body.options or {})}
        enable_ipv4, enable_ipv6 = subnets.families(body, options)
        ipam = body.ipam or shapes.IPAMBody()
        pools = self._pools(ipam, body.config_only, enable_ipv4=enable_ipv4, enable_ipv6=enable_ipv6)
        subnets.check_default_gateways(driver, pools, internal=body.internal)
        return NetworkSettings(
            name=body.name,
            driver=driver,
            pools=pools,
            internal=body.internal,
            attachable=body.attachable,
            enable_ipv4=enable_ipv4,
            enable_ipv6=enable_ipv6,
            ipam_driver=ipam.driver or "default",
            ipam_options=None if ipam.options is None else dict(ipam.options),
            options=options,
            labels=dict(body.labels or {}),
            config_only=body.config_only,
            config_from=source,
        )

    def _config_network(self, name: str) -> NetworkState:
        found = self._context.views.networks.named(name)
        if found is None or not found.settings.config_only or found.status is not NetworkStatus.READY:
            raise Rejected(Reason.NOT_FOUND, f'configuration network "{name}" does not exist')
        return found

    def _pools(
        self, ipam: shapes.IPAMBody, config_only: bool, *, enable_ipv4: bool, enable_ipv6: bool
    ) -> tuple[Pool, ...]:
        if config_only:
            return subnets.asked_pools(ipam, enable_ipv4=enable_ipv4, enable_ipv6=enable_ipv6)
        configured = self._context.config.default_address_pools
        space = subnets.AddressSpace(
            networks=tuple(self._taken()),
            host_routes=tuple(self._context.host_routes()),
            pools=tuple(AddressPool(base=pool.base, size=pool.size) for pool in configured),
            host_id=self._context.engine_id,
        )
        return subnets.choose_pools(ipam, enable_ipv4=enable_ipv4, enable_ipv6=enable_ipv6, space=space)

    def _taken(self) -> Iterable[str]:
        """What is only said in a configuration is not taken."""
        for state in self._context.views.networks:
            if not state.settings.config_only:
                yield from (pool.subnet for pool in state.settings.pools)
