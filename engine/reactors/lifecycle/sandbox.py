"""From a container's state to what its sandbox should look like: pure, shared by start, exit, connect and recovery."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from engine.aggregates.container.commands import ReportStarted
from engine.aggregates.container.state import ContainerState
from engine.aggregates.network import NetworkState
from engine.aggregates.values import endpoint_options
from engine.aggregates.values.endpoints import Endpoint, NetworkAttachment, PublishedPort
from engine.drivers.ports.network import Join, NameRecord, NetworkSpec
from engine.projections.networks import Networks
from engine.transactions import carrier

NO_WISH = NetworkAttachment(name="")


def spec_of(state: NetworkState) -> NetworkSpec:
    """A network as its driver wants it."""
    settings = state.settings
    return NetworkSpec(
        network_id=state.network_id,
        name=settings.name,
        driver=settings.driver,
        internal=settings.internal,
        subnets=tuple(pool.subnet for pool in settings.pools),
        gateways=tuple(pool.gateway for pool in settings.pools),
        options=settings.options,
    )


def joins_of(state: ContainerState, networks: Networks) -> tuple[Join, ...]:
    """The joins that a running container has."""
    return joins(state.endpoints, state.networks, state.ports, networks, name=state.name, carrier=state.carrier)


def joins(
    endpoints: Iterable[Endpoint],
    attachments: Iterable[NetworkAttachment],
    ports: tuple[PublishedPort, ...],
    networks: Networks,
    *,
    name: str = "",
    carrier: str = "",
) -> tuple[Join, ...]:
    """One join per endpoint on a bridge, in the order of the endpoints; the default route goes by priority, then name
    (NET-22), never through an internal network. carrier: the endpoint id that carries the published ports since the
    start; at a start it is the one with the default route."""
    wishes = {attachment.network_id or attachment.name: attachment for attachment in attachments}
    found: list[tuple[Endpoint, NetworkState]] = []
    for endpoint in endpoints:
        network = networks.get(endpoint.network_id)
        if network is not None and network.settings.driver not in ("host", "null"):
            found.append((endpoint, network))
    gateway = _gateway(found, wishes)
    wished = [_options(network, wishes) for _, network in found]
    named = _interfaces([network for _, network in found], [endpoint_options.interface_name(each) for each in wished])
    return tuple(
        Join(
            network=spec_of(network),
            endpoint=endpoint,
            endpoint_name=name,
            interface=interface,
            fixed=bool(endpoint_options.interface_name(options)),
            sysctls=endpoint_options.sysctls(options),
            default_route=endpoint.endpoint_id == gateway,
            ports=ports if endpoint.endpoint_id == (carrier or gateway) else (),
        )
        for (endpoint, network), options, interface in zip(found, wished, named, strict=True)
    )


def _options(network: NetworkState, wishes: Mapping[str, NetworkAttachment]) -> Mapping[str, str]:
    wish = wishes.get(network.network_id) or wishes.get(network.settings.name)
    return (wish.config.driver_opts or {}) if wish is not None else {}


def _interfaces(networks: Sequence[NetworkState], asked: Sequence[str]) -> list[str]:
    """A name for each endpoint's interface: the one asked for, else the network's prefix with the endpoint's number, or
    the next number that nobody asked for or has."""
    taken = {name for name in asked if name}
    found: list[str] = []
    for index, (network, name) in enumerate(zip(networks, asked, strict=True)):
        prefix = network.settings.options.get(endpoint_options.PREFIX, "") or endpoint_options.DEFAULT_PREFIX
        number = index
        while not name:
            name = "" if f"{prefix}{number}" in taken else f"{prefix}{number}"
            number += 1
        taken.add(name)
        found.append(name)
    return found


def started(
    state: ContainerState,
    endpoints: Sequence[Endpoint],
    ports: tuple[PublishedPort, ...],
    networks: Networks,
    *,
    pid: int,
    at: int,
) -> ReportStarted:
    """The run that was asked for has begun, with the endpoints and ports that its intent allocated."""
    return ReportStarted(
        container_id=state.container_id,
        run=state.run,
        at=at,
        pid=pid,
        endpoints=tuple(endpoints),
        ports=ports,
        carrier=carrier_of(joins(endpoints, state.networks, ports, networks)),
    )


def carrier_of(planned: Iterable[Join]) -> str:
    """The endpoint id that the published ports lead to; "" without any."""
    return next((join.endpoint.endpoint_id for join in planned if join.ports), "")


def _gateway(found: list[tuple[Endpoint, NetworkState]], wishes: Mapping[str, NetworkAttachment]) -> str:
    """The endpoint id that carries the default route, or "" when every network is internal."""

    pairs = [(wishes.get(network.network_id) or NO_WISH, network) for _, network in found]
    network = carrier(pairs)
    return next((endpoint.endpoint_id for endpoint, each in found if each is network), "")


def name_records(network: NetworkState, names: Mapping[str, str]) -> tuple[NameRecord, ...]:
    """The zone of a network: every name of every endpoint on it. names: container id -> container name."""
    return tuple(
        NameRecord(
            name=name,
            ipv4_address=endpoint.ipv4_address,
            ipv6_address=endpoint.ipv6_address,
            container_name=names.get(container_id, ""),
        )
        for container_id, endpoint in network.endpoints.items()
        for name in endpoint.dns_names
    )
