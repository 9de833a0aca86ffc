"""Configuration networks: settings under a name (`--config-only`) for networks made of them (`--config-from`).

Pure. Source: moby daemon/libnetwork/network.go (validateConfiguration, applyConfigurationTo).
"""

from __future__ import annotations

from msgspec.structs import replace

from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.network import NetworkSettings
from engine.api.shapes.networks import CreateNetworkBody, IPAMBody, IPAMConfigBody

DRIVER = "null"
"""What moby calls theirs, so that nothing takes them for networks."""


def source_of(body: CreateNetworkBody) -> str:
    """The configuration network that a network is to be made of, or ""."""
    return body.config_from.network if body.config_from is not None else ""


def check(body: CreateNetworkBody) -> None:
    """Raises Rejected(FORBIDDEN) for what does not go together."""
    if body.config_only and (body.ingress or body.internal or body.attachable or body.scope):
        _refuse(
            "configuration network can only contain network specific fields. Network operator fields like "
            "[ ingress | internal | attachable | scope ] are not supported."
        )
    if not source_of(body):
        return
    if body.config_only:
        _refuse("a configuration network cannot depend on another configuration network")
    ipam = body.ipam or IPAMBody()
    if (
        ipam.driver not in ("", "default")
        or body.enable_ipv4 is False
        or body.enable_ipv6
        or body.labels
        or ipam.options
        or ipam.config
    ):
        _refuse("user-specified configurations are not supported if the network depends on a configuration network")
    if body.options:
        _refuse("network driver options are not supported if the network depends on a configuration network")


def _refuse(words: str) -> None:
    raise Rejected(Reason.FORBIDDEN, words)


def configured(body: CreateNetworkBody, source: NetworkSettings) -> CreateNetworkBody:
    """A request for a network, with what its configuration network says."""
    config = tuple(
        IPAMConfigBody(subnet=pool.subnet, ip_range=pool.ip_range, gateway=pool.gateway, auxiliary=pool.auxiliary)
        for pool in source.pools
    )
    return replace(
        body,
        ipam=IPAMBody(driver=source.ipam_driver, options=source.ipam_options, config=config),
        enable_ipv4=source.enable_ipv4,
        enable_ipv6=source.enable_ipv6,
        options=source.options,
        labels=source.labels,
    )
