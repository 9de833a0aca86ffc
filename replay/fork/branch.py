"""A history that might have been: a world that is decided on further, in memory.

Owns: executing transactions as the application does (all commands or none, on the newest folds), and numbering what
follows. Refuses to know: why anything is asked for, and what the world makes of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from engine.aggregates import content
from engine.aggregates.catalog import ALL_DECIDERS
from engine.aggregates.decider import Cause, Command, Recorded
from engine.aggregates.network import NetworkState
from engine.aggregates.values.ids import ChainID, Digest
from engine.projections.containers import Containers
from engine.projections.images import Images
from engine.projections.networks import Networks
from engine.projections.volumes import Volumes
from replay.world import World

_BY_COMMAND = {command: decider for decider in ALL_DECIDERS for command in decider.commands}


class Views(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine would read of all this; what comes later is not in them."""

    containers: Containers
    images: Images
    networks: Networks
    volumes: Volumes


class Branch:
    """`world` grows with what is executed; `events` is what it grew by, numbered on from where it began."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.events: list[Recorded] = []
        self._versions: dict[str, int] = {}

    def state(self, kind: str, key: str) -> Any:
        """The fold of a stream; the initial state for an unknown key."""
        decider = self.world.deciders[kind]
        state = self.world.states.get(decider.stream(key))
        return decider.initial(key) if state is None else state

    def living(self, kind: str, key: str) -> Any:
        """The fold of a stream that has not ended, or None."""
        stream = self.world.deciders[kind].stream(key)
        there = stream in self.world.states and not self.world.ended(stream)
        return self.world.states[stream] if there else None

    def execute(self, commands: Iterable[Command], *, cause: Cause, time_ns: int) -> Sequence[Recorded]:
        """One transaction. Raises Rejected, and nothing has happened."""
        return [self._append(stream, event, cause, time_ns) for stream, event in self.try_out(commands)]

    def try_out(self, commands: Iterable[Command]) -> list[tuple[str, Any]]:
        """What a transaction would lead to: streams and events. Raises Rejected."""
        states: dict[str, Any] = {}
        decided: list[tuple[str, Any]] = []
        for command in commands:
            decider = _BY_COMMAND[type(command)]
            stream = decider.stream(command.key)
            state = states[stream] if stream in states else self.state(decider.name, command.key)
            for event in decider.decide(state, command):
                state = decider.evolve(state, event)
                decided.append((stream, event))
            states[stream] = state
        return decided

    def copy(self, recorded: Recorded) -> bool:
        """Take an event as it was recorded, under a number of this history; False when it can not stand here."""
        decider = self.world.deciders[recorded.kind]
        try:
            decider.evolve(self.state(recorded.kind, recorded.key), recorded.event)
        except (AssertionError, LookupError, ValueError):
            return False
        self._append(recorded.stream, recorded.event, recorded.cause, recorded.time_ns)
        return True

    def views(self) -> Views:
        views = Views(containers=Containers(), images=Images(), networks=Networks(), volumes=Volumes())
        for view in (views.containers, views.images, views.networks, views.volumes):
            (kind,) = view.kinds
            for stream, state in self.world.states.items():
                if stream.startswith(f"{kind}:") and not self.world.ended(stream):
                    view.settle(stream, state)
        return views

    def used_content(self, *, without: str) -> tuple[frozenset[Digest], frozenset[ChainID]]:
        """Blobs and layers that somebody needs. without: an image that does not count."""
        images = (image for image in self.world.living("image") if image.image_id != without)
        return content.used(images, self.world.living("container"), self.world.living("transfer"))

    def find_network(self, word: str) -> NetworkState | None:
        """By id or name."""
        for state in self.world.living("network"):
            if word in (state.network_id, state.settings.name):
                return state if isinstance(state, NetworkState) else None
        return None

    def _append(self, stream: str, event: Any, cause: Cause, time_ns: int) -> Recorded:
        version = self._versions[stream] = self._versions.get(stream, 0) + 1
        position = self.world.position + 1
        recorded = Recorded(
            position=position, stream=stream, version=version, time_ns=time_ns, cause=cause, event=event
        )
        self.world.advance([recorded])
        self.events.append(recorded)
        return recorded
