"""`create` and `run`: the options whose meaning lies in the log, and what the engine would make of them.

Owns the grammar, as the CLI reads it. What it comes to is decided by what decides it in the API (new_container.py).
What nothing but the process would notice (`--env`) is taken and forgotten; everything else is refused by the parser.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from msgspec.structs import replace

from engine import transactions
from engine.aggregates.container import commands as c
from engine.aggregates.container.merge import inherit, merge
from engine.aggregates.container.rules import RuleFacts
from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.image import ImageState
from engine.aggregates.values.config import (
    ContainerConfig,
    HostConfig,
    NetworkingConfig,
    RestartPolicy,
)
from engine.aggregates.values.ids import ContainerID, short
from engine.aggregates.values.ports import exposed_ports
from engine.api import naming
from engine.api.new_container import NewContainers, Request, checked_name, volumes_of
from engine.config import DaemonConfig
from replay.fork import options, specs
from replay.fork.branch import Views
from replay.fork.lifecycle import started
from replay.fork.options import Parser, Verbs
from replay.fork.scene import Scene, Transaction

ENOUGH = RuleFacts(cpus=frozenset(range(8192)), mems=frozenset(range(1024)), cgroup_v2=True)
"""A host that has what it is asked for: what it has is not in the log."""


def add(verbs: Verbs) -> None:
    for name, made in (("create", _create), ("run", _run)):
        parser = options.verb(verbs, name, made)
        _add_options(parser)
        parser.add_argument("image")
        parser.add_argument("command", nargs=argparse.REMAINDER)


def _add_options(parser: Parser) -> None:
    options.add_limits(parser)
    parser.add_argument("--name", default="")
    for flag in ("-d --detach", "-i --interactive", "-t --tty", "-P --publish-all", "--rm", "--read-only"):
        parser.add_argument(*flag.split(), action="store_true")
    for option in ("--network --net", "--network-alias", "-p --publish", "--expose", "-v --volume", "--mount"):
        parser.add_argument(*option.split(), action="append", default=[])
    for option in ("-l --label", "--link"):
        parser.add_argument(*option.split(), action="append", default=[])
    parser.add_argument("-e", "--env", action="append", default=[], type=_variable)
    for option in ("--ip", "--ip6", "-w --workdir", "-u --user", "-h --hostname", "--stop-signal"):
        parser.add_argument(*option.split(), default="")
    parser.add_argument("--stop-timeout", type=int)
    parser.add_argument("--entrypoint")


def _variable(text: str) -> str:
    if not text.partition("=")[0]:
        raise argparse.ArgumentTypeError("invalid environment variable: it has no name")
    return text


def _create(asked: argparse.Namespace, scene: Scene) -> Iterator[Transaction]:
    yield _created(asked, scene)


def _run(asked: argparse.Namespace, scene: Scene) -> Iterator[Transaction]:
    """As the CLI: first the one, then the other. What is refused its start has been made, as with Docker."""
    created = _created(asked, scene)
    yield created
    yield from started(scene, ContainerID(created[-1].key))


def _created(asked: argparse.Namespace, scene: Scene) -> Transaction:
    views = scene.branch.views()
    name = checked_name(asked.name) if asked.name else ""
    request = _request(asked)
    image = views.images.find(asked.image)
    config = _inherited(request, image, scene)
    planning = NewContainers(
        views,
        DaemonConfig(data_root=scene.data_root),
        ENOUGH,
        hostname="",
        new_name=scene.hex_id,
    )
    plan = planning.plan(request, image, config, ContainerID(scene.hex_id()), name=name, at=scene.at)
    scene.beside.notes |= dict.fromkeys(plan.warnings)
    command = replace(plan.command, name=name or _free_name(scene, views, plan.command))
    return (*volumes_of(command), *transactions.create(command))


def _inherited(request: Request, image: ImageState, scene: Scene) -> ContainerConfig:
    configuration = scene.beside.image_config(image)
    if configuration is not None:
        return merge(request.config, configuration)
    if request.host.publish_all_ports:
        words = "which ports the image exposes is in its configuration, and that does not lie beside this log"
        raise Rejected(Reason.INVALID, f"-P {request.config.image}: {words}")
    scene.beside.notes[
        f"The configuration of {request.config.image} does not lie beside this log: the image's command, user, labels, "
        "exposed ports, volumes, stop signal and health check are not in this answer."
    ] = None
    return inherit(request.config, ContainerConfig())


def _free_name(scene: Scene, views: Views, command: c.CreateContainer) -> str:
    taken = {state.name for state in views.containers}
    drawn = (naming.generate(scene.below) for _ in range(naming.ATTEMPTS))
    return next((name for name in drawn if name not in taken), short(command.container_id))


# -- from words to a request -------------------------------------------------------------------------------------------


def _request(asked: argparse.Namespace) -> Request:
    """What the CLI would send. Raises WishError."""
    bindings = specs.published(asked.publish)
    binds, anonymous = specs.volumes(asked.volume)
    common = options.endpoint(asked.ip, asked.ip6, asked.network_alias, asked.link)
    mode, endpoints = specs.endpoints(map(specs.attached, asked.network), common)
    foreground = not asked.detach
    config = ContainerConfig(
        hostname=asked.hostname,
        user=asked.user,
        attach_stdin=foreground and asked.interactive,
        attach_stdout=foreground,
        attach_stderr=foreground,
        exposed_ports={port: {} for port in (*bindings, *exposed_ports(asked.expose))} or None,
        tty=asked.tty,
        open_stdin=asked.interactive,
        cmd=tuple(asked.command) or None,
        image=asked.image,
        volumes=anonymous or None,
        working_dir=asked.workdir,
        entrypoint=None if asked.entrypoint is None else (asked.entrypoint,),
        labels=options.mapping(asked.label) or None,
        stop_signal=asked.stop_signal,
        stop_timeout=asked.stop_timeout,
    )
    host = HostConfig(
        **options.limits(asked),
        binds=binds or None,
        network_mode=mode,
        port_bindings=bindings or None,
        restart_policy=asked.restart or RestartPolicy(),
        auto_remove=asked.rm,
        mounts=tuple(map(specs.mounted, asked.mount)) or None,
        links=tuple(asked.link) or None,
        publish_all_ports=asked.publish_all,
        readonly_rootfs=asked.read_only,
    )
    return Request(config=config, host=host, networking=NetworkingConfig(endpoints_config=endpoints or None))
