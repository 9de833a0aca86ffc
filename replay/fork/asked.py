"""Commands of a what-if, in the words of the docker CLI: `rm -f web`, `update --memory 64m web`, `network rm back`.

Only those that need nothing but the log: what would have to be read elsewhere (an image's configuration, a free subnet
of this host) is refused with words.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from typing import NoReturn

from engine import transactions
from engine.aggregates.container import commands as c
from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Command, Rejected
from engine.aggregates.network import NetworkState, RemoveNetwork
from engine.aggregates.values.config import EndpointConfig, Resources, RestartPolicy
from engine.aggregates.values.endpoints import NetworkAttachment
from engine.aggregates.values.ids import VolumeName
from engine.aggregates.values.signals import parse_signal
from engine.aggregates.volume import CreateVolume, RemoveVolume
from engine.config import ConfigError, size_bytes
from replay.fork.branch import Branch
from replay.fork.fork import Given
from replay.fork.host import Host
from replay.fork.wishes import restart

Made = tuple[Command, ...]
STOP_NS = 10_000_000_000


class WishError(ValueError):
    """Nobody can tell what is asked for."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise WishError(message)


def given(words: str, time_ns: int) -> Given:
    """The command behind words, at a time. Raises WishError; its call NotFoundError, when its object is unknown."""
    try:
        asked = _parser().parse_args(shlex.split(words))
    except ValueError as error:
        raise WishError(f"{words!r}: {error}") from error
    made: Callable[[argparse.Namespace, Branch, Host, int], Made] = asked.made
    return lambda branch, host: made(asked, branch, host, time_ns)


def _parser() -> _Parser:
    root = _Parser(prog="--what-if", add_help=False)
    verbs = root.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    for name, made in (("start", _start), ("pause", _pause), ("unpause", _unpause), ("restart", _restart)):
        _verb(verbs, name, made, "name")
    _verb(verbs, "stop", _stop, "name").add_argument("-s", "--signal", default="TERM")
    _verb(verbs, "kill", _kill, "name").add_argument("-s", "--signal", default="KILL")
    remove = _verb(verbs, "rm", _remove, "name")
    remove.add_argument("-f", "--force", action="store_true")
    remove.add_argument("-v", "--volumes", action="store_true")
    _verb(verbs, "rename", _rename, "name", "new")
    update = _verb(verbs, "update", _update, "name")
    for option in ("-m --memory", "--memory-swap", "--memory-reservation"):
        update.add_argument(*option.split(), type=_size)
    update.add_argument("-c", "--cpu-shares", type=int)
    update.add_argument("--cpus", type=float)
    update.add_argument("--cpuset-cpus")
    update.add_argument("--pids-limit", type=int)
    update.add_argument("--restart", type=_policy)
    network = verbs.add_parser("network", add_help=False).add_subparsers(required=True, parser_class=_Parser)
    for name, made in (("connect", _connect), ("disconnect", _disconnect)):
        _verb(network, name, made, "network", "name")
    _verb(network, "rm", _remove_network, "network")
    volume = verbs.add_parser("volume", add_help=False).add_subparsers(required=True, parser_class=_Parser)
    _verb(volume, "create", _create_volume, "volume")
    _verb(volume, "rm", _remove_volume, "volume")
    return root


def _verb(verbs: argparse._SubParsersAction[_Parser], name: str, made: object, *positional: str) -> _Parser:
    verb = verbs.add_parser(name, add_help=False)
    for each in positional:
        verb.add_argument(each)
    verb.set_defaults(made=made)
    return verb


