"""WIN-17: an incident, made by real clients of a real engine, explained by `replay why` in words."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.replay.test_report import CHROMIUM, browsed, text
from tests.support.engine import Engine
from tests.support.registry import tool

pytestmark = pytest.mark.root

SCRIPT = """
trap 'exit 0' TERM
while ping -c 1 -W 1 db >/dev/null 2>&1; do sleep 0.2; touch /up; done
[ -e /up ] || exit 3
while [ ! -e /told ]; do sleep 0.1; done
exit 3
"""
"""Works while its database answers; once told that it has been looked at, gives up, and can not come back."""
NOBODY = 65534


def test_an_incident_is_explained_with_who_and_when(engine: Engine, tmp_path: Path) -> None:
    """Somebody detaches a network; the health check fails; the program gives up and falls into a restart loop; somebody
    else removes it by force."""
    engine.cli("network", "create", "shop")
    engine.cli("run", "-d", "--name", "db", "--network", "shop", "busybox", "sleep", "1000")
    engine.cli(
        "run", "-d", "--name", "web", "--network", "shop", "--restart", "on-failure:3",
        "--health-cmd", "ping -c 1 -W 1 db 2>/dev/null || { echo db is gone; exit 1; }", "--health-interval", "100ms",
        "--health-retries", "2", "busybox", "sh", "-c", SCRIPT,
    )  # fmt: skip
    status = "{{.State.Status}} {{.State.Health.Status}} {{.RestartCount}}"
    engine.wait_for(lambda: engine.out("inspect", "-f", status, "web") == "running healthy 0")
    engine.cli("network", "disconnect", "shop", "web")
    engine.wait_for(lambda: engine.out("inspect", "-f", status, "web") == "running unhealthy 0", timeout_s=60)
    engine.cli("exec", "web", "touch", "/told")
    engine.wait_for(lambda: engine.out("inspect", "-f", status, "web").startswith("exited"), timeout_s=60)
    os.chmod(engine.socket, 0o666)
    engine.root.chmod(0o755)
    as_nobody = ["setpriv", f"--reuid={NOBODY}", "--clear-groups", tool("docker"), "-H", engine.host, "rm", "-f", "web"]
    # A client of another user must reach the program and the socket, wherever the checkout lies.
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    done = subprocess.run(as_nobody, env=environment, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    story = json.loads(engine.replay("why", "web", "--json").stdout)
    time = r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \(@\d+\)"
    expected = [
        rf"{time}: uid 0 \(root\)(, logged in as \S+)?, by \S*docker \(pid \d+\) detached it from network shop\.",
        rf"{time}: it became unhealthy: 2 probes in a row failed, the last with 1, which said 'db is gone'\.",
        rf"{time}: a restart loop: it ended by itself with 3 again and again, and its restart policy started it 3 times"
        rf" until {time}\.",
        rf"{time}: uid {NOBODY} \(nobody\)(, logged in as \S+)?(, by \S*docker)? \(pid \d+\) had it removed by force\.",
    ]
    told = story["circumstances"]
    positions = [next((i for i, one in enumerate(told) if re.fullmatch(pattern, one)), -1) for pattern in expected]
    assert -1 not in positions, (positions, "\n".join(story["circumstances"]))
    assert positions == sorted(positions)
    assert "Its process ended by itself, with 3: nobody had asked for it." in story["verdict"]
    assert "uid 65534 (nobody)" in story["verdict"]
    for sentence in story["circumstances"]:
        assert sentence in " ".join(engine.replay("why", "web").stdout.split())

    page = tmp_path / "incident.html"
    assert engine.replay("report", "-o", str(page)).returncode == 0
    removed = json.loads(engine.replay("log", "--json", "--name", "container.remove_requested").stdout.splitlines()[-1])
    if CHROMIUM is not None:
        shown = text(browsed(page, tmp_path, f"#@{removed['position']}"), "event")
        assert "web asked to be removed by force" in shown
        assert "uid 65534 (nobody)" in shown
    engine.cli("rm", "-f", "db")
    engine.cli("network", "rm", "shop")
