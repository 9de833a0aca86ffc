"""Pieces of work: one at a time for each key, tried again as long as they are wanted."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from engine.reactors.base import RETRY_S_MAX, RETRY_S_MIN, Works


@pytest.fixture
async def works() -> AsyncIterator[Works]:
    async with trio.open_nursery() as nursery:
        yield Works(nursery)
        nursery.cancel_scope.cancel()


class Work:
    """Fails `failures` times; is wanted until it has succeeded."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.times: list[float] = []
        self.hold: trio.Event | None = None
        self.wanted = True

    async def __call__(self) -> None:
        self.times.append(trio.current_time())
        if self.hold is not None:
            await self.hold.wait()
        if len(self.times) <= self.failures:
            raise RuntimeError("the world refuses")
        self.wanted = False


async def test_work_that_failed_is_tried_again_ever_later(works: Works, autojump_clock: object) -> None:
    work = Work(failures=12)
    works.begin("key", work, lambda: work.wanted)
    await works.settled("key")
    pauses = [later - sooner for sooner, later in zip(work.times, work.times[1:], strict=False)]
    assert len(work.times) == 13
    assert pauses[0] == pytest.approx(RETRY_S_MIN)
    assert all(sooner <= later + 1e-6 for sooner, later in zip(pauses, pauses[1:], strict=False))
    assert pauses[-1] == pytest.approx(RETRY_S_MAX)


async def test_work_that_is_wanted_no_more_is_left_alone(works: Works, autojump_clock: object) -> None:
    work = Work(failures=100)
    works.begin("key", work, lambda: len(work.times) < 3)
    await works.settled("key")
    assert len(work.times) == 3
    works.begin("key", work, lambda: False)
    await works.settled("key")
    assert len(work.times) == 3


async def test_work_without_a_wish_is_tried_once(works: Works) -> None:
    work = Work(failures=1)
    works.begin("key", work)
    await works.settled("key")
    assert len(work.times) == 1
    assert "key" not in works


async def test_beginning_what_runs_runs_it_once_more_if_it_is_still_wanted(works: Works) -> None:
    work = Work()
    work.hold = trio.Event()
    works.begin("key", work, lambda: True)
    await trio.testing.wait_all_tasks_blocked()
    works.begin("key", work, lambda: True)
    works.begin("key", work, lambda: True)
    assert "key" in works
    work.hold.set()
    await works.settled("key")
    assert len(work.times) == 2
