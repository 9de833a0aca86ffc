"""An application without a log on disk: the same rules of `execute`, with everything checked that can be.

Every event goes through the codec before it is believed, so a fold here is the fold of what would have been saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from engine.aggregates.catalog import ALL_DECIDERS
from engine.aggregates.decider import Cause, Command, Decider, Event, Reason, Recorded, Rejected
from engine.codec import EventCodec

CAUSE = Cause(actor="uid=0 gid=0 pid=1 exe=/usr/bin/docker", correlation="req-1")
CODEC = EventCodec(event for decider in ALL_DECIDERS for event in decider.events)


def saved(event: Event) -> Event:
    """The event as it comes back from the log."""
    topic, state = CODEC.encode(1, CAUSE, event)
    return CODEC.decode(topic, state)[2]


class Memory:
    """Commands in, all or nothing; `states` and the `log` to look at."""

    def __init__(self, deciders: Sequence[Decider[Any]] = ALL_DECIDERS) -> None:
        self.log: list[Recorded] = []
        self._deciders = {decider.name: decider for decider in deciders}
        self._by_command = {command: decider for decider in deciders for command in decider.commands}
        self._states: dict[str, Any] = {}
        self._versions: dict[str, int] = {}

    def execute(self, *commands: Command) -> tuple[Event, ...]:
        """The events of all commands. Raises Rejected, and then nothing has happened."""
        states, fresh = dict(self._states), []
        for command in commands:
            decider = self._by_command[type(command)]
            stream = decider.stream(command.key)
            state = states.get(stream, decider.initial(command.key))
            for event in decider.decide(state, command):
                assert type(event) in decider.events
                back = saved(event)
                assert back == event
                state = decider.evolve(state, back)
                fresh.append((stream, back))
            states[stream] = state
        self._states = states
        for stream, event in fresh:
            self._versions[stream] = version = self._versions.get(stream, 0) + 1
            self.log.append(
                Recorded(
                    position=len(self.log) + 1, stream=stream, version=version, time_ns=1, cause=CAUSE, event=event
                )
            )
        return tuple(event for _, event in fresh)

    def state(self, name: str, key: str) -> Any:
        return self._states.get(f"{name}:{key}", self._deciders[name].initial(key))

    def check(self) -> None:
        """Fold of saved = fold of live; a state survives its snapshot; an ended stream stays or begins anew."""
        folded: dict[str, Any] = {}
        for recorded in self.log:
            decider = self._deciders[recorded.kind]
            before = folded.get(recorded.stream, decider.initial(recorded.key))
            if recorded.stream in folded and decider.terminal(before):
                assert before == decider.initial(recorded.key), f"{recorded.stream} went on after its end"
            folded[recorded.stream] = decider.evolve(before, recorded.event)
        assert folded == {stream: state for stream, state in self._states.items() if stream in folded}
        for state in folded.values():
            assert msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=type(state)) == state


class Story:
    """given(events).when(command).then(events), or .rejected(reason, words), for one aggregate."""

    def __init__(self, decider: Decider[Any], key: str, *history: Event) -> None:
        self._decider = decider
        self.state = decider.initial(key)
        for event in history:
            self.state = decider.evolve(self.state, event)
        self._command: Command | None = None

    def when(self, *commands: Command) -> Story:
        """All but the last command are history, too."""
        for command in commands[:-1]:
            for event in self._decider.decide(self.state, command):
                self.state = self._decider.evolve(self.state, event)
        self._command = commands[-1]
        return self

    def then(self, *events: Event) -> Any:
        """The command leads to exactly these events. The state after them."""
        assert self._command is not None
        decided = self._decider.decide(self.state, self._command)
        assert decided == events
        for event in decided:
            self.state = self._decider.evolve(self.state, saved(event))
        return self.state

    def rejected(self, reason: Reason, words: str) -> None:
        assert self._command is not None
        with pytest.raises(Rejected) as caught:
            self._decider.decide(self.state, self._command)
        assert (caught.value.reason, caught.value.message) == (reason, words)


def outcome(decider: Decider[Any], state: Any, command: Command) -> str:
    """What a command leads to in a state, in one word: names of events, `nothing`, or `no: <reason>`. For whole tables
    of (status, command). Events must evolve."""
    try:
        events = decider.decide(state, command)
    except Rejected as error:
        return f"no: {error.reason.value}"
    for event in events:
        state = decider.evolve(state, saved(event))
    return " ".join(event.NAME.partition(".")[2] for event in events) or "nothing"
