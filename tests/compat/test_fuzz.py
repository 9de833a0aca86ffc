"""Requests by the specification and beyond it, against a whole engine.

Every answer comes, is 2xx, 3xx or 4xx (5xx only where documented here), and has Docker's shape; what is refused leaves
no trace in the log; the engine logs no traceback. `ISHMAEL_FUZZ=5000` asks for that many examples, drawn anew.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from engine.aggregates.catalog import ALL_DECIDERS
from engine.codec import EventCodec
from replay.reader import LogReader
from tests.support import spec
from tests.support.engine import Engine
from tests.support.rude import Answer, ask
from tests.support.spec import Operation

pytestmark = pytest.mark.root

EXAMPLES = int(os.environ.get("ISHMAEL_FUZZ", "0"))
bounded = settings(
    max_examples=EXAMPLES or 6, derandomize=not EXAMPLES, deadline=None, database=None,
    suppress_health_check=list(HealthCheck), phases=[Phase.generate],
)  # fmt: skip
CODEC = EventCodec(event for decider in ALL_DECIDERS for event in decider.events)
NAMES = ("runs", "stopped", "fresh", "paused")
EXECS = ("exec-0", "exec-1")
CONTAINERS = tuple(operation for operation in spec.OPERATIONS if operation.path.startswith(("/containers", "/exec")))
STARTS = ("/start", "/restart")
"""Their refusals may come after the intent: a command that is not there is found out by starting it."""


class Yard:
    """The engine with a container in each state, made again when a request has changed it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.exec_ids: dict[str, str] = {}
        self.told = 0

    def tidy(self) -> None:
        states = {row["Names"][0]: row["State"] for row in self.engine.json("/containers/json?all=1")}
        if states == {"/runs": "running", "/stopped": "exited", "/fresh": "created", "/paused": "paused"}:
            return
        for row in self.engine.json("/containers/json?all=1"):
            self.must("DELETE", f"/containers/{row['Id']}?force=1&v=1", 204, 404, 409)
        self.engine.wait_for(lambda: not self.engine.json("/containers/json?all=1"))
        body = {"Image": "busybox", "Cmd": ["sleep", "1000"], "StopTimeout": 0, "Labels": {"a": "b"}}
        for name in NAMES:
            self.must("POST", f"/containers/create?name={name}", 201, body=body)
            if name != "fresh":
                self.must("POST", f"/containers/{name}/start", 204)
        self.must("POST", "/containers/stopped/kill", 204)
        self.must("POST", "/containers/paused/pause", 204)
        self.engine.wait_for(lambda: self.engine.json("/containers/stopped/json")["State"]["Status"] == "exited")
        made = [self.must("POST", "/containers/runs/exec", 201, body={"Cmd": ["true"]}) for _ in EXECS]
        self.exec_ids = {name: json.loads(answer)["Id"] for name, answer in zip(EXECS, made, strict=True)}

    def place(self, target: str) -> str:
        """With the ids of now for the names of execs: what is drawn must not depend on what was before."""
        for name, exec_id in self.exec_ids.items():
            target = target.replace(f"/{name}/", f"/{exec_id}/")
        return target

    def must(self, method: str, path: str, *statuses: int, body: Any = None) -> bytes:
        status, answer = self.engine.request(method, path, body)
        assert status in statuses, (method, path, status, answer)
        return answer

    def position(self) -> int:
        with LogReader(self.engine.data_root / "events.db", CODEC) as log:
            return log.head

    def appended(self, after: int, correlation: str) -> list[str]:
        """Names of the events that one request led to."""
        with LogReader(self.engine.data_root / "events.db", CODEC) as log:
            return [one.event.NAME for one in log.events(after=after) if one.cause.correlation == correlation]

    def traceback(self) -> str:
        """What the engine has complained of since the last time."""
        text = self.engine.log.read_text()
        new, self.told = text[self.told :], len(text)
        return new if "Traceback" in new else ""


@pytest.fixture(scope="module")
def yard(module_engine: Engine) -> Yard:
    return Yard(module_engine)


MAY_FAIL = (*STARTS, "/unpause", "/top")
"""500 there is Docker's own answer: what can not be started; what is not paused; what `ps` does not take."""


def streams(operation: Operation, target: str) -> bool:
    """Whether the answer may go on for as long as something lives."""
    query = parse_qs(urlsplit(target).query)
    if operation.path.endswith("/logs"):
        return query.get("follow", ["0"])[0] not in ("0", "false", "")
    return operation.path.endswith(("/stats", "/attach", "/attach/ws", "/wait", "/exec/{id}/start"))


def check(yard: Yard, operation: Operation, target: str, headers: dict[str, str], body: bytes | None) -> Answer:
    """Ask, and check what holds for every request."""
    before, correlation = yard.position(), secrets.token_hex(16)
    note(f"{operation.method} {target} {headers} {body!r}")
    told = {**headers, "X-Request-Id": correlation}
    answer = ask(yard.engine, operation.method, target, told, body, stream=streams(operation, target))
    note(f"{answer.status} {answer.body[:300]!r}")
    assert answer.status != 0, "no answer"
    if answer.status >= 400:
        if operation.method != "HEAD":
            assert list(json.loads(answer.body)) == ["message"], "Docker's shape"
            assert json.loads(answer.body)["message"].strip(), "and words"
        if answer.status == 501:
            assert b"not implemented" in answer.body
        else:
            assert answer.status < 500 or operation.path.endswith(MAY_FAIL), "a failure"
        if not operation.path.endswith(STARTS):
            assert yard.appended(before, correlation) == [], "a refused request left events"
    if operation.method in ("GET", "HEAD"):
        left = yard.appended(before, correlation)
        assert [name for name in left if not name.endswith(".noted")] == [], "reading changed something"
    assert not (complaint := yard.traceback()), complaint
    return answer


