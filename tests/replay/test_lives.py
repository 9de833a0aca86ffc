"""`blame`, `bisect` and `stats`: on a short story, and what they say of fields that come and go."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from engine.aggregates.decider import Cause, Recorded
from replay.lives import Life, PredicateError, bisect, blame, predicate
from tests.replay.conftest import Replay
from tests.support.counter import Added
from tests.support.story import WEB


def went(*states: dict[str, Any]) -> Iterator[Life]:
    """Lives of an object that went through these states, at positions 1, 2, ..."""
    cause = Cause(actor="uid=0", correlation="c")
    for position, state in enumerate(states, 1):
        recorded = Recorded(
            position=position, stream="counter:a", version=position, time_ns=position, cause=cause, event=Added()
        )
        yield Life(recorded=recorded, state=state, gone=position == len(states))


def test_each_field_is_blamed_on_the_event_that_made_it_what_it_is() -> None:
    story = went(
        {"name": "a", "limits": {"cpu": 1, "memory": 5}, "tags": ["x"], "ends": [{"ip": "1"}]},
        {"name": "b", "limits": {"cpu": 1, "memory": 6}, "tags": ["x", "y"], "ends": [{"ip": "1"}, {"ip": "2"}]},
        {"name": "b", "limits": {"cpu": 1, "memory": 6}, "tags": ["x", "y"], "ends": [{"ip": "1"}, {"ip": "3"}]},
    )
    found = {one.path: (one.value, one.recorded.position) for one in blame(story)}
    assert found == {
        "name": ("b", 2),
        "limits.cpu": (1, 1),
        "limits.memory": (6, 2),
        "tags": (["x", "y"], 2),
        "ends.0.ip": ("1", 2),
        "ends.1.ip": ("3", 3),
    }


def test_a_field_that_went_away_and_came_back_is_blamed_on_its_return() -> None:
    story = went({"a": {"b": 1}}, {"a": None}, {"a": {"b": 1}})
    assert [(one.path, one.recorded.position) for one in blame(story)] == [("a.b", 3)]
    assert blame(went({"a": 1}, {"a": None})) == []


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("status=running", 2), ("status!=created", 2), ("status~^exit", 3), ("code=137", 3), ("ends.0.ip=1", 2),
        ("oom", 3), ("oom=true", 3), ("gone", 4), ("absent", None), ("status=paused", None), ("absent=", 1),
    ],
)  # fmt: skip
def test_bisect_finds_the_first_event_after_which_it_holds(text: str, position: int | None) -> None:
    states = went(
        {"status": "created", "code": 0, "oom": False, "ends": []},
        {"status": "running", "code": 0, "oom": False, "ends": [{"ip": "1"}]},
        {"status": "exited", "code": 137, "oom": True, "ends": []},
        {"status": "removed", "code": 137, "oom": True, "ends": []},
    )
    found = bisect(states, predicate(text))
    assert (found.recorded.position if found else None) == position


@pytest.mark.parametrize("text", ["", "a b", "=5", "status~("])
def test_what_is_no_predicate_is_refused(text: str) -> None:
    with pytest.raises(PredicateError):
        predicate(text)


def test_blame_names_who_and_when(replay: Replay) -> None:
    (image,) = replay.json("blame", "web", "image_id")
    assert image["by"]["name"] == "container.created"
    assert image["by"]["actor"].startswith("uid=1000")
    code = replay.json("blame", "job", "exit_code")[0]
    assert (code["value"], code["by"]["name"]) == (137, "container.exited")
    text = replay("blame", "job")
    assert "exit_code" in text
    assert "137" in text
    replay("blame", "job", "nothing.there")
    assert (replay.code, "nothing at" in replay.complaint) == (1, True)


def test_bisect_answers_with_the_event_and_the_state(replay: Replay) -> None:
    found = replay.json("bisect", "web", "status=running")
    assert (found["event"]["name"], found["state"]["status"]) == ("container.started", "running")
    assert replay.json("bisect", "web", "gone")["event"]["name"] == "container.removed"
    assert "exited with 137" in replay("bisect", "job", "oom_killed")
    replay("bisect", "web", "exit_code=99")
    assert (replay.code, "never held" in replay.complaint) == (1, True)
    replay("bisect", "web", "a b")
    assert (replay.code, "no predicate" in replay.complaint) == (2, True)


def test_stats_count_everything_once(replay: Replay) -> None:
    told = replay.json("stats")
    assert told["events"] == replay.marks["end"]
    for counts in ("names", "actors", "days"):
        assert sum(count for _, count in told[counts]) == told["events"]
    containers = next(each for each in told["objects"] if each["kind"] == "container")
    assert (containers["ever"], containers["living"]) == (3, 2)
    assert ["uid=1000 exe=/usr/bin/docker"] == [name for name, _ in told["actors"] if name.startswith("uid=")]
    assert f"{told['events']} events" in replay("stats")
    assert WEB not in replay("stats")
