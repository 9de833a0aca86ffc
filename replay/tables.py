"""`replay at ... ps|images|networks|volumes`: the lists that Docker would have shown then. Pure: rows of text."""

from __future__ import annotations

import msgspec

from engine.aggregates.container.lifecycle import Status
from engine.aggregates.container.state import ContainerState
from engine.aggregates.image import ImageState
from engine.aggregates.network import NetworkState
from engine.aggregates.values.health import HealthStatus
from engine.aggregates.values.ids import short
from engine.aggregates.values.reference import Reference, parse
from engine.aggregates.volume import VolumeState
from replay.plain import human_duration, human_size
from replay.world import World

COMMAND_LENGTH_MAX = 20


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """Headings and rows, newest object first."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def containers(world: World, now_ns: int, *, all_: bool) -> Table:
    """Docker's `ps`; only what runs, unless `all_`."""
    states: list[ContainerState] = [state for state in world.living("container") if all_ or state.alive]
    states.sort(key=lambda state: state.created_at, reverse=True)
    rows = tuple(
        (
            short(state.container_id),
            state.config.image or short(state.image_id),
            _command(state),
            f"{human_duration(now_ns - state.created_at)} ago",
            status_words(state, now_ns),
            ", ".join(_port(port.host_ip, port.host_port, port.container_port, port.protocol) for port in state.ports),
            state.name,
        )
        for state in states
    )
    return Table(columns=("CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"), rows=rows)


def images(world: World, now_ns: int) -> Table:
    rows = []
    for state in sorted(world.living("image"), key=lambda state: state.created_at, reverse=True):
        created = f"{human_duration(now_ns - state.created_at)} ago" if state.created_at else "N/A"
        rows += [
            (repository, tag, short(state.image_id), created, human_size(state.size))
            for repository, tag in _tags(state)
        ]
    return Table(columns=("REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"), rows=tuple(rows))


def networks(world: World) -> Table:
    states: list[NetworkState] = sorted(world.living("network"), key=lambda state: state.settings.name)
    rows = tuple(
        (
            short(state.network_id),
            state.settings.name,
            state.settings.driver,
            ", ".join(pool.subnet for pool in state.settings.pools),
            str(len(state.endpoints)),
        )
        for state in states
    )
    return Table(columns=("NETWORK ID", "NAME", "DRIVER", "SUBNET", "ENDPOINTS"), rows=rows)


def volumes(world: World) -> Table:
    states: list[VolumeState] = sorted(world.living("volume"), key=lambda state: state.name)
    rows = tuple((state.driver, state.name, str(len(state.references))) for state in states)
    return Table(columns=("DRIVER", "VOLUME NAME", "CONTAINERS"), rows=rows)


def status_words(state: ContainerState, now_ns: int) -> str:
    """Docker's STATUS column (moby container/state.go String)."""
    up = f"Up {human_duration(now_ns - state.started_at)}"
    over = f"({state.exit_code}) {human_duration(now_ns - state.finished_at)} ago"
    match state.status:
        case Status.RUNNING | Status.PAUSING | Status.UNPAUSING:
            return up + _health(state)
        case Status.PAUSED:
            return f"{up} (Paused)"
        case Status.RESTARTING:
            return f"Restarting {over}"
        case Status.EXITED:
            return f"Exited {over}"
        case Status.CREATED:
            return "Created"
        case _:
            return str(state.status.value).capitalize()


def _health(state: ContainerState) -> str:
    match state.health.status:
        case HealthStatus.NONE:
            return ""
        case HealthStatus.STARTING:
            return " (health: starting)"
        case _:
            return f" ({state.health.status.value})"


def _command(state: ContainerState) -> str:
    text = " ".join((*(state.config.entrypoint or ()), *(state.config.cmd or ())))
    return f'"{text if len(text) <= COMMAND_LENGTH_MAX else text[: COMMAND_LENGTH_MAX - 1] + "…"}"'


def _port(host_ip: str, host_port: int, container_port: int, protocol: str) -> str:
    address = f"[{host_ip}]" if ":" in host_ip else host_ip
    return f"{address}:{host_port}->{container_port}/{protocol}"


def _tags(state: ImageState) -> list[tuple[str, str]]:
    references: list[Reference] = [parse(text) for text in sorted(state.references)]
    return [(reference.familiar_name, reference.tag) for reference in references] or [("<none>", "<none>")]
