"""Commands for containers that are there, in the words of the docker CLI: `rm -f web`, `update --memory 64m web`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from engine import transactions
from engine.aggregates.container import commands as c
from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.values.config import Resources
from engine.aggregates.values.ids import ContainerID
from engine.aggregates.values.signals import parse_signal
from replay.fork import options
from replay.fork.options import Verbs, WishError
from replay.fork.scene import Scene, Transaction
from replay.fork.wishes import restart

STOP_TIMEOUT_S = 10
SECOND_NS = 1_000_000_000


def add(verbs: Verbs) -> None:
    for name, made in (("start", _start), ("pause", _pause), ("unpause", _unpause)):
        options.verb(verbs, name, made, "names")
    for name, made in (("stop", _stop), ("restart", _restart)):
        ending = options.verb(verbs, name, made, "names")
        ending.add_argument("-s", "--signal", default="")
        ending.add_argument("-t", "--timeout", "--time", type=int)
    options.verb(verbs, "kill", _kill, "names").add_argument("-s", "--signal", default="KILL")
    remove = options.verb(verbs, "rm", _remove, "names")
    remove.add_argument("-f", "--force", action="store_true")
    remove.add_argument("-v", "--volumes", action="store_true")
    options.verb(verbs, "rename", _rename, "name", "new")
    options.add_limits(options.verb(verbs, "update", _update, "names"))


def started(scene: Scene, of: ContainerID) -> Iterator[Transaction]:
    """A start, which is refused with what it failed with. Raises Rejected."""
    state = scene.branch.state("container", of)
    yield scene.host.start(state, c.StartContainer(container_id=of, at=scene.at))
    _check_started(scene, state)


def _check_started(scene: Scene, before: ContainerState, words: str = "") -> None:
    """Raises Rejected with what a start since then has failed with."""
    after = scene.branch.state("container", before.container_id)
    if after.run > before.run and after.failed_run == after.run:
        raise Rejected(Reason.SYSTEM, words + after.error)


def _signal(text: str) -> int:
    try:
        return parse_signal(text)
    except Rejected as error:
        raise WishError(error.message) from error


def _ending(asked: argparse.Namespace, scene: Scene, state: ContainerState) -> tuple[int, int]:
    """(signal, deadline): as they are asked for, else the container's own, else SIGTERM and 10 s."""
    own = state.config.stop_timeout if state.config.stop_timeout is not None else STOP_TIMEOUT_S
    timeout_s = asked.timeout if asked.timeout is not None else own
    deadline = 0 if timeout_s < 0 else scene.at + timeout_s * SECOND_NS
    return _signal(asked.signal or state.config.stop_signal or "TERM"), deadline


def _start(asked: argparse.Namespace, scene: Scene) -> Iterator[Transaction]:
    yield from started(scene, scene.container(asked.name).container_id)


def _restart(asked: argparse.Namespace, scene: Scene) -> Iterator[Transaction]:
    state = scene.container(asked.name)
    signal, deadline = _ending(asked, scene, state)
    intent = c.RestartContainer(container_id=state.container_id, at=scene.at, signal=signal, deadline=deadline)
    yield restart(scene.host, state, intent)
    _check_started(scene, state, f"Cannot restart container {state.name}: ")


def _stop(asked: argparse.Namespace, scene: Scene) -> Iterator[Transaction]:
    state = scene.container(asked.name)
    signal, deadline = _ending(asked, scene, state)
    yield (c.StopContainer(container_id=state.container_id, at=scene.at, signal=signal, deadline=deadline),)


def _kill(asked: argparse.Namespace, scene: Scene) -> Iterator[Transaction]:
    of = scene.container(asked.name).container_id
    yield (c.KillContainer(container_id=of, at=scene.at, signal=_signal(asked.signal)),)


def _pause(asked: argparse.Namespace, scene: Scene) -> Iterator[Transaction]:
    yield (c.PauseContainer(container_id=scene.container(asked.name).container_id, at=scene.at),)


def _unpause(asked: argparse.Namespace, scene: Scene) -> Iterator[Transaction]:
    yield (c.UnpauseContainer(container_id=scene.container(asked.name).container_id, at=scene.at),)


def _remove(asked: argparse.Namespace, scene: Scene) -> Iterator[Transaction]:
    of = scene.container(asked.name).container_id
    yield (c.RemoveContainer(container_id=of, at=scene.at, force=asked.force, volumes=asked.volumes),)


def _rename(asked: argparse.Namespace, scene: Scene) -> Iterator[Transaction]:
    yield transactions.rename(scene.container(asked.name), asked.new)


def _update(asked: argparse.Namespace, scene: Scene) -> Iterator[Transaction]:
    limits = options.limits(asked)
    update = c.UpdateContainer(
        container_id=scene.container(asked.name).container_id, at=scene.at,
        resources=Resources(**limits) if limits else None, restart_policy=asked.restart,
    )  # fmt: skip
    yield (update,)
