"""`replay why CONTAINER`: who asked for what, what followed, and why it ended.

Owns: gathering the events that concern a container, in steps by cause, and the verdict on its end.
Refuses to know: how steps are printed.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from engine.aggregates.container import events as c
from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Recorded
from replay import words
from replay.circumstances import circumstances
from replay.reader import LogReader
from replay.timeline import Filter, timeline
from replay.world import World


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What followed from one request (or start-up, or exit). asked_by: who it began with."""

    correlation: str
    asked_by: str
    events: tuple[Recorded, ...]


class Story(msgspec.Struct, frozen=True, kw_only=True):
    """The steps in order of their first event, the verdict in a sentence or two, and what went wrong before it."""

    stream: str
    label: str
    steps: tuple[Step, ...]
    verdict: str
    circumstances: tuple[str, ...] = ()


def why(reader: LogReader, world: World, stream: str) -> Story:
    """The story of a container, as far as `world` has advanced."""
    events = tuple(timeline(reader, Filter(stream=stream, last=world.position)))
    own = [recorded for recorded in events if recorded.stream == stream]
    return Story(
        stream=stream,
        label=world.label(stream),
        steps=steps(events),
        verdict=verdict(own, world.states[stream]),
        circumstances=circumstances(own, lambda network_id: _network_name(world, network_id)),
    )


def _network_name(world: World, network_id: str) -> str:
    names = world.names.get(f"network:{network_id}", {})
    return next(reversed(names), network_id[:12])


def steps(events: Sequence[Recorded]) -> tuple[Step, ...]:
    """Events by what asked for them."""
    groups: dict[str, list[Recorded]] = {}
    for recorded in events:
        groups.setdefault(recorded.cause.correlation, []).append(recorded)
    return tuple(
        Step(correlation=correlation, asked_by=group[0].cause.actor, events=tuple(group))
        for correlation, group in groups.items()
    )


def verdict(own: Sequence[Recorded], state: ContainerState) -> str:
    """Why it is as it is now, from its own events."""
    end = next((index for index in range(len(own) - 1, -1, -1) if _is_end(own[index])), None)
    if state.alive:
        past = f" It ended before: {_ending(own, end)}" if end is not None else ""
        return f"It runs (pid {state.pid}).{past}"
    if end is None:
        return "It was never started." if state.run == 0 else "Its start has no outcome yet."
    return _ending(own, end) + _aftermath(own[end + 1 :])


def _is_end(recorded: Recorded) -> bool:
    return isinstance(recorded.event, c.ContainerExited | c.ContainerStartFailed)


def _ending(own: Sequence[Recorded], end: int) -> str:
    event = own[end].event
    if isinstance(event, c.ContainerStartFailed):
        return f"It could not be started: {event.error} (exit {words.exit_words(event.exit_code)})."
    assert isinstance(event, c.ContainerExited)
    code = words.exit_words(event.exit_code)
    if event.lost:
        return f"Its process ended while nobody held it, so that its exit code is not known ({code} stands for it)."
    if event.oom_killed:
        return f"The kernel killed it because its cgroup was out of memory (exit {code})."
    asked = _asked_to_end(own[:end])
    if asked is not None:
        return (
            f"It ended (exit {code}) after {words.actor(asked.cause.actor)} {_asked_words(asked)} (@{asked.position})."
        )
    if event.exit_code == 0:
        return "Its process was done and ended by itself (exit 0)."
    return f"Its process ended by itself, with {code}: nobody had asked for it."


def _asked_to_end(before: Sequence[Recorded]) -> Recorded | None:
    """The request that this end answers: the last one of this run."""
    for recorded in reversed(before):
        match recorded.event:
            case c.ContainerStarted():
                return None
            case c.ContainerStopRequested() | c.ContainerRemoveRequested():
                return recorded
            case c.ContainerKillRequested(ends=True):
                return recorded
    return None


def _asked_words(recorded: Recorded) -> str:
    match recorded.event:
        case c.ContainerStopRequested() as event:
            return f"asked it to {'restart' if event.restart else 'stop'} with {words.signal_name(event.signal)}"
        case c.ContainerKillRequested() as event:
            return f"sent it {words.signal_name(event.signal)}"
        case _:
            return "asked for its removal"


def _aftermath(after: Sequence[Recorded]) -> str:
    told = ""
    for recorded in after:
        match recorded.event:
            case c.ContainerRestartScheduled():
                told = " Its restart policy will start it again."
            case c.ContainerRemoveRequested(auto=True):
                told = " It was removed because it was run with --rm."
            case c.ContainerRemoveRequested():
                told = f" {words.actor(recorded.cause.actor)} then had it removed (@{recorded.position})."
    return told