def _size(text: str) -> int:
    if text == "-1":
        return -1
    try:
        return size_bytes(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _policy(text: str) -> RestartPolicy:
    name, _, count = text.partition(":")
    if name not in ("no", "always", "unless-stopped", "on-failure") or (count and not count.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is no restart policy")
    return RestartPolicy(name=name, maximum_retry_count=int(count or 0))


# -- the commands ------------------------------------------------------------------------------------------------------


def _container(branch: Branch, word: str) -> ContainerState:
    state = branch.world.states[branch.world.find(word, ("container",))]
    assert isinstance(state, ContainerState)
    return state


def _network(branch: Branch, word: str) -> NetworkState:
    state = branch.world.states[branch.world.find(word, ("network",))]
    assert isinstance(state, NetworkState)
    return state


def _signal(text: str) -> int:
    try:
        return parse_signal(text)
    except Rejected as error:
        raise WishError(error.message) from error


def _start(asked: argparse.Namespace, branch: Branch, host: Host, at: int) -> Made:
    state = _container(branch, asked.name)
    return host.start(state, c.StartContainer(container_id=state.container_id, at=at))


def _restart(asked: argparse.Namespace, branch: Branch, host: Host, at: int) -> Made:
    state = _container(branch, asked.name)
    intent = c.RestartContainer(container_id=state.container_id, at=at, signal=_signal("TERM"), deadline=at + STOP_NS)
    return restart(host, state, intent)


def _stop(asked: argparse.Namespace, branch: Branch, host: Host, at: int) -> Made:
    of = _container(branch, asked.name).container_id
    return (c.StopContainer(container_id=of, at=at, signal=_signal(asked.signal), deadline=at + STOP_NS),)


def _kill(asked: argparse.Namespace, branch: Branch, host: Host, at: int) -> Made:
    of = _container(branch, asked.name).container_id
    return (c.KillContainer(container_id=of, at=at, signal=_signal(asked.signal)),)


def _pause(asked: argparse.Namespace, branch: Branch, host: Host, at: int) -> Made:
    return (c.PauseContainer(container_id=_container(branch, asked.name).container_id, at=at),)


def _unpause(asked: argparse.Namespace, branch: Branch, host: Host, at: int) -> Made:
    return (c.UnpauseContainer(container_id=_container(branch, asked.name).container_id, at=at),)


def _remove(asked: argparse.Namespace, branch: Branch, host: Host, at: int) -> Made:
    of = _container(branch, asked.name).container_id
    return (c.RemoveContainer(container_id=of, at=at, force=asked.force, volumes=asked.volumes),)


def _rename(asked: argparse.Namespace, branch: Branch, host: Host, at: int) -> Made:
    return transactions.rename(_container(branch, asked.name), asked.new)


def _update(asked: argparse.Namespace, branch: Branch, host: Host, at: int) -> Made:
    limits = {name: value for name in Resources.__struct_fields__ if (value := getattr(asked, name, None)) is not None}
    if asked.cpus is not None:
        limits["nano_cpus"] = round(asked.cpus * 1e9)
    update = c.UpdateContainer(
        container_id=_container(branch, asked.name).container_id, at=at,
        resources=Resources(**limits) if limits else None, restart_policy=asked.restart,
    )  # fmt: skip
    return (update,)


def _connect(asked: argparse.Namespace, branch: Branch, host: Host, at: int) -> Made:
    network = _network(branch, asked.network)
    wish = NetworkAttachment(name=network.settings.name, network_id=network.network_id, config=EndpointConfig())
    of = _container(branch, asked.name).container_id
    return (c.ConnectContainer(container_id=of, at=at, attachment=wish),)


def _disconnect(asked: argparse.Namespace, branch: Branch, host: Host, at: int) -> Made:
    network = _network(branch, asked.network)
    of = _container(branch, asked.name).container_id
    name = network.settings.name
    return (c.DisconnectContainer(container_id=of, at=at, network_id=network.network_id, name=name),)


def _remove_network(asked: argparse.Namespace, branch: Branch, host: Host, at: int) -> Made:
    return (RemoveNetwork(network_id=_network(branch, asked.network).network_id, at=at),)


def _create_volume(asked: argparse.Namespace, branch: Branch, host: Host, at: int) -> Made:
    name = VolumeName(asked.volume)
    return (CreateVolume(name=name, at=at, driver="local", options={}, labels={}, anonymous=False),)


def _remove_volume(asked: argparse.Namespace, branch: Branch, host: Host, at: int) -> Made:
    branch.world.find(asked.volume, ("volume",))
    return (RemoveVolume(name=VolumeName(asked.volume), at=at),)
