"""The cache of folds: what is read from the log again, and what is not."""

from __future__ import annotations

from engine.aggregates.decider import Recorded
from engine.folds import Fold, Folds
from tests.support.counter import COUNTER, CounterState


def folds(looks: list[str], capacity: int = 4) -> Folds:
    def load_tail(stream: str, version: int) -> list[Recorded]:
        looks.append(stream)
        return []

    return Folds(
        {"counter": COUNTER},
        capacity=capacity,
        load_known=lambda stream: None,
        load_snapshot=lambda stream: None,
        load_tail=load_tail,
        long_load=lambda stream, fold: None,
    )


def state_of(total: int) -> CounterState:
    return CounterState(name="a", total=total)


def test_a_stream_without_events_is_looked_for_once() -> None:
    looks: list[str] = []
    cache = folds(looks)
    assert [cache.get("counter:a").version for _ in range(3)] == [0, 0, 0]
    assert looks == ["counter:a"]
    cache.put("counter:a", Fold(state_of(2), 1), ended=False)
    assert cache.get("counter:a") == Fold(state_of(2), 1)


def test_streams_that_have_not_begun_make_room_first() -> None:
    looks: list[str] = []
    cache = folds(looks, capacity=3)
    cache.put("counter:a", Fold(state_of(1), 1), ended=False)
    cache.put("counter:b", Fold(state_of(1), 1), ended=False)
    for n in range(20):
        cache.get(f"counter:never{n}")
    assert len(cache) == 3
    looks.clear()
    assert cache.get("counter:a").version == cache.get("counter:b").version == 1
    assert looks == []
