"""Health checks through the real CLI (CTR-23, CTR-24)."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.support.engine import Engine

pytestmark = pytest.mark.root


def health(engine: Engine, name: str) -> Any:
    return json.loads(engine.out("inspect", "-f", "{{json .State.Health}}", name))


def test_a_container_turns_unhealthy_and_then_healthy(engine: Engine) -> None:
    """CTR-23: status, streak, the last results with their output; `ps` and `events` tell it, too."""
    engine.cli(
        "run", "-d", "--name", "probed", "--health-cmd", "echo looked; test -f /ok", "--health-interval", "100ms",
        "--health-retries", "2", "busybox", "sleep", "1000",
    )  # fmt: skip
    engine.wait_for(lambda: health(engine, "probed")["Status"] == "unhealthy")
    assert "(unhealthy)" in engine.out("ps", "--format", "{{.Status}}", "--filter", "name=probed")
    engine.cli("exec", "probed", "touch", "/ok")
    engine.wait_for(lambda: health(engine, "probed")["Status"] == "healthy")
    seen = health(engine, "probed")
    assert seen["FailingStreak"] == 0
    assert seen["Log"][-1]["ExitCode"] == 0
    assert seen["Log"][-1]["Output"] == "looked\n"
    assert len(seen["Log"]) <= 5
    # Raw, because the CLI cuts `--until` to whole seconds.
    told = engine.request("GET", f"/events?since=0&until={time.time()}")[1].splitlines()
    actions = [json.loads(line)["Action"] for line in told]
    assert [action for action in actions if action.startswith("health_status")] == [
        "health_status: unhealthy",
        "health_status: healthy",
    ]
    engine.cli("rm", "-f", "probed")


def test_a_probe_that_hangs_is_ended_and_counts_as_a_failure(engine: Engine) -> None:
    """CTR-23: a timeout is exit code -1."""
    engine.cli(
        "run", "-d", "--name", "hanging", "--health-cmd", "sleep 100", "--health-interval", "100ms",
        "--health-timeout", "200ms", "--health-retries", "1", "busybox", "sleep", "1000",
    )  # fmt: skip
    engine.wait_for(lambda: health(engine, "hanging")["Status"] == "unhealthy")
    assert health(engine, "hanging")["Log"][0]["ExitCode"] == -1
    assert "exceeded timeout" in health(engine, "hanging")["Log"][0]["Output"]
    engine.cli("rm", "-f", "hanging")


def test_health_survives_a_restart_of_the_engine(engine: Engine) -> None:
    """CTR-24."""
    engine.cli(
        "run", "-d", "--name", "kept", "--health-cmd", "true", "--health-interval", "100ms", "busybox", "sleep", "1000"
    )
    engine.wait_for(lambda: health(engine, "kept")["Status"] == "healthy")
    engine.kill()
    engine.start()
    assert health(engine, "kept")["Status"] == "healthy"
    engine.cli("rm", "-f", "kept")
