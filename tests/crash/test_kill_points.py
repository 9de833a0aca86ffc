"""One operation at a time, cut off after a rising number of milliseconds: it has happened, or it has not."""

from __future__ import annotations

import contextlib
import http.client
import os
import threading
import time
from collections.abc import Iterator

import pytest

from tests.crash.test_recovery import state_of
from tests.crash.workload import ENDLESS, Workload
from tests.support.audit import settled_without_leaks
from tests.support.engine import Engine, running_engine

pytestmark = [pytest.mark.root, pytest.mark.timeout(1800)]

STEPS = 6 if "ISHMAEL_CRASHES" not in os.environ else 30
STEP_S = 0.036 / STEPS
"""A start takes 10 to 20 ms, a forced removal a little less."""


COMMIT_S = 0.15
"""A commit starts two workers."""


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with running_engine() as engine:
        yield engine


def cut(engine: Engine, method: str, path: str, after_s: float) -> int:
    """Kill the engine so long after a request was made; its status, 0 when it got no answer."""
    answer = [0]

    def ask() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            answer[0] = engine.request(method, path)[0]

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(after_s)
    engine.kill()
    asking.join()
    engine.start()
    return answer[0]


@pytest.mark.parametrize("step", range(STEPS))
def test_a_start_has_happened_or_not_and_a_removal_too(engine: Engine, step: int) -> None:
    command = " ".join(Workload(lines=ENDLESS).command[2:])
    engine.out("create", "--name", "victim", "-p", "80", "-v", "/anonymous", "busybox", "sh", "-c", command)
    started = cut(engine, "POST", "/containers/victim/start", step * STEP_S)
    settled_without_leaks(engine)
    state = state_of(engine, "victim")
    assert started in (0, 204)
    assert state["Running"] or (started == 0 and state["Status"] == "created"), state
    engine.request("POST", "/containers/victim/start")
    assert state_of(engine, "victim")["Running"]
    removed = cut(engine, "DELETE", "/containers/victim?force=1&v=1", step * STEP_S / 2)
    settled_without_leaks(engine)
    there = engine.request("GET", "/containers/victim/json")[0] == 200
    assert removed in (0, 204)
    assert not (there and removed == 204)
    if there:
        engine.cli("rm", "-f", "-v", "victim")
    settled_without_leaks(engine)
    assert engine.json("/volumes")["Volumes"] in (None, [])


@pytest.mark.parametrize("step", range(0, STEPS, 2))
def test_a_commit_has_happened_or_not_and_the_container_runs_on(engine: Engine, step: int) -> None:
    """CTR-34: an image whole or none at all, and nothing stays frozen."""
    engine.cli("run", "-d", "--name", "victim", "busybox", "sh", "-c", "echo kept > /file; exec sleep 1000")
    engine.wait_for(lambda: engine.cli("exec", "victim", "test", "-s", "/file", check=False).returncode == 0)
    answer = cut(engine, "POST", "/commit?container=victim&repo=cut", step * COMMIT_S / STEPS)
    settled_without_leaks(engine)
    engine.wait_for(lambda: state_of(engine, "victim")["Status"] == "running")
    there = engine.request("GET", "/images/cut/json")[0] == 200
    assert answer in (0, 201) and not (answer == 201 and not there)
    if there:
        assert engine.out("run", "--rm", "cut", "cat", "/file") == "kept"
    engine.cli("rm", "-f", "victim")
    if there:
        engine.cli("rmi", "cut")
    settled_without_leaks(engine)
    assert [row["RepoTags"] for row in engine.json("/images/json?all=1")] == [["busybox:latest"]]
