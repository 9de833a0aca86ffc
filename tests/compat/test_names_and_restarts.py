"""Names while the engine is away: unanswered, and answered again by the next start without anybody's doing."""

from __future__ import annotations

import time

import pytest

from tests.support.engine import Engine

pytestmark = pytest.mark.root
LOOKUP = ("nslookup", "-type=a", "web", "127.0.0.11")


def looked_up(engine: Engine, pid: int) -> bool:
    """By a program in the container's network namespace, so that no API takes part."""
    done = engine.in_namespace("nsenter", "-t", str(pid), "-n", "busybox", "timeout", "1", *LOOKUP, check=False)
    return done.returncode == 0 and "Address" in done.stdout.split("Name:")[-1]


def test_names_are_answered_again_when_the_engine_is_back(engine: Engine) -> None:
    """NET-24, NET-38: the gap is the engine's absence (docs/design/network.md)."""
    engine.cli("network", "create", "yard")
    for name in ("web", "other"):
        engine.cli("run", "-d", "--name", name, "--network", "yard", "busybox", "sleep", "1000")
    pid = engine.json("/containers/other/json")["State"]["Pid"]
    assert looked_up(engine, pid)
    engine.kill()
    assert not looked_up(engine, pid)
    begun = time.monotonic()
    engine.start()
    engine.wait_for(lambda: looked_up(engine, pid))
    print(f"answered {time.monotonic() - begun:.2f} s after the start began")
