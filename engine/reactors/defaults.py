"""The networks every engine has: `bridge`, `host`, `none` (SYS-07).

Appended at the first start like any user's network, and made by the same reactor; later starts find them in the log.
When what the configuration says of `bridge` has changed since, it is redefined, as long as no container is on it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from engine.aggregates.decider import Cause
from engine.aggregates.names import NameKind, ReserveName
from engine.aggregates.network import (
    CreateNetwork,
    NetworkSettings,
    NetworkState,
    NetworkStatus,
    RedefineNetwork,
    RetireNetwork,
)
from engine.aggregates.values.ids import NetworkID
from engine.aggregates.values.subnet import DEFAULT_NETWORK
from engine.config import DaemonConfig
from engine.reactors import default_bridge
from engine.reactors.base import Hands

logger = logging.getLogger("ishmael.networks")
NO_BRIDGE = "none"
_CAUSE = Cause(actor="reactor:defaults", correlation="start-up")


async def ensure_default_networks(
    hands: Hands,
    *,
    host_routes: Sequence[str],
    config: DaemonConfig = DaemonConfig(),  # noqa: B008 - a frozen value
    host_id: str = "",
    given_addresses: Sequence[str] = (),
) -> dict[str, NetworkID]:
    """Append what is missing; their ids by name. Idempotent. To be called before the networks reactor runs: it does not
    wait for it.

    host_routes: destinations the host reaches already; an own `docker0` of an earlier engine may be among them, and
    then the next pool is taken. host_id: of its own IPv6 subnets. given_addresses: with prefix lengths, of the bridge
    that the administrator names. Raises Rejected when no pool is free, ConfigError when what is asked can not be."""
    ids: dict[str, NetworkID] = {}
    for settings in (NetworkSettings(name="none", driver="null"), NetworkSettings(name="host", driver="host")):
        existing = hands.views.networks.named(settings.name)
        ids[settings.name] = existing.network_id if existing is not None else await _create(hands, settings)
    existing = hands.views.networks.named(DEFAULT_NETWORK)
    if config.bridge == NO_BRIDGE:
        if existing is not None:
            await _retire(hands, existing)
        return ids
    others = [state for state in hands.views.networks if state is not existing and not state.settings.config_only]
    taken = [*(pool.subnet for state in others for pool in state.settings.pools), *host_routes]
    before = existing.settings.pools if existing is not None else ()
    settings = default_bridge.settings(config, taken, host_id=host_id, before=before, given=given_addresses)
    if existing is None:
        ids[DEFAULT_NETWORK] = await _create(hands, settings)
    else:
        ids[DEFAULT_NETWORK] = existing.network_id
        if existing.settings != settings:
            await _redefine(hands, existing, settings)
    return ids


async def _create(hands: Hands, settings: NetworkSettings) -> NetworkID:
    network_id = NetworkID(hands.entropy.hex_id())
    await hands.application.execute(
        ReserveName(kind=NameKind.NETWORK, name=settings.name, owner=network_id),
        CreateNetwork(network_id=network_id, at=hands.clock.now_ns(), settings=settings, predefined=True),
        cause=_CAUSE,
    )
    return network_id


async def _redefine(hands: Hands, network: NetworkState, settings: NetworkSettings) -> None:
    done = await hands.application.execute(
        RedefineNetwork(network_id=network.network_id, settings=settings), cause=_CAUSE
    )
    if not done.recorded:
        logger.warning("containers are on the default network: what is configured of it waits for a start without them")


async def _retire(hands: Hands, network: NetworkState) -> None:
    if network.status is NetworkStatus.REMOVING:
        return
    done = await hands.application.execute(
        RetireNetwork(network_id=network.network_id, at=hands.clock.now_ns()), cause=_CAUSE
    )
    if not done.recorded:
        logger.warning("containers are on the default network: it stays until a start without them")
