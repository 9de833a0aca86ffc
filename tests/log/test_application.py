"""execute: what is appended, what is not, who is told, and what remains after a restart."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from engine.aggregates.decider import Recorded, Rejected
from engine.application import LogOptions
from engine.errors import Fault, PortError
from replay.verify import verify
from tests.support.counter import CAUSE, COUNTER, Add, End, Totals, counters


async def test_a_command_becomes_events_that_are_told_before_the_caller_goes_on(tmp_path: Path) -> None:
    totals = Totals()
    async with counters(tmp_path, totals=totals).running() as application:
        committed = await application.execute(Add(name="a", amount=2), cause=CAUSE)
        assert [recorded.position for recorded in committed.recorded] == [1, 2]
        assert [recorded.version for recorded in committed.recorded] == [1, 2]
        assert committed.recorded[0].cause == CAUSE
        assert committed.position == application.position == 2
        assert totals.totals == {"a": 2}
        assert application.state("counter", "a").total == 2
        assert application.state("counter", "never heard of").total == 0


async def test_later_commands_of_a_call_see_what_earlier_ones_decided(tmp_path: Path) -> None:
    async with counters(tmp_path).running() as application:
        with pytest.raises(Rejected, match="ended"):
            await application.execute(End(name="a"), Add(name="a"), cause=CAUSE)


async def test_a_rejected_call_appends_nothing_and_leaves_no_trace(tmp_path: Path) -> None:
    async with counters(tmp_path).running() as application:
        with pytest.raises(Rejected):
            await application.execute(Add(name="a"), Add(name="b"), Add(name="a", amount=-1), cause=CAUSE)
        assert application.position == 0
        committed = await application.execute(Add(name="a"), cause=CAUSE)
        assert [(recorded.position, recorded.version) for recorded in committed.recorded] == [(1, 1)]


async def test_a_command_that_changes_nothing_answers_once_what_it_saw_is_durable(tmp_path: Path) -> None:
    async with counters(tmp_path).running() as application:
        order: list[str] = []
        disk = trio.Event()
        append = application._append

        async def slow_append(stored: object) -> None:
            await disk.wait()
            await append(stored)

        application._append = slow_append

        async def add() -> None:
            await application.execute(Add(name="a"), cause=CAUSE)
            order.append("add")

        async def nothing() -> None:
            committed = await application.execute(Add(name="a", amount=0), cause=CAUSE)
            assert committed.recorded == ()
            assert committed.position == 1
            order.append("nothing")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(add)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(nothing)
            await trio.testing.wait_all_tasks_blocked()
            assert order == []
            other = await application.execute(Add(name="b", amount=0), cause=CAUSE)
            assert other.position == 0
            disk.set()
        assert sorted(order) == ["add", "nothing"]


async def test_a_refusal_answers_once_what_it_was_decided_on_is_durable(tmp_path: Path) -> None:
    """Or is decided again, when that came to nothing."""
    async with counters(tmp_path).running() as application:
        disk = trio.Event()
        refusals: list[str] = []
        append = application._append

        async def failing_append(stored: object) -> None:
            await disk.wait()
            raise PortError("append", "no room", fault=Fault.DISK_FULL)

        application._append = failing_append

        async def end() -> None:
            with pytest.raises(PortError):
                await application.execute(End(name="a"), cause=CAUSE)
            application._append = append

        async def add() -> None:
            await application.execute(Add(name="a"), cause=CAUSE)
            refusals.append("none")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(end)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(add)
            await trio.testing.wait_all_tasks_blocked()
            assert refusals == []
            disk.set()
        assert refusals == ["none"]
        await application.execute(End(name="a"), cause=CAUSE)
        with pytest.raises(Rejected):
            await application.execute(Add(name="a"), cause=CAUSE)


async def test_sixty_four_writers_share_commits_and_keep_their_order(tmp_path: Path) -> None:
    totals = Totals()
    async with counters(tmp_path, totals=totals).running() as application:

        async def write(name: str) -> None:
            for round_ in range(1, 11):
                committed = await application.execute(Add(name=name), Add(name="shared"), cause=CAUSE)
                assert committed.recorded[0].version == round_
                assert committed.recorded[1].position == committed.recorded[0].position + 1

        async with trio.open_nursery() as nursery:
            for number in range(64):
                nursery.start_soon(write, f"c{number}")
        events = application.read(0, 5000)
        assert [recorded.position for recorded in events] == list(range(1, 1281))
        assert [recorded.version for recorded in application.history("counter:shared")] == list(range(1, 641))
        assert totals.totals["shared"] == 640
    with sqlite3.connect(tmp_path / "events.db") as database:
        commits = database.execute("SELECT COUNT(*) FROM chain").fetchone()[0]
    assert commits < 128  # 640 calls: dozens to a group


async def test_a_caller_cancelled_while_its_events_wait_misses_only_the_answer(tmp_path: Path) -> None:
    async with counters(tmp_path).running() as application:
        with trio.CancelScope() as scope:
            scope.cancel()
            await application.execute(Add(name="a"), cause=CAUSE)
        committed = await application.execute(Add(name="a"), cause=CAUSE)
        assert committed.recorded[0].version == 2


async def test_what_waits_when_the_block_is_cancelled_is_still_committed(tmp_path: Path) -> None:
    with trio.CancelScope() as scope:
        async with counters(tmp_path).running() as application:
            scope.cancel()
            await application.execute(Add(name="a", amount=3), cause=CAUSE)
    async with counters(tmp_path).running() as application:
        assert application.state("counter", "a").total == 3


async def test_a_restart_finds_folds_projections_and_live_streams_as_they_were(tmp_path: Path) -> None:
    async with counters(tmp_path, totals=Totals()).running() as application:
        await application.execute(Add(name="a", amount=3), Add(name="b"), cause=CAUSE)
        await application.execute(End(name="b"), cause=CAUSE)
    totals = Totals()
    async with counters(tmp_path, totals=totals).running() as application:
        assert application.restored == {"totals": 5, "live-streams": 5}
        assert totals.told == 0
        assert totals.totals == {"a": 3, "b": 1}
        assert application.state("counter", "a").total == 3
        assert application.live("counter") == ("a",)
        await application.execute(Add(name="a"), cause=CAUSE)
        assert application.state("counter", "a").total == 4


@pytest.mark.parametrize("damage", ["missing", "garbage", "flipped", "unwritten"])
async def test_views_that_are_gone_or_damaged_are_folded_anew(tmp_path: Path, damage: str) -> None:
    async with counters(tmp_path, totals=Totals()).running() as application:
        await application.execute(Add(name="a", amount=3), cause=CAUSE)
    views = tmp_path / "views.db"
    if damage == "missing":
        views.unlink()
    elif damage == "garbage":
        views.write_bytes(b"not a database at all" * 400)
    elif damage == "flipped":
        with sqlite3.connect(views) as database:
            database.execute("UPDATE views SET data = data || x'00'")
    else:  # rows whose sectors the power failed to reach
        with sqlite3.connect(views) as database:
            database.execute("UPDATE views SET position=NULL, seal=NULL, data=NULL, digest=NULL")
            database.execute("INSERT INTO state_snapshots VALUES (NULL, NULL, NULL, NULL, NULL)")
            database.execute("UPDATE head SET position=NULL, seal=NULL")
        assert verify(tmp_path / "events.db", views=views).whole
    totals = Totals()
    async with counters(tmp_path, totals=totals).running() as application:
        assert application.restored == {"totals": 0, "live-streams": 0}
        assert totals.totals == {"a": 3}
        assert application.live("counter") == ("a",)


async def test_views_of_another_log_are_not_believed(tmp_path: Path) -> None:
    for name, amount in (("one", 5), ("two", 7)):
        async with counters(tmp_path / name, totals=Totals()).running() as application:
            await application.execute(Add(name=name, amount=amount), cause=CAUSE)
    (tmp_path / "two" / "views.db").rename(tmp_path / "one" / "views.db")
    totals = Totals()
    async with counters(tmp_path / "one", totals=totals).running():
        assert totals.totals == {"one": 5}


async def test_only_the_tail_is_read_after_a_crash(tmp_path: Path) -> None:
    async with counters(tmp_path, totals=Totals()).running() as application:
        await application.execute(Add(name="a", amount=40), cause=CAUSE)
        await application.checkpoint()
        await application.execute(Add(name="a", amount=2), Add(name="b"), cause=CAUSE)
        _copy_as_a_crash_leaves_it(tmp_path, tmp_path / "after")
    totals = Totals()
    async with counters(tmp_path / "after", totals=totals).running() as application:
        assert totals.told == 3
        assert totals.totals == {"a": 42, "b": 1}
        assert application.live("counter") == ("a", "b")
        assert application.state("counter", "a").total == 42


async def test_a_long_stream_is_loaded_from_its_state_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with counters(tmp_path).running() as application:
        await application.execute(Add(name="long", amount=500), cause=CAUSE)
    application = counters(tmp_path)
    async with application.running():
        asked: list[int] = []
        rows_of = application._recorder.rows_of
        monkeypatch.setattr(application._recorder, "rows_of", lambda s, v: asked.append(v) or rows_of(s, v))
        assert application.state("counter", "long").total == 500
        assert asked == [500]


async def test_the_cache_of_folds_is_bounded_and_what_it_forgot_is_loaded_again(tmp_path: Path) -> None:
    async with counters(tmp_path, options=LogOptions(folds=8)).running() as application:
        for number in range(40):
            await application.execute(Add(name=f"c{number}", amount=number), cause=CAUSE)
        assert len(application._folds) <= 8
        assert [application.state("counter", f"c{number}").total for number in range(40)] == list(range(40))


async def test_positions_are_found_by_time(tmp_path: Path) -> None:
    async with counters(tmp_path).running() as application:
        for _ in range(9):
            await application.execute(Add(name="a"), cause=CAUSE)
        times = [recorded.time_ns for recorded in application.read(0, 100)]
        assert [application.position_before(time_ns) for time_ns in times] == list(range(9))
        assert application.position_before(times[-1] + 1) == 9


async def test_on_a_full_disk_calls_fail_and_nothing_they_decided_remains(tmp_path: Path) -> None:
    totals = Totals()
    async with counters(tmp_path, totals=totals).running() as application:
        await application.execute(Add(name="a"), cause=CAUSE)
        pages = application._recorder._writer
        assert pages is not None
        pages.execute("PRAGMA page_count")
        pages.execute(f"PRAGMA max_page_count={pages.fetchone()[0]}")
        failures: list[PortError] = []

        async def write(name: str) -> None:
            try:
                await application.execute(Add(name=name, amount=50), cause=CAUSE)
            except PortError as error:
                failures.append(error)

        async with trio.open_nursery() as nursery:
            for name in ("a", "b", "c"):
                nursery.start_soon(write, name)
        assert [error.fault for error in failures] == [Fault.DISK_FULL] * 3
        assert application.position == 1
        assert application.state("counter", "a").total == 1
        assert totals.totals == {"a": 1}
        pages.execute("PRAGMA max_page_count=1073741823")
        committed = await application.execute(Add(name="a"), cause=CAUSE)
        assert [(recorded.position, recorded.version) for recorded in committed.recorded] == [(2, 2)]


def test_a_disk_that_refuses_to_grow_the_file_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import resource, sys, trio
        from pathlib import Path
        from engine.errors import PortError
        from tests.support.counter import CAUSE, Add, counters

        async def main():
            async with counters(Path(sys.argv[1])).running() as application:
                resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
                acknowledged = 0
                try:
                    while True:
                        await application.execute(Add(name="a", amount=10), cause=CAUSE)
                        acknowledged += 10
                except PortError as error:
                    print(acknowledged, application.state("counter", "a").total, flush=True)
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                await application.execute(Add(name="a", amount=10), cause=CAUSE)
        trio.run(main)
        """
    )
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    acknowledged, total = map(int, result.stdout.split())
    assert acknowledged == total > 0

    async def reopened() -> int:
        async with counters(tmp_path).running() as application:
            return application.state("counter", "a").total

    assert trio.run(reopened) == acknowledged + 10


