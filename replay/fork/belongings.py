"""Commands for what containers use, in the words of the docker CLI: networks and volumes."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from ipaddress import ip_interface, ip_network

from msgspec.structs import replace

from engine.aggregates.container import commands as c
from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.names import NameKind, ReserveName
from engine.aggregates.network import CreateNetwork, RemoveNetwork
from engine.aggregates.values.endpoints import NetworkAttachment
from engine.aggregates.values.ids import NetworkID, VolumeName
from engine.aggregates.volume import CreateVolume, RemoveVolume
from engine.api.new_network import NewNetworks
from engine.api.shapes.networks import CreateNetworkBody, IPAMBody, IPAMConfigBody
from engine.api.subnets import check_connect
from engine.api.volume_rules import check_name
from engine.config import DaemonConfig
from replay.fork import options
from replay.fork.options import Parser, Verbs, WishError
from replay.fork.scene import Scene, Transaction


def add(verbs: Verbs) -> None:
    network = _group(verbs, "network")
    connect = options.verb(network, "connect", _connect, "network", "name")
    for option in ("--ip", "--ip6"):
        connect.add_argument(option, default="")
    for option in ("--alias", "--link"):
        connect.add_argument(option, action="append", default=[])
    options.verb(network, "disconnect", _disconnect, "network", "name")
    options.verb(network, "rm", _remove_network, "names")
    create = options.verb(network, "create", _create_network, "name")
    create.add_argument("-d", "--driver", default="bridge")
    for option in ("--subnet", "--gateway", "--ip-range", "--label", "-o --opt"):
        create.add_argument(*option.split(), action="append", default=[])
    for flag in ("--internal", "--ipv6", "--attachable"):
        create.add_argument(flag, action="store_true")
    volume = _group(verbs, "volume")
    options.verb(volume, "create", _create_volume, "name")
    options.verb(volume, "rm", _remove_volume, "names")


def _group(verbs: Verbs, name: str) -> Verbs:
    parser: Parser = verbs.add_parser(name)
    return parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)


def _connect(asked: argparse.Namespace, scene: Scene) -> Iterator[Transaction]:
    network = scene.network(asked.network)
    config = options.endpoint(asked.ip, asked.ip6, asked.alias, asked.link)
    check_connect(network, config)
    wish = NetworkAttachment(name=network.settings.name, network_id=network.network_id, config=config)
    yield (c.ConnectContainer(container_id=scene.container(asked.name).container_id, at=scene.at, attachment=wish),)


def _disconnect(asked: argparse.Namespace, scene: Scene) -> Iterator[Transaction]:
    network = scene.network(asked.network)
    of, name = scene.container(asked.name).container_id, network.settings.name
    yield (c.DisconnectContainer(container_id=of, at=scene.at, network_id=network.network_id, name=name),)


def _remove_network(asked: argparse.Namespace, scene: Scene) -> Iterator[Transaction]:
    yield (RemoveNetwork(network_id=scene.network(asked.name).network_id, at=scene.at),)


def _create_network(asked: argparse.Namespace, scene: Scene) -> Iterator[Transaction]:
    """A subnet that nobody gives is the next free one of the default pools, beside those of all networks: which others
    the host reaches already, and other pools of daemon.json, are not in the log."""
    if asked.ipv6 and not any(":" in subnet for subnet in asked.subnet):
        words = "--ipv6 without an IPv6 subnet takes one of the host's own, which is not in the log: give a --subnet"
        raise Rejected(Reason.INVALID, words)
    planning = NewNetworks(scene.branch.views().networks, DaemonConfig(), host_routes=(), host_id="")
    body = CreateNetworkBody(
        name=asked.name,
        driver=asked.driver,
        internal=asked.internal,
        attachable=asked.attachable,
        enable_ipv6=asked.ipv6 or None,
        ipam=IPAMBody(config=_subnets(asked)),
        options=options.mapping(asked.opt),
        labels=options.mapping(asked.label),
    )
    planning.check(body)
    settings = planning.settings(body)
    network_id = NetworkID(scene.hex_id())
    yield (
        ReserveName(kind=NameKind.NETWORK, name=settings.name, owner=network_id),
        CreateNetwork(network_id=network_id, at=scene.at, settings=settings),
    )


def _subnets(asked: argparse.Namespace) -> tuple[IPAMConfigBody, ...]:
    """Each with the range and the gateway that lie in it. Raises WishError. Source: docker/cli
    cli/command/network/create.go createIPAMConfig."""
    if len(asked.subnet) < max(len(asked.ip_range), len(asked.gateway)):
        raise WishError("every ip-range or gateway must have a corresponding subnet")
    subnets = {subnet: IPAMConfigBody(subnet=subnet) for subnet in asked.subnet}
    for given, field, what in ((asked.ip_range, "ip_range", "range"), (asked.gateway, "gateway", "gateway")):
        for text in given:
            subnet = next((subnet for subnet in subnets if _lies_in(text, subnet)), None)
            if subnet is None:
                raise WishError(f"no matching subnet for {what} {text}")
            subnets[subnet] = replace(subnets[subnet], **{field: text})
    return tuple(subnets.values())


def _lies_in(text: str, subnet: str) -> bool:
    try:
        return ip_interface(text).ip in ip_network(subnet, strict=False)
    except ValueError as error:
        raise WishError(str(error)) from error


def _create_volume(asked: argparse.Namespace, scene: Scene) -> Iterator[Transaction]:
    check_name(asked.name)
    name = VolumeName(asked.name)
    yield (CreateVolume(name=name, at=scene.at, driver="local", options={}, labels={}, anonymous=False),)


def _remove_volume(asked: argparse.Namespace, scene: Scene) -> Iterator[Transaction]:
    scene.branch.world.find(asked.name, ("volume",))
    yield (RemoveVolume(name=VolumeName(asked.name), at=scene.at),)
