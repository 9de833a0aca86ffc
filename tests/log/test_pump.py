"""Following the log: cursors that never skip, waiters that see every state."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from engine.aggregates.decider import Event, Recorded
from engine.folds import Fold
from engine.pump import Pump
from tests.support.counter import CAUSE, Add, Added, CounterState, End, Ended, counters


async def test_a_subscriber_sees_the_past_and_then_the_future_without_a_gap(tmp_path: Path) -> None:
    async with counters(tmp_path).running() as application:
        await application.execute(Add(name="a", amount=5), cause=CAUSE)
        seen: list[int] = []

        async def follow() -> None:
            async for recorded in application.pump.subscribe(after=2):
                seen.append(recorded.position)
                if recorded.position == 300:
                    return

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            for _ in range(59):
                await application.execute(Add(name="a", amount=5), cause=CAUSE)
        assert seen == list(range(3, 301))


async def test_a_subscriber_that_lags_behind_the_ring_reads_the_log_and_skips_nothing(tmp_path: Path) -> None:
    application = counters(tmp_path)
    application.pump = Pump(
        read=application.read,
        fold=application._folds.get,
        ended=application._folds.ended,
        limiter=trio.CapacityLimiter(1),
        ring_events=16,
    )
    async with application.running():
        seen: list[int] = []

        async def follow_slowly() -> None:
            async with contextlib.aclosing(application.pump.subscribe(after=0)) as events:
                async for recorded in events:
                    seen.append(recorded.position)
                    if recorded.position % 7 == 0:
                        # Hundreds of events pass while this one thinks.
                        await application.execute(Add(name="noise", amount=40), cause=CAUSE)
                    if recorded.position >= 1500:
                        return

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow_slowly)
            await application.execute(Add(name="a", amount=100), cause=CAUSE)
        assert seen == list(range(1, len(seen) + 1))
        assert len(seen) >= 1500


async def test_a_subscriber_after_the_head_waits_for_what_comes(tmp_path: Path) -> None:
    async with counters(tmp_path).running() as application:
        events = application.pump.subscribe(after=0)
        with trio.move_on_after(0.02):
            await anext(events)
            pytest.fail("there was nothing to see")


async def test_until_answers_at_once_when_the_state_is_there_already(tmp_path: Path) -> None:
    async with counters(tmp_path).running() as application:
        await application.execute(Add(name="a", amount=3), cause=CAUSE)
        state = await application.pump.until("counter:a", lambda state: state.total == 3)
        assert state.total == 3


async def test_until_sees_states_in_the_middle_of_a_transaction(tmp_path: Path) -> None:
    async with counters(tmp_path).running() as application:
        answers: list[int] = []

        async def wait() -> None:
            answers.append((await application.pump.until("counter:a", lambda state: state.total == 4)).total)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await application.execute(Add(name="a", amount=9), cause=CAUSE)
        assert answers == [4]
        assert application.pump._waiters == {}


async def test_until_returns_when_the_stream_ends_without_what_was_waited_for(tmp_path: Path) -> None:
    async with counters(tmp_path).running() as application:
        answers: list[CounterState] = []

        async def wait() -> None:
            answers.append(await application.pump.until("counter:a", lambda state: state.total == 1000))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await application.execute(Add(name="a"), End(name="a"), cause=CAUSE)
        assert answers[0].ended
        assert (await application.pump.until("counter:a", lambda state: False)).ended


async def test_a_cancelled_waiter_leaves_nothing_behind(tmp_path: Path) -> None:
    async with counters(tmp_path).running() as application:
        with trio.move_on_after(0.01):
            await application.pump.until("counter:a", lambda state: state.total == 1)
        assert application.pump._waiters == {}
        await application.execute(Add(name="a"), cause=CAUSE)


async def test_a_predicate_that_fails_fails_its_own_caller(tmp_path: Path) -> None:
    async with counters(tmp_path).running() as application:
        with pytest.raises(ZeroDivisionError):
            await application.pump.until("counter:a", lambda state: 1 // 0)

        async def wait() -> None:
            with pytest.raises(ZeroDivisionError):
                await application.pump.until("counter:a", lambda state: state.total and 1 // 0)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await application.execute(Add(name="a"), cause=CAUSE)


async def test_a_subscriber_of_one_kind_sleeps_through_the_others_and_misses_none_of_its_own() -> None:
    """Not even when more events than the ring holds pass while it sleeps: then it need not read the log either."""

    def read(after: int, limit: int) -> list[Recorded]:
        raise AssertionError(f"the log is read behind {after}")

    def refuse(stream: str) -> Fold:
        raise AssertionError(stream)

    pump = Pump(
        read=read, fold=refuse, ended=lambda stream, state: False, limiter=trio.CapacityLimiter(1), ring_events=16
    )
    seen: list[str] = []

    async def follow() -> None:
        async for recorded in pump.subscribe(0, "network", "volume"):
            seen.append(recorded.stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        for _ in range(3):
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(40):
                pump.publish([(recorded(pump.position + 1, "container:a"), None)])
            pump.publish([(recorded(pump.position + 1, "network:n"), None)])
            pump.publish([(recorded(pump.position + 1, "container:b"), None)])
            pump.publish([(recorded(pump.position + 1, "volume:v"), None)])
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert seen == ["network:n", "volume:v"] * 3


async def test_a_subscriber_of_single_events_sleeps_through_the_others_of_their_kind() -> None:
    def refuse(*arguments: object) -> Any:
        raise AssertionError(arguments)

    pump = Pump(read=refuse, fold=refuse, ended=lambda stream, state: False, limiter=trio.CapacityLimiter(1))
    seen: list[int] = []
    steps = 0

    class Steps(trio.abc.Instrument):
        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            nonlocal steps
            steps += task.name == "follow"

    async def follow() -> None:
        async for each in pump.subscribe(0, Ended.NAME):
            seen.append(each.position)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, name="follow")
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(instrument := Steps())
        for _ in range(50):
            pump.publish([(recorded(pump.position + 1, "counter:a"), None)])
            await trio.testing.wait_all_tasks_blocked()
        assert steps == 0
        pump.publish([(recorded(51, "counter:a", Ended()), None)])
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.remove_instrument(instrument)
        nursery.cancel_scope.cancel()
    assert seen == [51]


def recorded(position: int, stream: str, event: Event | None = None) -> Recorded:
    event = event or Added()
    return Recorded(position=position, stream=stream, version=position, time_ns=position, cause=CAUSE, event=event)
