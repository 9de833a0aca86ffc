"""What a request for a network comes to: its settings, with subnets that overlap no other network's. Pure.

Owns the checks over all networks, and what the engine's configuration adds. Refuses to know: HTTP, the kernel and the
log; destinations that the host reaches already come in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.network import NetworkSettings, NetworkState, NetworkStatus
from engine.aggregates.values.subnet import AddressPool, Pool
from engine.api import config_networks, subnets
from engine.api.shapes import networks as shapes
from engine.config import DaemonConfig
from engine.projections.networks import Networks

PREDEFINED_NAMES = frozenset({"bridge", "host", "none", "default"})


class NewNetworks:
    """networks: all that there are. host_id: pins the host's own IPv6 pool."""

    def __init__(self, networks: Networks, daemon: DaemonConfig, *, host_routes: Sequence[str], host_id: str) -> None:
        self._networks = networks
        self._daemon = daemon
        self._host_routes = tuple(host_routes)
        self._host_id = host_id

    def check(self, body: shapes.CreateNetworkBody) -> None:
        """Raises Rejected for what can be told without choosing a subnet."""
        if not body.name.strip():
            raise Rejected(Reason.INVALID, "invalid network name: name is empty")
        if body.name in PREDEFINED_NAMES:
            raise Rejected(Reason.FORBIDDEN, f"operation is not permitted on predefined {body.name} network ")
        if self._networks.named(body.name) is not None:
            raise Rejected(Reason.CONFLICT, f"network with name {body.name} already exists")
        config_networks.check(body)
        if body.ingress or body.scope == "swarm":
            words = "swarm networks: not supported by this engine (not implemented)"
            raise Rejected(Reason.NOT_IMPLEMENTED, words)

    def settings(self, body: shapes.CreateNetworkBody) -> NetworkSettings:
        """Of a body that was checked. Raises Rejected."""
        source = config_networks.source_of(body)
        if source:
            body = config_networks.configured(body, self._config_network(source).settings)
        driver = config_networks.DRIVER if body.config_only else body.driver or "bridge"
        if not body.config_only:
            subnets.check_drivers(body)
            subnets.check_parent(body, [(state.network_id, state.settings) for state in self._networks])
        defaults = {} if source else self._daemon.default_network_opts.get(body.driver or "bridge", {})
        options = {**defaults, **(body.options or {})}
        enable_ipv4, enable_ipv6 = subnets.families(body, options)
        ipam = body.ipam or shapes.IPAMBody()
        pools = self._pools(ipam, body.config_only, enable_ipv4=enable_ipv4, enable_ipv6=enable_ipv6)
        subnets.check_default_gateways(driver, pools, internal=body.internal)
        settings = NetworkSettings(
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
        subnets.check_bridge(settings, [(state.network_id, state.settings) for state in self._networks])
        return settings

    def _config_network(self, name: str) -> NetworkState:
        found = self._networks.named(name)
        if found is None or not found.settings.config_only or found.status is not NetworkStatus.READY:
            raise Rejected(Reason.NOT_FOUND, f'configuration network "{name}" does not exist')
        return found

    def _pools(
        self, ipam: shapes.IPAMBody, config_only: bool, *, enable_ipv4: bool, enable_ipv6: bool
    ) -> tuple[Pool, ...]:
        if config_only:
            return subnets.asked_pools(ipam, enable_ipv4=enable_ipv4, enable_ipv6=enable_ipv6)
        configured = self._daemon.default_address_pools
        space = subnets.AddressSpace(
            networks=tuple(self._taken()),
            host_routes=self._host_routes,
            pools=tuple(AddressPool(base=pool.base, size=pool.size) for pool in configured),
            host_id=self._host_id,
        )
        return subnets.choose_pools(ipam, enable_ipv4=enable_ipv4, enable_ipv6=enable_ipv6, space=space)

    def _taken(self) -> Iterable[str]:
        """What is only said in a configuration is not taken."""
        for state in self._networks:
            if not state.settings.config_only:
                yield from (pool.subnet for pool in state.settings.pools)
