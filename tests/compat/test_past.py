"""WIN-06: `?at=` answers a read as it was answered then, by a real engine."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest

from engine.aggregates.catalog import ALL_DECIDERS
from engine.codec import EventCodec
from replay.reader import LogReader
from tests.support.engine import Engine

pytestmark = pytest.mark.root


def head(engine: Engine) -> int:
    codec = EventCodec(event for decider in ALL_DECIDERS for event in decider.events)
    with LogReader(engine.data_root / "events.db", codec) as reader:
        return reader.head


def read(engine: Engine, path: str, at: str = "") -> Any:
    separator = "&" if "?" in path else "?"
    status, body = engine.request("GET", path + (f"{separator}at={quote(at)}" if at else ""))
    assert status == 200, body
    document = json.loads(body)
    for row in document if isinstance(document, list) else []:
        row.pop("Status", None)  # "Up 2 seconds" is as of the moment, and the moments differ a little
    return document


class Then:
    """What was answered at a moment, and by which position and time it goes."""

    def __init__(self, engine: Engine, paths: list[str]) -> None:
        self.answers = {path: read(engine, path) for path in paths}
        self.position = f"@{head(engine)}"
        self.time = datetime.fromtimestamp(time.time(), UTC).isoformat().replace("+00:00", "Z")


@pytest.fixture
def past(engine: Engine) -> Iterator[Then]:
    engine.cli("network", "create", "was-here")
    engine.cli("volume", "create", "was-here")
    engine.cli("tag", "busybox", "was:here")
    made = engine.out(
        "run", "-d", "--name", "was", "--network", "was-here", "-v", "was-here:/data", "-e", "A=B", "busybox", "top"
    )
    paths = [
        "/containers/json", "/containers/json?all=1&limit=1", "/containers/was/json", f"/containers/{made[:12]}/json",
        "/images/json", "/networks", "/networks/was-here", "/volumes", "/volumes/was-here",
        "/v1.43/containers/json?filters=" + quote('{"name": ["was"]}'),
    ]  # fmt: skip
    then = Then(engine, paths)
    time.sleep(0.05)  # the moment lies between two events
    engine.cli("rename", "was", "is")
    engine.cli("network", "disconnect", "was-here", "is")
    engine.cli("network", "rm", "was-here")
    engine.cli("rm", "-f", "is")
    engine.cli("volume", "rm", "was-here")
    engine.cli("rmi", "was:here")
    yield then


def test_a_read_at_a_position_or_time_is_what_was_read_then(engine: Engine, past: Then) -> None:
    for moment in (past.position, past.time):
        for path, answer in past.answers.items():
            found = read(engine, path, moment)
            if made_inspect(path):
                assert found["Config"].pop("Env") in (["<erased>"], answer["Config"]["Env"])
                answer = {**answer, "Config": {key: value for key, value in answer["Config"].items() if key != "Env"}}
            assert found == answer, (moment, path)
    assert engine.request("GET", "/containers/was/json")[0] == 404
    deadline = time.monotonic() + 30
    while read(engine, "/containers/was/json", past.position)["Config"]["Env"] != ["<erased>"]:
        assert time.monotonic() < deadline, "the keys of a removed container are erased, and with them its environment"
    engine.restart()
    assert read(engine, "/networks/was-here", past.position) == past.answers["/networks/was-here"]


def made_inspect(path: str) -> bool:
    return path.startswith("/containers/") and path.endswith("/json") and path != "/containers/json"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/info?at=@1"), ("GET", "/_ping?at=@1"), ("GET", "/events?at=@1"), ("GET", "/containers/x/logs?at=@1"),
        ("GET", "/images/busybox/json?at=@1"), ("POST", "/volumes/prune?at=@1"), ("DELETE", "/volumes/x?at=@1"),
        ("GET", "/containers/json?at=@99999999"), ("GET", "/containers/json?at=2199-01-01"),
        ("GET", "/containers/json?at=yesterday"), ("GET", "/containers/json?size=1&at=@1"),
        ("GET", "/containers/json?at="),
    ],
)  # fmt: skip
def test_what_has_no_past_says_so(engine: Engine, method: str, path: str) -> None:
    status, body = engine.request(method, path)
    assert status == 400, body
    assert len(json.loads(body)["message"]) > 20


def test_before_the_first_event_there_was_nothing(engine: Engine) -> None:
    for path in ("/containers/json?all=1", "/images/json", "/networks"):
        assert read(engine, path, "1970-01-02") == []
