"""The tables of lives: whole, owned, reachable, and drawn as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import lifecycles
from engine.aggregates.catalog import ALL_DECIDERS
from engine.lifecycles import CONTAINER, OTHERS, Lifecycle

ROOT = Path(__file__).parents[2]
EVENTS = {decider.name: decider.events for decider in ALL_DECIDERS}
LEDGERS = {"content", "daemon", "drift", "name", "ports", "prune"}
each_lifecycle = pytest.mark.parametrize("lifecycle", (CONTAINER, *OTHERS), ids=lambda lifecycle: lifecycle.name)


def test_every_aggregate_but_the_ledgers_has_a_table() -> None:
    assert {lifecycle.name for lifecycle in (CONTAINER, *OTHERS)} == set(EVENTS) - LEDGERS


@each_lifecycle
def test_every_event_has_a_row(lifecycle: Lifecycle) -> None:
    rows = {event for _, event in lifecycle.transitions} | set(lifecycle.unmoved)
    assert rows == set(EVENTS[lifecycle.name])


@each_lifecycle
def test_no_row_says_twice_what_an_event_does(lifecycle: Lifecycle) -> None:
    twice = [
        (status, event)
        for event, statuses in lifecycle.unmoved.items()
        for status in statuses
        if (status, event) in lifecycle.transitions
    ]
    assert twice == []


@each_lifecycle
def test_every_row_names_its_owner(lifecycle: Lifecycle) -> None:
    assert all(owner for _, owner in lifecycle.transitions.values())


@each_lifecycle
def test_every_status_is_reachable_and_every_way_comes_to_an_end(lifecycle: Lifecycle) -> None:
    steps: dict = {}
    for (before, _), (after, _) in lifecycle.transitions.items():
        steps.setdefault(before, set()).add(after)

    def reached_from(start: object) -> set:
        found, waiting = {start}, [start]
        while waiting:
            for status in steps.get(waiting.pop(), set()) - found:
                found.add(status)
                waiting.append(status)
        return found

    assert reached_from(lifecycle.begin) == set(type(lifecycle.begin))
    assert all(lifecycle.ends & reached_from(status) for status in type(lifecycle.begin))


@each_lifecycle
def test_nothing_follows_an_end_but_a_new_beginning(lifecycle: Lifecycle) -> None:
    following = {before for before, _ in lifecycle.transitions} | set().union(*lifecycle.unmoved.values(), set())
    assert following & lifecycle.ends <= {lifecycle.begin}


def test_the_pages_of_lifecycles_are_current() -> None:
    assert lifecycles.stale(ROOT) == [], "run `python -m engine.lifecycles`"


def test_a_page_without_marks_is_not_drawn_into() -> None:
    with pytest.raises(ValueError, match="marks"):
        lifecycles.container_page("# Nothing to see")