@pytest.mark.parametrize("operation", CONTAINERS, ids=lambda operation: operation.name)
def test_every_operation_bears_every_request(yard: Yard, operation: Operation) -> None:
    """CTR-01..38, EXE-01..10, API-05, API-08: bad input is a 4xx in Docker's shape, and nothing changes."""
    if operation.path == "/containers/create":
        pytest.skip("has a test of its own below")

    @bounded
    @given(st.data())
    def bears(data: st.DataObject) -> None:
        yard.tidy()
        ids = EXECS if operation.path.startswith("/exec") else NAMES
        target = data.draw(spec.targets(operation, ids))
        query = data.draw(spec.queries(operation))
        headers = data.draw(spec.headers(operation))
        body = data.draw(spec.bodies(operation)) if operation.body else None
        check(yard, operation, f"{yard.place(target)}?{query}", headers, body)

    bears()


CREATE = spec.named("POST /containers/create")
CREATE_FIELDS = spec.body_fields("POST /containers/create")
HOST_FIELDS = spec.fields_of({"$ref": "HostConfig"})


@st.composite
def created(draw: st.DrawFn) -> dict[str, Any]:
    """A body that would do, with a few fields changed."""
    body: dict[str, Any] = {"Image": "busybox", "Cmd": ["sleep", "1000"], "StopTimeout": 0}
    plain = sorted(set(CREATE_FIELDS) - {"HostConfig", "NetworkingConfig"})
    for name in draw(st.lists(st.sampled_from(plain), max_size=2, unique=True)):
        body[name] = draw(spec.values(CREATE_FIELDS[name], name))
    host = {
        name: draw(spec.values(HOST_FIELDS[name], name))
        for name in draw(st.lists(st.sampled_from(sorted(HOST_FIELDS)), max_size=3, unique=True))
    }
    if draw(st.integers(0, 5)) == 5:
        body["NetworkingConfig"] = draw(spec.values(CREATE_FIELDS["NetworkingConfig"]))
    return {**body, "HostConfig": host}


def tamed(value: Any, scratch: Path, name: str = "") -> Any:
    """Without paths of this machine: what is mounted or made on the host lies in a scratch folder."""
    if isinstance(value, dict):
        return {key: tamed(inner, scratch, key) for key, inner in value.items()}
    if isinstance(value, list):
        return [tamed(inner, scratch, name) for inner in value]
    if isinstance(value, str) and name in ("Binds", "Source", "device") and value.startswith("/"):
        return f"{scratch}{value}".replace("..", "")
    if isinstance(value, str) and name == "CgroupParent" and "\0" not in value:
        return "" if value.strip("/") else value
    return value


@settings(bounded, max_examples=EXAMPLES or 60)
@given(body=created(), headers=spec.headers(CREATE), query=spec.queries(CREATE), raw=st.integers(0, 9), data=st.data())
def test_whatever_is_created_lives_and_goes(
    yard: Yard,
    tmp_path_factory: pytest.TempPathFactory,
    body: dict[str, Any],
    headers: dict[str, str],
    query: str,
    raw: int,
    data: st.DataObject,
) -> None:
    """CTR-01, CTR-07, CTR-15, CTR-22: what is accepted can be looked at, started (or fails in words) and removed."""
    yard.tidy()
    scratch = tmp_path_factory.getbasetemp() / "scratch"
    written = json.dumps(tamed(body, scratch)).encode()
    if raw == 9:
        at = data.draw(st.integers(0, len(written)))
        written = written[:at] + data.draw(st.sampled_from((b"\xff", b"\0", b"\xed\xa0\x80", b"}"))) + written[at:]
    answer = check(yard, CREATE, f"/containers/create?{query}", headers, written)
    if answer.status != 201:
        return
    container_id = json.loads(answer.body)["Id"]
    assert json.loads(answer.body)["Warnings"] is not None
    path = f"/containers/{container_id}"
    try:
        assert yard.engine.json(f"{path}/json")["Id"] == container_id
        assert any(row["Id"] == container_id for row in yard.engine.json("/containers/json?all=1"))
        started = check(yard, spec.named("POST /containers/{id}/start"), f"{path}/start", {}, None)
        if started.status == 204:
            yard.engine.json(f"{path}/json")
            check(yard, spec.named("GET /containers/{id}/stats"), f"{path}/stats?stream=0&one-shot=1", {}, None)
        check(yard, spec.named("GET /containers/{id}/logs"), f"{path}/logs?stdout=1", {}, None)
    finally:
        yard.must("DELETE", f"{path}?force=1&v=1", 204, 404, 409)
        yard.engine.wait_for(lambda: yard.engine.request("GET", f"{path}/json")[0] == 404)
    assert not (complaint := yard.traceback()), complaint
