"""Projections at rest: rebuilding gives what following gave, whatever the checkpoint was worth."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from engine import catching_up
from engine.aggregates.catalog import ALL_DECIDERS
from engine.aggregates.decider import Decider
from engine.application import Application
from engine.codec import EventCodec
from engine.lifecycles import CONTAINER, OTHERS
from engine.projections import base
from engine.projections.base import Checkpoint, Head, Rest, ViewStore
from engine.projections.containers import Containers
from engine.projections.events_feed import EventsFeed
from engine.projections.execs import Execs
from engine.projections.images import Images
from engine.projections.networks import Networks
from engine.projections.volumes import Volumes
from tests.support.counter import CAUSE, COUNTER, Add, SteppingClock, Totals, counters
from tests.support.story import tell

PROJECTIONS = (Containers, Images, Networks, Volumes, Execs)


def dumped(projection: base.Projection) -> bytes:
    """What a checkpoint would hold: equal bytes are equal states."""
    return msgspec.msgpack.encode(projection.dump(), order="deterministic")


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("story")
    trio.run(tell, directory)
    return directory


@pytest.mark.parametrize("projection_type", PROJECTIONS, ids=lambda type_: type_.__name__)
async def test_a_rebuilt_view_equals_one_restored_at_any_position(
    story: Path, tmp_path: Path, projection_type: type[base.Projection]
) -> None:
    shutil.copyfile(story / "events.db", tmp_path / "events.db")
    application = Application(tmp_path, deciders=ALL_DECIDERS, clock=SteppingClock(), projections=[projection_type()])
    async with application.running():
        events = application.read(0, 1000)
    rebuilt = projection_type()
    for recorded in events:
        rebuilt.apply(recorded)
    for cut in range(len(events) + 1):
        first, second = projection_type(), projection_type()
        for recorded in events[:cut]:
            first.apply(recorded)
        second.restore(msgspec.msgpack.encode(first.dump()))
        for recorded in events[cut:]:
            second.apply(recorded)
        assert dumped(second) == dumped(rebuilt), cut


@pytest.mark.parametrize("unread", [1, 3, catching_up.UNREAD_ROWS])
async def test_views_that_read_as_little_as_they_can_equal_those_that_are_told_everything(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unread: int
) -> None:
    """From wherever they begin, and however many rows of a stream wait."""
    monkeypatch.setattr(catching_up, "UNREAD_ROWS", unread)
    shutil.copyfile(story / "events.db", tmp_path / "events.db")
    application = Application(tmp_path, deciders=ALL_DECIDERS, clock=SteppingClock())
    async with application.running():
        events, rows = application.read(0, 1000), application._recorder.rows_after(0, 1000)
    told = [projection_type() for projection_type in (*PROJECTIONS, EventsFeed)]
    codec = EventCodec(event for decider in ALL_DECIDERS for event in decider.events)
    for cut in range(len(events) + 1):
        views = [projection_type() for projection_type in (*PROJECTIONS, EventsFeed)]
        for view, followed in zip(views, told, strict=True):
            view.restore(msgspec.msgpack.encode(followed.dump()))
        catching_up.catch_up([(view, cut) for view in views], codec, lambda after: iter([rows[after:]]))
        if cut == 0:
            whole = [dumped(view) for view in views]
        assert [dumped(view) for view in views] == whole, cut
        for view in told if cut < len(events) else ():
            if base.follows(view, events[cut].kind, type(events[cut].event)):
                view.apply(events[cut])
    assert [dumped(view) for view in told] == whole


LIFECYCLES = {lifecycle.name: lifecycle for lifecycle in (CONTAINER, *OTHERS)}


@pytest.mark.parametrize("decider", [d for d in ALL_DECIDERS if d.name in LIFECYCLES], ids=lambda d: d.name)
def test_a_stream_ends_with_the_events_that_its_decider_calls_endings_and_with_no_others(decider: Decider[Any]) -> None:
    for (before, event), (after, _) in LIFECYCLES[decider.name].transitions.items():
        state = msgspec.structs.replace(decider.initial("x"), status=after)
        assert decider.terminal(state) == (event in decider.endings), (before, event)


@pytest.mark.parametrize("projection_type", PROJECTIONS, ids=lambda type_: type_.__name__)
async def test_a_reset_view_is_an_empty_one(story: Path, projection_type: type[base.Projection]) -> None:
    application = Application(
        story, deciders=ALL_DECIDERS, clock=SteppingClock(), projections=[projection := projection_type()]
    )
    async with application.running():
        pass
    projection.reset()
    assert dumped(projection) == dumped(projection_type())


async def test_a_view_whose_restore_fails_is_folded_anew(tmp_path: Path) -> None:
    class Picky(Totals):
        def restore(self, dumped: bytes) -> None:
            self.totals = {"half": 1}
            raise ValueError("not today")

    for _ in range(2):
        totals = Picky()
        async with counters(tmp_path, totals=totals).running() as application:
            await application.execute(Add(name="a"), cause=CAUSE)
    assert totals.totals == {"a": 2}


async def test_a_view_made_by_other_code_is_folded_anew(tmp_path: Path) -> None:
    async with counters(tmp_path, totals=Totals()).running() as application:
        await application.execute(Add(name="a"), cause=CAUSE)
    with sqlite3.connect(tmp_path / "views.db") as database:
        database.execute("UPDATE views SET fingerprint = 'of yesterday'")
    database.close()
    totals = Totals()
    async with counters(tmp_path, totals=totals).running():
        assert totals.told == 1


async def test_a_new_view_is_folded_from_the_beginning_while_others_go_on_from_where_they_were(tmp_path: Path) -> None:
    async with counters(tmp_path, totals=Totals()).running() as application:
        await application.execute(Add(name="a", amount=5), cause=CAUSE)

    class Second(Totals):
        name = "second"

    Second.__module__ = Totals.__module__  # else it counts as other code, and everything is folded anew

    first, second = Totals(), Second()
    application = Application(tmp_path, deciders=[COUNTER], clock=SteppingClock(), projections=[first, second])
    async with application.running():
        assert (first.told, second.told) == (0, 5)
        assert first.totals == second.totals == {"a": 5}


def test_the_store_keeps_views_snapshots_and_the_head(tmp_path: Path) -> None:
    store = ViewStore(tmp_path / "views.db")
    store.open()
    store.save(
        Checkpoint(
            head=Head(position=7, seal=b"s" * 32),
            views={"one": Rest(0, "f", {"a": 1})},
            snapshots={"counter:a": Rest(70, "f", [1, 2]), "counter:b": Rest(80, "f", [])},
            ended=("counter:b",),
        )
    )
    store.close()
    store.open()
    assert store.head() == Head(position=7, seal=b"s" * 32)
    assert store.views()["one"].data == msgspec.msgpack.encode({"a": 1})
    assert store.snapshot("counter:a", "f") == (70, msgspec.msgpack.encode([1, 2]))
    assert store.snapshot("counter:a", "g") is None
    assert store.snapshot("counter:b", "f") is None
    store.clear()
    assert (store.head(), store.views()) == (None, {})
    store.close()
