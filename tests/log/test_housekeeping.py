"""What happens beside the command path: checkpoints of derived state, and a write-ahead log that stays small."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import trio
import trio.testing

from engine import application as module
from engine import recorder
from engine.application import LogOptions
from engine.errors import PortError
from replay.verify import verify
from tests.support.counter import CAUSE, Add, Totals, counters


def checkpointed(directory: Path) -> int:
    with sqlite3.connect(directory / "views.db") as database:
        row = database.execute("SELECT position FROM head").fetchone()
    database.close()
    return row[0] if row else 0


async def eventually(fact) -> None:
    with trio.fail_after(20):
        while not fact():
            await trio.sleep(0.005)


async def test_derived_state_is_checkpointed_after_so_many_events(tmp_path: Path) -> None:
    options = LogOptions(checkpoint_events=100)
    async with counters(tmp_path, totals=Totals(), options=options).running() as application:
        await application.execute(Add(name="a", amount=40), cause=CAUSE)
        assert checkpointed(tmp_path) == 0
        await application.execute(Add(name="a", amount=70), cause=CAUSE)
        await eventually(lambda: checkpointed(tmp_path) == 110)


async def test_derived_state_is_checkpointed_some_time_after_a_change(tmp_path: Path) -> None:
    options = LogOptions(checkpoint_s=0.01)
    async with counters(tmp_path, totals=Totals(), options=options).running() as application:
        await application.execute(Add(name="a"), cause=CAUSE)
        await eventually(lambda: checkpointed(tmp_path) == 1)


async def test_the_write_ahead_log_does_not_grow_with_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAL_COMMITS", 20)
    monkeypatch.setattr(recorder, "WAL_BYTES", 0)
    async with counters(tmp_path).running() as application:
        sizes = []
        for _ in range(600):
            await application.execute(Add(name="a"), cause=CAUSE)
            sizes.append((tmp_path / "events.db-wal").stat().st_size)
        assert max(sizes) < 2_000_000, "600 commits of three to six pages would be 10 MB"


async def test_somebody_who_reads_the_log_at_leisure_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAL_COMMITS", 8)
    async with counters(tmp_path).running() as application:
        await application.execute(Add(name="a"), cause=CAUSE)
        reader = sqlite3.connect(tmp_path / "events.db")
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM stored_events").fetchone()
        with trio.fail_after(4):  # one busy timeout of SQLite's would be 5 s
            for _ in range(100):
                await application.execute(Add(name="a"), cause=CAUSE)
        reader.close()


async def test_a_living_log_verifies_at_any_moment(tmp_path: Path) -> None:
    async with counters(tmp_path, totals=Totals()).running() as application:
        done = False

        async def write() -> None:
            while not done:
                await application.execute(Add(name="a", amount=3), cause=CAUSE)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            for _ in range(10):
                await application.checkpoint()
                result = await trio.to_thread.run_sync(
                    lambda: verify(tmp_path / "events.db", views=tmp_path / "views.db")
                )
                assert result.whole, result.findings
            done = True


async def test_views_that_can_not_be_written_stop_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    totals = Totals()
    async with counters(tmp_path, totals=totals).running() as application:
        application._checkpoints._views._opened.execute("DROP TABLE views")
        await application.execute(Add(name="a"), cause=CAUSE)
        await application.checkpoint()
        await application.execute(Add(name="a"), cause=CAUSE)
    assert "not checkpointed" in caplog.text
    totals = Totals()
    async with counters(tmp_path, totals=totals).running():
        assert totals.totals == {"a": 2}


async def test_a_log_that_lost_its_tail_is_told_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with counters(tmp_path, totals=Totals()).running() as application:
        for _ in range(5):
            await application.execute(Add(name="a"), cause=CAUSE)
    with sqlite3.connect(tmp_path / "events.db") as database:
        database.execute("DELETE FROM stored_events WHERE rowid > 3")
        database.execute("DELETE FROM chain WHERE first > 3")
    database.close()
    totals = Totals()
    async with counters(tmp_path, totals=totals).running() as application:
        assert totals.totals == {"a": 3}
        assert application.state("counter", "a").total == 3
    assert "lost its tail" in caplog.text


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE stored_events SET state = state || x'00' WHERE rowid = 5",
        "UPDATE chain SET seal = zeroblob(32) WHERE first = 5",
        "DELETE FROM stored_events WHERE rowid = 5",
        "DELETE FROM chain WHERE first = 5",
    ],
)
async def test_nothing_is_appended_to_a_log_whose_end_does_not_prove_itself(tmp_path: Path, statement: str) -> None:
    async with counters(tmp_path).running() as application:
        for _ in range(5):
            await application.execute(Add(name="a"), cause=CAUSE)
    with sqlite3.connect(tmp_path / "events.db") as database:
        database.execute(statement)
    database.close()
    with pytest.raises(PortError, match="damaged"):
        async with counters(tmp_path).running():
            pass


async def test_the_first_commits_find_room_in_the_write_ahead_log(tmp_path: Path) -> None:
    """Its file does not grow with them, which is what makes a commit slow; and a reader finds the log's true end."""
    async with counters(tmp_path).running() as application:
        size = (tmp_path / "events.db-wal").stat().st_size
        assert size == recorder.WAL_BYTES
        for _ in range(20):
            await application.execute(Add(name="a"), cause=CAUSE)
        assert (tmp_path / "events.db-wal").stat().st_size == size
        assert verify(tmp_path / "events.db").position == 20
