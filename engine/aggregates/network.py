"""A network: its subnets, its endpoints and the addresses they hold. A lease is a fold: it ends because an event ends
it.

Address choice is pure (values/subnet.py); the kernel's bridge follows. Small aggregate in one module: commands, events,
state, lifecycle, decide.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import ClassVar, assert_never

import msgspec
from msgspec.structs import replace

from engine.aggregates.decider import Command, Decider, Event, Reason, Rejected
from engine.aggregates.values.bridge_options import default_gateway
from engine.aggregates.values.endpoints import Endpoint
from engine.aggregates.values.ids import ContainerID, EndpointID, NetworkID
from engine.aggregates.values.subnet import Pool, mac_address, next_address


class NetworkCommand(Command, frozen=True, kw_only=True):
    network_id: NetworkID

    @property
    def key(self) -> str:
        return self.network_id


class NetworkSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a network is told to be. driver: bridge, macvlan, ipvlan, host, null. ipam_driver and options by
    Docker's names. config_only: settings for other networks; its pools are as they were asked for, nothing is chosen.
    config_from: the name of the one that these settings come from, or ""."""

    name: str
    driver: str
    pools: tuple[Pool, ...] = ()
    internal: bool = False
    attachable: bool = False
    enable_ipv4: bool = True
    enable_ipv6: bool = False
    ipam_driver: str = "default"
    ipam_options: Mapping[str, str] | None = None
    options: Mapping[str, str] = {}
    labels: Mapping[str, str] = {}
    config_only: bool = False
    config_from: str = ""


class CreateNetwork(NetworkCommand, frozen=True, kw_only=True):
    at: int
    settings: NetworkSettings
    predefined: bool = False


class RedefineNetwork(NetworkCommand, frozen=True, kw_only=True):
    """What a predefined network is from now on, because the engine's configuration changed. Nothing happens while
    containers are on it."""

    settings: NetworkSettings


class RetireNetwork(NetworkCommand, frozen=True, kw_only=True):
    """A predefined network that the configuration has no place for. Nothing happens while containers are on it."""

    at: int


class ReportNetworkReady(NetworkCommand, frozen=True, kw_only=True):
    pass


class ReportNetworkFailed(NetworkCommand, frozen=True, kw_only=True):
    """The kernel refused: the network is undone. fault: what kind of refusal, in the words of engine/errors.py."""

    error: str
    fault: str = ""


class AllocateEndpoint(NetworkCommand, frozen=True, kw_only=True):
    """A place for a container. address, ipv6_address: asked for by the user, or "". seed: random bytes for the MAC
    where no IPv4 address makes one."""

    endpoint_id: EndpointID
    container_id: ContainerID
    address: str = ""
    ipv6_address: str = ""
    mac_address: str = ""
    dns_names: tuple[str, ...] = ()
    seed: bytes = b""


class ReleaseEndpoint(NetworkCommand, frozen=True, kw_only=True):
    """Nothing happens when the container has no endpoint here."""

    container_id: ContainerID


class RemoveNetwork(NetworkCommand, frozen=True, kw_only=True):
    at: int


class ReportNetworkRemoved(NetworkCommand, frozen=True, kw_only=True):
    pass


