"""The networks every engine has: `bridge`, `host`, `none` (SYS-07).

Appended at the first start like any user's network, and made by the same reactor; later starts find them in the log.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from engine.aggregates.decider import Cause
from engine.aggregates.names import NameKind, ReserveName
from engine.aggregates.network import CreateNetwork, NetworkSettings
from engine.aggregates.values.ids import NetworkID
from engine.aggregates.values.subnet import AddressPool, Pool, choose_subnet, make_pool
from engine.config import DaemonConfig
from engine.reactors.base import Hands

BRIDGE_NAME = "docker0"
MTU = 1500


async def ensure_default_networks(
    hands: Hands,
    *,
    host_routes: Sequence[str],
    config: DaemonConfig = DaemonConfig(),  # noqa: B008 - a frozen value
) -> dict[str, NetworkID]:
    """Append what is missing; their ids by name. Idempotent. To be called before the networks reactor runs: it does not
    wait for it.

    host_routes: destinations the host reaches already; an own `docker0` of an earlier engine may be among them, and
    then the next pool is taken. Raises Rejected when no pool is free."""
    cause = Cause(actor="reactor:defaults", correlation="start-up")
    ids: dict[str, NetworkID] = {}
    for settings in (
        NetworkSettings(name="none", driver="null"),
        NetworkSettings(name="host", driver="host"),
        _bridge(hands, host_routes, config),
    ):
        existing = hands.views.networks.named(settings.name)
        if existing is not None:
            ids[settings.name] = existing.network_id
            continue
        network_id = ids[settings.name] = NetworkID(hands.entropy.hex_id())
        await hands.application.execute(
            ReserveName(kind=NameKind.NETWORK, name=settings.name, owner=network_id),
            CreateNetwork(network_id=network_id, at=hands.clock.now_ns(), settings=settings, predefined=True),
            cause=cause,
        )
    return ids


def _bridge(hands: Hands, host_routes: Sequence[str], config: DaemonConfig) -> NetworkSettings:
    existing = hands.views.networks.named("bridge")
    if existing is not None:
        return existing.settings
    networks = [pool.subnet for state in hands.views.networks for pool in state.settings.pools]
    return NetworkSettings(
        name="bridge",
        driver="bridge",
        pools=(_pool((*networks, *host_routes), config),),
        options={
            "com.docker.network.bridge.default_bridge": "true",
            "com.docker.network.bridge.enable_icc": _word(config.icc),
            "com.docker.network.bridge.enable_ip_masquerade": _word(config.ip_masq),
            "com.docker.network.bridge.host_binding_ipv4": "0.0.0.0",  # noqa: S104 - Docker's default, as inspect shows it
            "com.docker.network.bridge.name": BRIDGE_NAME,
            "com.docker.network.driver.mtu": str(MTU),
        },
    )


def _pool(taken: Sequence[str], config: DaemonConfig) -> Pool:
    """`--bip` names the bridge's own address; else the first free pool, whose first address it gets."""
    if config.bip:
        interface = ipaddress.ip_interface(config.bip)
        return make_pool(str(interface.network), gateway=str(interface.ip))
    pools = [AddressPool(base=pool.base, size=pool.size) for pool in config.default_address_pools]
    return make_pool(choose_subnet(taken, [pool for pool in pools if ":" not in pool.base]))


def _word(flag: bool) -> str:
    return "true" if flag else "false"
