"""The whole state of an engine at a position, folded from the log by the same functions that the engine uses.

Owns: folding, and finding out which object a person means by an id, a part of one, or a name.
Refuses to know: how states are shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Decider, Recorded
from engine.aggregates.image import ImageState
from engine.aggregates.network import NetworkState
from engine.aggregates.values.reference import parse
from engine.aggregates.volume import VolumeState
from engine.archive import states
from engine.codec import LogError
from replay.reader import LogReader, UnknownEvent

PEOPLE_KINDS = ("container", "image", "network", "volume", "exec")
"""Aggregates that people name, in the order in which a word is tried. The others are ledgers."""


class NotFoundError(LookupError):
    """No object, or more than one, goes by that word."""


class World:
    """States by stream, ended ones too, with every name each ever had."""

    def __init__(self, deciders: Mapping[str, Decider[Any]], *, tolerant: bool = False) -> None:
        self.deciders = deciders
        self._tolerant = tolerant
        self.position = 0
        self.states: dict[str, Any] = {}
        self.names: dict[str, dict[str, None]] = {}
        self.skipped: list[Recorded] = []
        """Events that are not in the states: unknown to this version, or, if tolerant, impossible where they stand."""

    def advance(self, events: Iterable[Recorded]) -> World:
        """Fold further events. Raises LogError when one can not follow its predecessors."""
        for recorded in events:
            self.position = recorded.position
            decider = self.deciders.get(recorded.kind)
            if decider is None or isinstance(recorded.event, UnknownEvent):
                self.skipped.append(recorded)
                continue
            stream = recorded.stream
            state = self.states.get(stream)
            try:
                state = decider.evolve(decider.initial(recorded.key) if state is None else state, recorded.event)
            except (AssertionError, LookupError, ValueError) as error:
                if self._tolerant:
                    self.skipped.append(recorded)
                    continue
                raise LogError(f"position {recorded.position}: {error} (see `replay verify`)") from error
            self.states[stream] = state
            for name in names_of(state):
                self.names.setdefault(stream, {})[name] = None
        return self

    def ended(self, stream: str) -> bool:
        return self.deciders[stream.partition(":")[0]].terminal(self.states[stream])

    def living(self, kind: str) -> list[Any]:
        """States of an aggregate that have not ended, oldest first."""
        prefix = f"{kind}:"
        return [state for stream, state in self.states.items() if stream.startswith(prefix) and not self.ended(stream)]

    def label(self, stream: str) -> str:
        """What people call a stream: `container web (4f5e2a01bc9d)`."""
        kind, _, key = stream.partition(":")
        name = next(reversed(self.names.get(stream, {})), "")
        if kind not in PEOPLE_KINDS or name == key:
            return f"{kind} {key}"
        identifier = key.removeprefix("sha256:")[:12]
        return f"{kind} {name} ({identifier})" if name else f"{kind} {identifier}"

    def find(self, word: str, kinds: Iterable[str] = PEOPLE_KINDS) -> str:
        """The stream a person means: `container:4f5e...`, an id or the beginning of one, or a name. Of several that had
        a name the living one counts, else the last. Raises NotFoundError."""
        if word in self.states:
            return word
        candidates = [stream for kind in kinds for stream in self.states if stream.startswith(f"{kind}:")]
        kind, _, rest = word.partition(":")
        if kind in self.deciders and rest:
            return self.find(rest, (kind,))
        exact = [stream for stream in candidates if _key(stream) in (word, f"sha256:{word}")]
        named = exact or [stream for stream in candidates if _spelled(word) & self.names.get(stream, {}).keys()]
        if named:
            return max(reversed(named), key=lambda stream: not self.ended(stream))
        begun = [stream for stream in candidates if _key(stream).removeprefix("sha256:").startswith(word)]
        if len(begun) == 1:
            return begun[0]
        if not begun:
            raise NotFoundError(f"the log has nothing that is called {word!r}")
        some = ", ".join(self.label(stream) for stream in begun[:4])
        raise NotFoundError(f"{word!r} is the beginning of {len(begun)} ids: {some}{', ...' if begun[4:] else ''}")


def world_at(reader: LogReader, deciders: Iterable[Decider[Any]], position: int, *, tolerant: bool = False) -> World:
    """Everything up to and with a position. tolerant: for names only, an event that can not be folded is left out."""
    world = World({decider.name: decider for decider in deciders}, tolerant=tolerant)
    return world.advance(reader.events(upto=position))


def living_at(reader: LogReader, deciders: Sequence[Decider[Any]], position: int) -> World:
    """As `world_at`, but only of these aggregates what lived then (and ended since the last state snapshot before):
    what came before need not be folded. Names are those of that moment."""
    living = states.living_at(reader.archive, deciders, position)
    world = World({decider.name: decider for decider in deciders})
    world.states = living.states
    world.names = {stream: dict.fromkeys(names_of(state)) for stream, state in living.states.items()}
    world.position = living.position
    return world.advance(reader.events(after=living.position, upto=position, kinds=world.deciders))


def names_of(state: Any) -> tuple[str, ...]:
    """What people call an object in this state."""
    match state:
        case ContainerState():
            return (state.name,) if state.name else ()
        case NetworkState():
            return (state.settings.name,) if state.settings.name else ()
        case VolumeState():
            return (state.name,)
        case ImageState():
            return tuple(familiar(reference) for reference in sorted(state.references))
        case _:
            return ()


def familiar(reference: str) -> str:
    """`alpine:3.20` of `docker.io/library/alpine:3.20`; as it is when it is no reference."""
    try:
        return parse(reference).familiar
    except Exception:
        return reference


def _key(stream: str) -> str:
    return stream.partition(":")[2]


def _spelled(word: str) -> set[str]:
    """The ways a name may be written: `/web` for `web`, `alpine` for `alpine:latest`."""
    return {word, word.removeprefix("/"), f"{word}:latest", familiar(word)}
