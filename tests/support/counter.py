"""A small aggregate to test the shell of the log with: a counter that can be added to, fail, and end."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import msgspec

from engine.aggregates.decider import Cause, Command, Decider, Event, Reason, Recorded, Rejected
from engine.application import Application, LogOptions

CAUSE = Cause(actor="uid=0 gid=0 pid=412 exe=/usr/bin/docker", correlation="req-1")


class Add(Command, frozen=True, kw_only=True):
    """Adds `amount`, as `amount` events of one; nothing happens for 0; rejected below 0."""

    name: str
    amount: int = 1

    @property
    def key(self) -> str:
        return self.name


class End(Command, frozen=True, kw_only=True):
    name: str

    @property
    def key(self) -> str:
        return self.name


class Added(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "counter.added"
    note: str = ""


class Ended(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "counter.ended"


class CounterState(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    total: int = 0
    ended: bool = False


def decide(state: CounterState, command: Add | End) -> tuple[Event, ...]:
    if state.ended:
        raise Rejected(Reason.CONFLICT, "the counter has ended")
    if isinstance(command, End):
        return (Ended(),)
    if command.amount < 0:
        raise Rejected(Reason.INVALID, "can not add less than nothing")
    return tuple(Added() for _ in range(command.amount))


def evolve(state: CounterState, event: Event) -> CounterState:
    if isinstance(event, Ended):
        return msgspec.structs.replace(state, ended=True)
    return msgspec.structs.replace(state, total=state.total + 1)


COUNTER: Decider[CounterState] = Decider(
    name="counter",
    initial=lambda key: CounterState(name=key),
    decide=decide,
    evolve=evolve,
    terminal=lambda state: state.ended,
    commands=(Add, End),
    events=(Added, Ended),
)


class Totals:
    """A projection: total by stream, and how often it was told."""

    name = "totals"
    kinds: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.totals: dict[str, int] = {}
        self.told = 0

    def apply(self, recorded: Recorded) -> None:
        self.told += 1
        self.totals[recorded.key] = self.totals.get(recorded.key, 0) + isinstance(recorded.event, Added)

    def dump(self) -> object:
        return dict(self.totals)

    def restore(self, dumped: bytes) -> None:
        self.totals = msgspec.msgpack.decode(dumped, type=dict[str, int])

    def reset(self) -> None:
        self.totals = {}


class SteppingClock:
    """Every look at it is a second later than the one before."""

    def __init__(self, start_ns: int = 1_700_000_000_000_000_000) -> None:
        self._now_ns = start_ns

    def now_ns(self) -> int:
        self._now_ns += 1_000_000_000
        return self._now_ns


def counters(
    directory: Path, *, totals: Totals | None = None, options: LogOptions = LogOptions(), decider: Decider = COUNTER
) -> Application:
    return Application(
        directory,
        deciders=[decider],
        clock=SteppingClock(),
        projections=[totals] if totals is not None else [],
        options=options,
    )
