"""What went wrong on the way to a container's end, in sentences that name who and when: the part of `replay why` that
an incident is told by.

Owns: choosing the turns of a life that explain one (health lost and found, restarts in a row, networks taken away,
removal by somebody) out of its own events. Pure. Refuses to know: how it is printed; the verdict is why.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from engine.aggregates.container import events as c
from engine.aggregates.decider import Recorded
from engine.aggregates.values.health import HealthStatus
from replay import words
from replay.plain import clock_time

Name = Callable[[str], str]
"""A network's id to what people call it."""


def circumstances(own: Sequence[Recorded], network_name: Name) -> tuple[str, ...]:
    """In order of time; nothing for a life without trouble."""
    return tuple(
        sentence
        for index, recorded in enumerate(own)
        for sentence in (
            *_detached(recorded, network_name),
            *_health(own, index),
            *_restarts(own, index),
            *_removal(recorded),
        )
    )


def _when(recorded: Recorded) -> str:
    return f"{clock_time(recorded.time_ns)} (@{recorded.position})"


def _detached(recorded: Recorded, network_name: Name) -> Iterator[str]:
    if isinstance(recorded.event, c.ContainerDisconnectRequested):
        name = network_name(recorded.event.network_id)
        yield f"{_when(recorded)}: {words.actor(recorded.cause.actor)} detached it from network {name}."


def _health(own: Sequence[Recorded], index: int) -> Iterator[str]:
    event = own[index].event
    if not isinstance(event, c.ContainerHealthReported) or event.status is _health_before(own[:index]):
        return
    if event.status is HealthStatus.UNHEALTHY:
        said = event.last.output.strip().splitlines()
        output = f", which said {said[-1][: words.VALUE_LENGTH_MAX]!r}" if said else ""
        yield (
            f"{_when(own[index])}: it became unhealthy: {event.failing_streak} probes in a row failed, the last with "
            f"{event.last.exit_code}{output}."
        )
    elif event.status is HealthStatus.HEALTHY and _health_before(own[:index]) is HealthStatus.UNHEALTHY:
        yield f"{_when(own[index])}: it became healthy again."


def _health_before(before: Sequence[Recorded]) -> HealthStatus | None:
    """As last reported in this run."""
    for recorded in reversed(before):
        match recorded.event:
            case c.ContainerHealthReported() as event:
                return event.status
            case c.ContainerStarted():
                return None
    return None


def _restarts(own: Sequence[Recorded], index: int) -> Iterator[str]:
    """Told once for all restarts in a row, at the first of them."""
    if not _is_restart(own[index]) or any(map(_is_restart, _since_a_person(own[:index]))):
        return
    following = list(_until_a_person(own[index:]))
    restarts = [recorded for recorded in following if _is_restart(recorded)]
    exits = [recorded.event for recorded in (*own[:index], *following) if isinstance(recorded.event, c.ContainerExited)]
    codes = sorted({event.exit_code for event in exits[-len(restarts) - 1 :]})
    how = " and ".join(map(words.exit_words, codes))
    if len(restarts) == 1:
        yield f"{_when(own[index])}: it had ended by itself with {how}, and its restart policy started it again."
    else:
        yield (
            f"{_when(own[index])}: a restart loop: it ended by itself with {how} again and again, and its restart "
            f"policy started it {len(restarts)} times until {_when(restarts[-1])}."
        )


def _is_restart(recorded: Recorded) -> bool:
    return isinstance(recorded.event, c.ContainerRestartScheduled)


def _by_a_person(recorded: Recorded) -> bool:
    asked = c.ContainerStartRequested | c.ContainerStopRequested | c.ContainerKillRequested | c.ContainerRemoveRequested
    return isinstance(recorded.event, asked) and not recorded.cause.actor.startswith("reactor:")


def _since_a_person(before: Sequence[Recorded]) -> Sequence[Recorded]:
    """The end of a life so far in which nobody meddled."""
    start = next((index for index in range(len(before) - 1, -1, -1) if _by_a_person(before[index])), -1)
    return before[start + 1 :]


def _until_a_person(after: Sequence[Recorded]) -> Iterator[Recorded]:
    for recorded in after:
        if _by_a_person(recorded):
            return
        yield recorded


def _removal(recorded: Recorded) -> Iterator[str]:
    if isinstance(recorded.event, c.ContainerRemoveRequested) and not recorded.event.auto:
        force = " by force" if recorded.event.force else ""
        yield f"{_when(recorded)}: {words.actor(recorded.cause.actor)} had it removed{force}."
