"""Random lives of a log against a dictionary: calls of several commands, rejections, full disks, cancelled callers,
crashes and restarts. Whatever happened, memory, file and model agree."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.aggregates.decider import Rejected
from engine.application import Application, LogOptions
from engine.errors import PortError
from replay.verify import verify
from tests.support.counter import CAUSE, Add, CounterState, End, Totals, counters

NAMES = ("a", "b", "c")


class Call(NamedTuple):
    """One execute. cancelled: the caller does not wait for the answer. amounts: None ends the counter."""

    commands: tuple[tuple[str, int | None], ...]
    cancelled: bool


class Group(NamedTuple):
    """Calls made at the same time; with `full`, while the disk has no room."""

    calls: tuple[Call, ...]
    full: bool
    then: str  # "", "checkpoint", "restart" or "crash"


commands = st.tuples(st.sampled_from(NAMES), st.sampled_from((-1, 0, 1, 1, 2, 5, 40, None)))
calls = st.builds(Call, st.lists(commands, min_size=1, max_size=3).map(tuple), st.booleans())
groups = st.builds(
    Group,
    st.lists(calls, min_size=1, max_size=5).map(tuple),
    st.sampled_from((False, False, False, True)),
    st.sampled_from(("", "", "checkpoint", "restart", "crash")),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(groups, min_size=1, max_size=6), st.sampled_from((1, 2, 2048)))
def test_memory_file_and_model_agree_whatever_happens(life: list[Group], cached: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        trio.run(live, Path(directory), life, LogOptions(folds=cached, snapshot_from=3, inline_events=8))


async def live(root: Path, life: Sequence[Group], options: LogOptions) -> None:
    model = {name: CounterState(name=name) for name in NAMES}
    sessions: list[list[Group]] = [[]]
    for group in life:
        sessions[-1].append(group)
        if group.then in ("restart", "crash"):
            sessions.append([])
    directory = root / "0"
    for number, session in enumerate(sessions):
        totals = Totals()
        async with counters(directory, totals=totals, options=options).running() as application:
            agree(application, totals, model)
            for group in session:
                await run(application, group, model)
                agree(application, totals, model)
            if session and session[-1].then == "crash":
                directory = root / str(number + 1)
                shutil.copytree(root / str(number), directory)
        if directory == root / str(number):
            directory = (root / str(number)).rename(root / str(number + 1))
        assert verify(directory / "events.db", views=directory / "views.db").whole


async def run(application: Application, group: Group, model: dict[str, CounterState]) -> None:
    if group.full:
        limit_pages(application, full=True)
    outcome: dict[int, bool] = {}

    async def make(index: int, call: Call) -> None:
        wishes = [End(name=name) if amount is None else Add(name=name, amount=amount) for name, amount in call.commands]
        with trio.CancelScope() as scope:
            if call.cancelled:
                scope.cancel()
            try:
                await application.execute(*wishes, cause=CAUSE)
                outcome[index] = True
            except (Rejected, PortError):
                outcome[index] = False

    before = application.position
    async with trio.open_nursery() as nursery:
        for index, call in enumerate(group.calls):
            nursery.start_soon(make, index, call)
    # A cancelled caller does not know; a call that changes nothing comes back when everything before it is settled.
    for name in NAMES:
        with_nothing = Add(name=name, amount=0)
        try:
            await application.execute(with_nothing, cause=CAUSE)
        except (Rejected, PortError):
            pass
    limit_pages(application, full=False)
    while application._queue or application._in_flight:
        await trio.sleep(0.001)
    for recorded in application.read(before, 1000):
        model[recorded.key] = application._deciders["counter"].evolve(model[recorded.key], recorded.event)
    if not any(call.cancelled for call in group.calls) and not any(outcome.values()):
        assert application.position == before, "nothing was acknowledged, so nothing is there"
    if group.then == "checkpoint":
        await application.checkpoint()


def limit_pages(application: Application, *, full: bool) -> None:
    writer = application._recorder._writer
    assert writer is not None
    writer.execute("PRAGMA page_count")
    writer.execute(f"PRAGMA max_page_count={writer.fetchone()[0] if full else 1 << 30}")


def agree(application: Application, totals: Totals, model: dict[str, CounterState]) -> None:
    for name, state in model.items():
        assert application.state("counter", name) == state
        assert totals.totals.get(name, 0) == state.total
        versions = [recorded.version for recorded in application.history(f"counter:{name}")]
        assert versions == list(range(1, state.total + state.ended + 1))
    begun = {name for name, state in model.items() if state.total and not state.ended}
    assert set(application.live("counter")) == begun
    assert application._pending == {}
    positions = [recorded.position for recorded in application.read(0, 100_000)]
    assert positions == list(range(1, application.position + 1))
