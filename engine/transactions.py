"""What several aggregates must do together: pure functions that compose commands of one transaction.

A start takes a container's intent, an address on each of its networks and its host ports, or none of them; an exit
gives all of that back. The API and the reactors hand the result to `application.execute(*commands)`.
Refuses to know: I/O, clocks, identifiers (they come in).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_address

import msgspec
from msgspec.structs import replace

from engine.aggregates.container import commands as c
from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Command, Reason, Rejected
from engine.aggregates.image import RequireImage, TagImage, UntagImage
from engine.aggregates.names import MoveName, NameKind, ReleaseName, ReserveName
from engine.aggregates.network import AllocateEndpoint, NetworkSettings, NetworkState, ReleaseEndpoint
from engine.aggregates.ports import ReleasePorts, ReservePorts
from engine.aggregates.values.bridge_options import host_addresses, is_routed
from engine.aggregates.values.endpoints import NetworkAttachment, PortWish
from engine.aggregates.values.ids import Digest, EndpointID, ImageID, NetworkID, VolumeName, short
from engine.aggregates.values.mounts import MountPoint
from engine.aggregates.values.ports import port_wishes
from engine.aggregates.values.subnet import DEFAULT_NETWORK
from engine.aggregates.volume import ReferenceVolume, ReleaseVolume

NO_DIGEST = Digest("")

FindNetwork = Callable[[str], NetworkState | None]
"""By id, name or prefix."""


class EphemeralRange(msgspec.Struct, frozen=True, kw_only=True):
    """The host's ephemeral ports (net.ipv4.ip_local_port_range), and those known to be taken by other programs."""

    first: int = 32768
    last: int = 60999
    avoid: frozenset[int] = frozenset()


def start(
    state: ContainerState,
    intent: c.StartContainer | c.RestartContainer,
    *,
    find_network: FindNetwork,
    endpoint_ids: Callable[[], str],
    seed: Callable[[int], bytes],
    ephemeral: EphemeralRange,
) -> tuple[Command, ...]:
    """A start (or restart) with everything it needs to hold. Raises Rejected(NOT_FOUND) for a network that is gone."""
    commands: list[Command] = []
    attachments: list[NetworkAttachment] = []
    found: list[tuple[NetworkAttachment, NetworkState]] = []
    for attachment in state.networks:
        network = find_network(attachment.network_id or attachment.name)
        if network is None and attachment.name == DEFAULT_NETWORK:
            network = find_network(DEFAULT_NETWORK)
            if network is None:  # `--bridge=none`: it goes without, as in moby
                attachments.append(replace(attachment, network_id=""))
                continue
        if network is None:
            raise Rejected(Reason.NOT_FOUND, f"network {attachment.network_id or attachment.name} not found")
        attachment = replace(attachment, network_id=network.network_id)
        attachments.append(attachment)
        found.append((attachment, network))
        commands.append(allocate(state, attachment, network.network_id, EndpointID(endpoint_ids()), seed(6)))
    if any(network.settings.driver == "bridge" for _, network in found):
        commands.append(_reserve_ports(state, found, ephemeral))
    if tuple(attachments) != state.networks:
        intent = replace(intent, networks=tuple(attachments))
    return (intent, *commands)


def connect(
    state: ContainerState,
    intent: c.ConnectContainer,
    network_id: NetworkID,
    *,
    endpoint_ids: Callable[[], str],
    seed: Callable[[int], bytes],
) -> tuple[Command, ...]:
    """A wish for another network, and for a container that runs its place there: a start allocates the others'."""
    if not state.alive:
        return (intent,)
    return (intent, allocate(state, intent.attachment, network_id, EndpointID(endpoint_ids()), seed(6)))


def carrier(found: Iterable[tuple[NetworkAttachment, NetworkState]]) -> NetworkState | None:
    """The network of a container that its default route and its published ports go by: by priority, then by name
    (NET-22), never an internal one."""
    outward = [each for each in found if not each[1].settings.internal]
    ranked = sorted(outward, key=lambda each: (-each[0].config.gw_priority, each[1].settings.name))
    return ranked[0][1] if ranked else None


def _reserve_ports(
    state: ContainerState, found: Iterable[tuple[NetworkAttachment, NetworkState]], ephemeral: EphemeralRange
) -> ReservePorts:
    network = carrier(found)
    settings = network.settings if network is not None else NetworkSettings(name="", driver="")
    wishes = port_wishes(
        state.config.exposed_ports or {},
        state.host.port_bindings or {},
        state.host.publish_all_ports,
        default_addresses=host_addresses(settings.options),
    )
    return ReservePorts(
        container_id=state.container_id,
        wishes=tuple(replace(wish, routed=_is_routed(settings, wish)) for wish in wishes),
        ephemeral_first=ephemeral.first,
        ephemeral_last=ephemeral.last,
        avoid=ephemeral.avoid,
    )


def _is_routed(settings: NetworkSettings, wish: PortWish) -> bool:
    """By the address that the container has: one of the host's other family leads to that, too."""
    six = (
        ip_address(wish.host_ip).version == 6 if settings.enable_ipv4 and settings.enable_ipv6 else settings.enable_ipv6
    )
    return is_routed(settings.options, 6 if six else 4)


