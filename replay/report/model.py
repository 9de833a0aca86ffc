"""What the page knows: lanes, the events on them, what each left its object as, and what caused it.

Owns: choosing lanes and putting events on them. Refuses to know: HTML. An exec's events are on its container's lane;
ledgers (names, ports) have none, because what they say is said by the events beside them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Recorded
from engine.aggregates.exec import ExecState
from engine.aggregates.image import ImageState
from engine.aggregates.network import NetworkState
from engine.aggregates.values.ids import short
from engine.aggregates.volume import VolumeState
from replay import words
from replay.reader import name_of
from replay.world import World, familiar

LANES = ("container", "network", "image", "volume", "daemon")
_POSITION = re.compile(r"@(\d+)")


class Lane(msgspec.Struct, kw_only=True):
    """One object. label: its last name; names: all it had."""

    stream: str
    kind: str
    label: str = ""
    names: list[str] = []


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """One event. lane, actor: indexes. cause: the position it follows from, 0 for none. status, says: of the object
    after it; "" where it has ended."""

    position: int
    time_ms: float
    lane: int
    name: str
    sentence: str
    actor: int
    correlation: str
    cause: int
    asked: str
    status: str
    says: tuple[tuple[str, str], ...]
    ended: bool


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """Everything. cut: how many older events are not on the page."""

    lanes: tuple[Lane, ...]
    actors: tuple[str, ...]
    marks: tuple[Mark, ...]
    head: int
    cut: int


class Painter:
    """Takes events in order; `picture` at any time. world: folded by the painter, from wherever it stands."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._lanes: list[Lane] = []
        self._by_stream: dict[str, int] = {}
        self._actors: dict[str, int] = {}
        self._marks: list[Mark] = []
        for stream in world.states:
            if not world.ended(stream):
                self._lane(stream)

    @property
    def position(self) -> int:
        return self._world.position

    def take(self, events: Iterable[Recorded]) -> None:
        for recorded in events:
            self._world.advance([recorded])
            lane = self._lane(recorded.stream)
            if lane is not None:
                self._marks.append(self._mark(recorded, lane))

    def picture(self, *, after: int = 0, events_max: int = 0) -> Picture:
        """Events past a position, the last `events_max` of them where one is given."""
        marks = [mark for mark in self._marks if mark.position > after]
        cut = max(0, len(marks) - events_max) if events_max else 0
        for lane in self._lanes:
            lane.names = [familiar(name) for name in self._world.names.get(lane.stream, {})]
            lane.label = lane.names[-1] if lane.names else short(lane.stream.partition(":")[2])
        return Picture(
            lanes=tuple(self._lanes),
            actors=tuple(map(words.actor, self._actors)),
            marks=tuple(marks[cut:]),
            head=self._world.position,
            cut=cut,
        )

    def _lane(self, stream: str) -> int | None:
        """The lane an event of a stream belongs to; made when there is none."""
        state = self._world.states.get(stream)
        if isinstance(state, ExecState):
            stream = f"container:{state.container_id}"
        kind = stream.partition(":")[0]
        if kind not in LANES:
            return None
        if stream not in self._by_stream:
            self._by_stream[stream] = len(self._lanes)
            self._lanes.append(Lane(stream=stream, kind="engine" if kind == "daemon" else kind))
        return self._by_stream[stream]

    def _mark(self, recorded: Recorded, lane: int) -> Mark:
        stream = self._lanes[lane].stream
        state = self._world.states.get(stream)
        ended = state is not None and self._world.ended(stream)
        cause = _POSITION.match(recorded.cause.causation)
        return Mark(
            position=recorded.position,
            time_ms=recorded.time_ns / 1e6,
            lane=lane,
            name=name_of(recorded.event),
            sentence=("exec: " if recorded.kind == "exec" else "") + words.sentence(recorded),
            actor=self._actors.setdefault(recorded.cause.actor, len(self._actors)),
            correlation=recorded.cause.correlation,
            cause=int(cause[1]) if cause else 0,
            asked="" if cause else recorded.cause.causation,
            status="" if ended or state is None else status_of(state),
            says=() if ended or state is None else tuple(says(state)),
            ended=ended,
        )


def status_of(state: Any) -> str:
    """One word, and the health of a container that has any."""
    status = getattr(state, "status", None)
    word = str(getattr(status, "value", status or "here"))
    health = getattr(getattr(state, "health", None), "status", None)
    said = str(getattr(health, "value", health or ""))
    return f"{word} ({said})" if word == "running" and said not in ("", "none") else word


def says(state: Any) -> Iterable[tuple[str, str]]:
    """What people want to know of an object beside its status."""
    match state:
        case ContainerState():
            yield "image", state.config.image or short(state.image_id)
            addresses = [endpoint.ipv4_address or endpoint.ipv6_address for endpoint in state.endpoints]
            yield "address", ", ".join(filter(None, addresses))
            yield "ports", ", ".join(f"{port.host_port}→{port.container_port}/{port.protocol}" for port in state.ports)
            yield "restarts", str(state.restart_count or "")
        case NetworkState():
            yield "driver", state.settings.driver
            yield "subnet", ", ".join(pool.subnet for pool in state.settings.pools)
            yield "members", str(len(state.endpoints))
        case ImageState():
            yield "names", ", ".join(map(familiar, sorted(state.references)))
        case VolumeState():
            yield "driver", state.driver
            yield "users", str(len(state.references))