async def test_an_event_that_was_never_announced_fails_its_own_call_only(tmp_path: Path) -> None:
    mute = msgspec.structs.replace(COUNTER, events=COUNTER.events[1:])
    async with counters(tmp_path, decider=mute).running() as application:
        with pytest.raises(KeyError):
            await application.execute(Add(name="a"), cause=CAUSE)
        assert (await application.execute(End(name="a"), cause=CAUSE)).position == 1


async def test_what_the_block_raises_comes_out_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async with counters(tmp_path).running() as application:
            await application.execute(Add(name="a"), cause=CAUSE)
            raise ZeroDivisionError
    async with counters(tmp_path).running() as application:
        assert application.state("counter", "a").total == 1


async def test_a_projection_that_fails_is_a_bug_that_ends_the_engine_and_not_the_log(tmp_path: Path) -> None:
    class Broken(Totals):
        def apply(self, recorded: Recorded) -> None:
            super().apply(recorded)
            if recorded.position == 2:
                raise LookupError("a bug")

    Broken.__module__ = Totals.__module__  # else it counts as other code, and everything is folded anew
    with pytest.raises(ExceptionGroup) as caught:
        async with counters(tmp_path, totals=Broken()).running() as application:
            await application.execute(Add(name="a", amount=3), cause=CAUSE)
    assert caught.group_contains(LookupError)
    totals = Totals()
    async with counters(tmp_path, totals=totals).running() as application:
        assert application.state("counter", "a").total == 3
        assert totals.totals == {"a": 3}


async def test_the_log_is_private_to_its_owner(tmp_path: Path) -> None:
    async with counters(tmp_path).running() as application:
        await application.execute(Add(name="a"), cause=CAUSE)
        assert os.stat(tmp_path / "events.db").st_mode & 0o077 == 0


async def test_a_closed_log_is_one_file_that_can_be_copied(tmp_path: Path) -> None:
    async with counters(tmp_path).running() as application:
        await application.execute(Add(name="a"), cause=CAUSE)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("events")) == ["events.db"]


def _copy_as_a_crash_leaves_it(source: Path, target: Path) -> None:
    target.mkdir()
    for path in source.iterdir():
        if path.is_file():
            (target / path.name).write_bytes(path.read_bytes())