def other_ports(state: ContainerState, ephemeral: EphemeralRange, find_network: FindNetwork) -> tuple[Command, ...]:
    """Other host ports for a container that may have any: those it was given turned out to be somebody else's. Nothing
    for one that asked for particular ports only."""
    networks = [(wish, find_network(wish.network_id)) for wish in state.networks]
    found = [(wish, network) for wish, network in networks if network is not None]
    reserve = _reserve_ports(state, found, ephemeral)
    if all(wish.first_port or wish.routed for wish in reserve.wishes):
        return ()
    return (ReleasePorts(container_id=state.container_id), reserve)


def allocate(
    state: ContainerState, attachment: NetworkAttachment, network_id: NetworkID, endpoint_id: EndpointID, seed: bytes
) -> AllocateEndpoint:
    """A container's place on one network, with the names it has there."""
    config = attachment.config
    wanted = config.ipam_config
    aliases = tuple(config.aliases or ())
    hostname = (state.config.hostname,) if state.config.hostname else ()
    names = dict.fromkeys((state.name, *aliases, short(state.container_id), *hostname))
    return AllocateEndpoint(
        network_id=network_id,
        endpoint_id=endpoint_id,
        container_id=state.container_id,
        address=wanted.ipv4_address if wanted is not None else "",
        ipv6_address=wanted.ipv6_address if wanted is not None else "",
        mac_address=config.mac_address or state.config.mac_address,
        dns_names=tuple(names),
        seed=seed,
    )


def release(state: ContainerState, find_network: FindNetwork) -> tuple[Command, ...]:
    """Give back every address and port of a container that does not run."""
    found = held(state, find_network)
    networks = [ReleaseEndpoint(network_id=network_id, container_id=state.container_id) for network_id in found]
    return (*networks, ReleasePorts(container_id=state.container_id))


def held(state: ContainerState, find_network: FindNetwork) -> tuple[NetworkID, ...]:
    """The networks a container may have an endpoint on: joined, wished for, or on the way. A wish for a network that
    was made later than the container knows it by its name only."""
    ids = [endpoint.network_id for endpoint in state.endpoints]
    for attachment in (*state.networks, *state.connecting):
        network = find_network(attachment.network_id or attachment.name)
        ids.append(network.network_id if network is not None else attachment.network_id)
    return tuple(NetworkID(network_id) for network_id in dict.fromkeys(ids) if network_id)


def create(command: c.CreateContainer) -> tuple[Command, ...]:
    """A container with its name and its hold on named volumes (which are created before), from images that stay."""
    volumes = [ReferenceVolume(name=name, container_id=command.container_id) for name in volume_names(command.mounts)]
    reserve = ReserveName(kind=NameKind.CONTAINER, name=command.name, owner=command.container_id)
    images = dict.fromkeys((command.image_id, *(point.image_id for point in command.mounts if point.image_id)))
    return (*(RequireImage(image_id=image_id) for image_id in images), reserve, *volumes, command)


def removed(state: ContainerState, at: int, find_network: FindNetwork) -> tuple[Command, ...]:
    """The end of a container: its name and its references go with it."""
    volumes = [ReleaseVolume(name=name, container_id=state.container_id) for name in volume_names(state.mounts)]
    return (
        c.ReportRemoved(container_id=state.container_id, at=at),
        ReleaseName(kind=NameKind.CONTAINER, name=state.name, owner=state.container_id),
        *volumes,
        *release(state, find_network),
    )


def rename(state: ContainerState, name: str) -> tuple[Command, ...]:
    """A new name for a container, the old one free again."""
    return (
        c.RenameContainer(container_id=state.container_id, name=name),
        ReserveName(kind=NameKind.CONTAINER, name=name, owner=state.container_id),
        ReleaseName(kind=NameKind.CONTAINER, name=state.name, owner=state.container_id),
    )


def tag(image_id: ImageID, reference: str, owner: str, at: int, index: Digest = NO_DIGEST) -> tuple[Command, ...]:
    """Give an image a canonical reference, taking it from `owner` (an image id, or ""). index: what the reference
    stands for, when that is one of the image's indexes."""
    taken = (UntagImage(image_id=ImageID(owner), reference=reference),) if owner and owner != image_id else ()
    return (
        *taken,
        TagImage(image_id=image_id, at=at, reference=reference, index=index),
        MoveName(kind=NameKind.IMAGE, name=reference, owner=image_id),
    )


def untag(image_id: ImageID, references: Iterable[str]) -> tuple[Command, ...]:
    """Take references from an image."""
    commands: list[Command] = []
    for reference in references:
        commands.append(UntagImage(image_id=image_id, reference=reference))
        commands.append(ReleaseName(kind=NameKind.IMAGE, name=reference, owner=image_id))
    return tuple(commands)


def volume_names(mounts: Sequence[MountPoint]) -> tuple[VolumeName, ...]:
    """The volumes among mount points, each once."""
    return tuple(dict.fromkeys(VolumeName(mount.name) for mount in mounts if mount.type == "volume"))