class NetworkCreateRequested(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "network.create_requested"
    at: int
    settings: NetworkSettings
    predefined: bool = False


class NetworkCreated(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "network.created"


class NetworkCreateFailed(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "network.create_failed"
    error: str
    fault: str = ""


class NetworkRedefined(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "network.redefined"
    settings: NetworkSettings


class EndpointAllocated(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "network.endpoint_allocated"
    endpoint: Endpoint


class EndpointReleased(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "network.endpoint_released"
    endpoint_id: EndpointID
    container_id: ContainerID


class NetworkRemoveRequested(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "network.remove_requested"
    at: int


class NetworkRemoved(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "network.removed"


NetworkEvent = (
    NetworkCreateRequested
    | NetworkCreated
    | NetworkCreateFailed
    | NetworkRedefined
    | EndpointAllocated
    | EndpointReleased
    | NetworkRemoveRequested
    | NetworkRemoved
)


class NetworkStatus(enum.Enum):
    ABSENT = "absent"
    CREATING = "creating"
    READY = "ready"
    FAILED = "failed"
    REMOVING = "removing"
    REMOVED = "removed"


_N = NetworkStatus
TRANSITIONS: dict[tuple[NetworkStatus, type[Event]], tuple[NetworkStatus, str]] = {
    (_N.ABSENT, NetworkCreateRequested): (_N.CREATING, "user"),
    (_N.CREATING, NetworkCreated): (_N.READY, "networks reactor"),
    (_N.CREATING, NetworkCreateFailed): (_N.FAILED, "networks reactor"),
    (_N.CREATING, NetworkRedefined): (_N.CREATING, "start"),
    (_N.READY, NetworkRedefined): (_N.CREATING, "start"),
    (_N.READY, EndpointAllocated): (_N.READY, "lifecycle reactor"),
    (_N.READY, EndpointReleased): (_N.READY, "lifecycle reactor"),
    (_N.READY, NetworkRemoveRequested): (_N.REMOVING, "user"),
    (_N.REMOVING, NetworkRemoved): (_N.REMOVED, "networks reactor"),
}


class NetworkState(msgspec.Struct, frozen=True, kw_only=True):
    """before: what the kernel may still have of it, while it is created by other settings. cursors: per subnet the last
    address given, so that an address rests before reuse."""

    network_id: NetworkID
    status: NetworkStatus = NetworkStatus.ABSENT
    created_at: int = 0
    settings: NetworkSettings = NetworkSettings(name="", driver="")
    before: NetworkSettings | None = None
    predefined: bool = False
    endpoints: Mapping[ContainerID, Endpoint] = {}
    cursors: Mapping[str, str] = {}
    error: str = ""
    fault: str = ""

    @property
    def settled(self) -> bool:
        """The creation has an outcome."""
        return self.status not in (NetworkStatus.ABSENT, NetworkStatus.CREATING)

    @property
    def user_defined(self) -> bool:
        """Names are resolved here (the default bridge has none)."""
        return not self.predefined


def initial(key: str) -> NetworkState:
    return NetworkState(network_id=NetworkID(key))


def evolve(state: NetworkState, event: NetworkEvent) -> NetworkState:
    row = TRANSITIONS.get((state.status, type(event)))
    assert row is not None, f"no transition from {state.status.value} by {event.NAME}"
    status = row[0]
    match event:
        case NetworkCreateRequested():
            return replace(
                state, status=status, created_at=event.at, settings=event.settings, predefined=event.predefined
            )
        case NetworkCreated():
            return replace(state, status=status, before=None)
        case NetworkRemoveRequested() | NetworkRemoved():
            return replace(state, status=status)
        case NetworkRedefined():
            return replace(state, status=status, settings=event.settings, before=state.before or state.settings)
        case NetworkCreateFailed():
            return replace(state, status=status, error=event.error, fault=event.fault)
        case EndpointAllocated():
            endpoint = event.endpoint
            cursors = dict(state.cursors)
            for pool, address in zip(state.settings.pools, _addresses(state, endpoint), strict=True):
                if address:
                    cursors[pool.subnet] = address
            endpoints = {**state.endpoints, ContainerID(endpoint.container_id): endpoint}
            return replace(state, endpoints=endpoints, cursors=cursors)
        case EndpointReleased():
            left = {owner: held for owner, held in state.endpoints.items() if owner != event.container_id}
            return replace(state, endpoints=left)
        case _:
            assert_never(event)


def _addresses(state: NetworkState, endpoint: Endpoint) -> list[str]:
    """The endpoint's address in each pool, in the pools' order."""
    return [endpoint.ipv6_address if ":" in pool.subnet else endpoint.ipv4_address for pool in state.settings.pools]


NetworkCommands = (
    CreateNetwork
    | RedefineNetwork
    | RetireNetwork
    | ReportNetworkReady
    | ReportNetworkFailed
    | AllocateEndpoint
    | ReleaseEndpoint
    | RemoveNetwork
    | ReportNetworkRemoved
)


def decide(state: NetworkState, command: NetworkCommands) -> tuple[Event, ...]:
    match command:
        case CreateNetwork():
            if state.status is not NetworkStatus.ABSENT:
                return ()
            request = NetworkCreateRequested(at=command.at, settings=command.settings, predefined=command.predefined)
            return (request,)
        case RedefineNetwork():
            changes = _is_idle_default(state) and command.settings != state.settings
            return (NetworkRedefined(settings=command.settings),) if changes else ()
        case RetireNetwork():
            idle = _is_idle_default(state) and state.status is NetworkStatus.READY
            return (NetworkRemoveRequested(at=command.at),) if idle else ()
        case ReportNetworkReady():
            return (NetworkCreated(),) if state.status is NetworkStatus.CREATING else ()
        case ReportNetworkFailed():
            failed = NetworkCreateFailed(error=command.error, fault=command.fault)
            return (failed,) if state.status is NetworkStatus.CREATING else ()
        case AllocateEndpoint():
            return _allocate(state, command)
        case ReleaseEndpoint():
            held = state.endpoints.get(command.container_id)
            if held is None:
                return ()
            return (EndpointReleased(endpoint_id=EndpointID(held.endpoint_id), container_id=command.container_id),)
        case RemoveNetwork():
            return _remove(state, command)
        case ReportNetworkRemoved():
            return (NetworkRemoved(),) if state.status is NetworkStatus.REMOVING else ()
        case _:
            assert_never(command)


def _is_idle_default(state: NetworkState) -> bool:
    living = state.status in (NetworkStatus.CREATING, NetworkStatus.READY)
    return living and state.predefined and not state.endpoints


def _allocate(state: NetworkState, command: AllocateEndpoint) -> tuple[Event, ...]:
    if state.status is not NetworkStatus.READY:
        raise Rejected(Reason.NOT_FOUND, f"network {state.settings.name or state.network_id} not found")
    if state.settings.config_only:
        raise Rejected(Reason.FORBIDDEN, "cannot create endpoint on configuration-only network")
    if command.container_id in state.endpoints:
        return ()
    if (command.address or command.ipv6_address) and state.predefined:
        raise Rejected(Reason.INVALID, "user specified IP address is supported on user defined networks only")
    taken = frozenset(
        address for held in state.endpoints.values() for address in (held.ipv4_address, held.ipv6_address) if address
    )
    endpoint = Endpoint(
        endpoint_id=command.endpoint_id,
        network_id=state.network_id,
        container_id=command.container_id,
        dns_names=command.dns_names,
    )
    for pool in state.settings.pools:
        six = ":" in pool.subnet
        wanted = command.ipv6_address if six else command.address
        address = next_address(pool, taken, wanted, state.cursors.get(pool.subnet, ""))
        prefix_length = int(pool.subnet.partition("/")[2])
        gateway = default_gateway(pool) if state.settings.driver == "bridge" else pool.gateway
        if six:
            endpoint = replace(
                endpoint, ipv6_address=address, ipv6_prefix_length=prefix_length, ipv6_gateway=gateway
            )
        else:
            endpoint = replace(
                endpoint,
                ipv4_address=address,
                ipv4_prefix_length=prefix_length,
                ipv4_gateway="" if state.settings.internal else gateway,
            )
    if state.settings.driver in ("bridge", "macvlan"):
        mac = command.mac_address or mac_address(endpoint.ipv4_address, command.seed)
        endpoint = replace(endpoint, mac_address=mac)
    return (EndpointAllocated(endpoint=endpoint),)


def _remove(state: NetworkState, command: RemoveNetwork) -> tuple[Event, ...]:
    if state.status is not NetworkStatus.READY:
        raise Rejected(Reason.NOT_FOUND, f"network {state.settings.name or state.network_id} not found")
    if state.predefined:
        raise Rejected(Reason.FORBIDDEN, f"{state.settings.name} is a pre-defined network and cannot be removed")
    if state.endpoints:
        users = ", ".join(
            f'name:"{(held.dns_names or (owner[:12],))[0]}" id:"{held.endpoint_id[:12]}"'
            for owner, held in sorted(state.endpoints.items())
        )
        raise Rejected(
            Reason.FORBIDDEN,
            f"error while removing network: network {state.settings.name} has active endpoints ({users})",
        )
    return (NetworkRemoveRequested(at=command.at),)


DECIDER: Decider[NetworkState] = Decider(
    name="network",
    initial=initial,
    decide=decide,
    evolve=evolve,
    terminal=lambda state: state.status in (NetworkStatus.REMOVED, NetworkStatus.FAILED),
    commands=NetworkCommands.__args__,
    events=NetworkEvent.__args__,
    endings=(NetworkRemoved, NetworkCreateFailed),
)
