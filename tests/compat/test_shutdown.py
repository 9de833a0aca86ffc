"""An engine that takes its containers with it: `--live-restore=false`."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.compat.test_engine_restarts import lives
from tests.support.engine import Engine, running_engine

pytestmark = pytest.mark.root
PATIENT = "trap 'echo asked; sleep 1; echo tidy; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
STUBBORN = "trap 'echo asked' TERM; echo ready; while :; do sleep 0.05; done"
ASKED_TWICE = "trap 'echo asked; [ ! -e /once ] || exit 3; touch /once' TERM; echo ready; while :; do sleep 0.05; done"
POLICIES = ("always", "unless-stopped", "on-failure", "no")


@pytest.fixture(scope="module")
def module_engine() -> Iterator[Engine]:
    with running_engine("--live-restore=false", "--shutdown-timeout=1") as engine:
        yield engine


def run(engine: Engine, name: str, script: str, *options: str) -> int:
    """The pid of a container that has begun to listen to signals."""
    engine.cli("run", "-d", "--name", name, *options, "busybox", "sh", "-c", script)
    engine.wait_for(lambda: "ready" in engine.out("logs", name))
    pid = engine.json(f"/containers/{name}/json")["State"]["Pid"]
    assert isinstance(pid, int)
    return pid


def state(engine: Engine, name: str) -> tuple[str, int]:
    found = engine.json(f"/containers/{name}/json")["State"]
    return found["Status"], found["ExitCode"]


def test_containers_get_their_signal_and_their_time(engine: Engine) -> None:
    """SYS-13: longer than the limit of the engine, which is raised; a paused one too; then SIGKILL."""
    pids = [run(engine, "patient", PATIENT), run(engine, "stubborn", STUBBORN, "--stop-timeout", "2")]
    pids.append(run(engine, "by-int", PATIENT.replace("TERM", "INT"), "--stop-signal", "INT"))
    pids.append(run(engine, "frozen", PATIENT))
    engine.cli("pause", "frozen")
    assert engine.stop() == 0
    assert not any(lives(pid) for pid in pids)
    engine.start()
    assert {name: state(engine, name) for name in ("patient", "by-int", "frozen", "stubborn")} == {
        "patient": ("exited", 3),
        "by-int": ("exited", 3),
        "frozen": ("exited", 3),
        "stubborn": ("exited", 137),
    }
    assert engine.out("logs", "patient").split() == ["ready", "asked", "tidy"]


def test_the_next_engine_starts_what_policies_want(engine: Engine) -> None:
    """SYS-13, SYS-10: the end of the engine is no stop by a user; a container that waits for a restart is held too."""
    for policy in POLICIES:
        run(engine, policy, PATIENT, "--restart", policy)
        run(engine, f"stopped-{policy}", PATIENT, "--restart", policy)
        engine.cli("stop", "-t", "0", f"stopped-{policy}")
    engine.cli("run", "-d", "--name", "loops", "--restart", "unless-stopped", "busybox", "false")
    engine.wait_for(lambda: engine.json("/containers/loops/json")["RestartCount"] > 2)
    engine.cli("run", "-d", "--name", "gone", "--rm", "busybox", "sleep", "1000")
    assert engine.stop() == 0
    engine.start()
    wanted = {"always", "unless-stopped", "on-failure", "stopped-always", "stopped-on-failure"}
    for name in wanted:
        engine.wait_for(lambda name=name: state(engine, name)[0] == "running")
    engine.wait_for(lambda: state(engine, "loops")[0] in ("running", "restarting"))
    assert engine.request("GET", "/containers/gone/json")[0] == 404
    assert state(engine, "no") == ("exited", 3)
    assert state(engine, "stopped-unless-stopped") == ("exited", 137)


def test_an_engine_that_dies_over_it_is_gone_on_for(engine: Engine) -> None:
    """SYS-13: the stop was asked for, so the next one asks again; then the policy has its way."""
    before = run(engine, "web", ASKED_TWICE, "--restart", "unless-stopped", "--stop-timeout", "300")
    assert engine.process is not None
    engine.process.send_signal(signal.SIGTERM)
    engine.wait_for(lambda: "asked" in log_of(engine))
    engine.kill()
    assert lives(before)
    engine.start()
    engine.wait_for(lambda: not lives(before))
    engine.wait_for(lambda: engine.json("/containers/web/json")["State"]["Pid"] not in (0, before))


def test_a_third_signal_ends_the_engine_at_once(engine: Engine) -> None:
    """SYS-13: containers that never end by themselves are left behind, and found again; nobody waits for them then."""
    other = run(engine, "other", STUBBORN, "--restart", "always", "--stop-timeout", "1")
    pid = run(engine, "endless", STUBBORN, "--stop-timeout", "-1")
    assert engine.process is not None
    engine.process.send_signal(signal.SIGTERM)
    engine.wait_for(lambda: "asked" in log_of(engine))
    engine.process.send_signal(signal.SIGINT)
    engine.wait_for(lambda: "SIGINT: containers are still ending" in engine.log.read_text())
    engine.process.send_signal(signal.SIGTERM)
    assert engine.process.wait(20) == 128 + signal.SIGTERM
    engine.process = None
    assert lives(pid)
    engine.start()
    engine.wait_for(lambda: engine.json("/containers/other/json")["State"]["Pid"] not in (0, other))
    assert not lives(other)
    assert state(engine, "endless")[0] == "running"


def log_of(engine: Engine) -> str:
    """What its containers wrote, from their log files: the engine may be closing."""
    files = engine.data_root.glob("containers/*/*.log")
    return "".join(file.read_text() for file in files)
