"""How containers are stopped, killed, paused, restarted, renamed, updated, waited for and removed."""

from __future__ import annotations

import json
import subprocess
import time

import pytest

from tests.support.engine import Engine
from tests.support.registry import tool

pytestmark = pytest.mark.root
OBEDIENT = "trap 'echo got TERM; exit 6' TERM; trap 'echo got HUP' HUP; echo ready; while :; do sleep 0.05; done"
STUBBORN = "trap '' TERM; echo ready; while :; do sleep 0.05; done"


def run_until_ready(engine: Engine, name: str, script: str, *options: str) -> None:
    engine.cli("run", "-d", "--name", name, *options, "busybox", "sh", "-c", script)
    engine.wait_for(lambda: "ready" in engine.out("logs", name))


def state(engine: Engine, name: str) -> dict[str, object]:
    found = engine.json(f"/containers/{name}/json")["State"]
    assert isinstance(found, dict)
    return found


def test_stop_sends_sigterm_and_waits(engine: Engine) -> None:
    """CTR-10: the process says good-bye, its own exit code counts."""
    run_until_ready(engine, "polite", OBEDIENT)
    began = time.monotonic()
    assert engine.out("stop", "polite") == "polite"
    assert time.monotonic() - began < 8
    assert state(engine, "polite")["ExitCode"] == 6
    assert "got TERM" in engine.out("logs", "polite")
    assert engine.request("POST", "/containers/polite/stop")[0] == 304


def test_stop_kills_after_its_timeout(engine: Engine) -> None:
    """CTR-10: not before, and not the default 10 seconds later."""
    run_until_ready(engine, "deaf", STUBBORN)
    began = time.monotonic()
    engine.cli("stop", "-t", "1", "deaf")
    assert 1.0 <= time.monotonic() - began < 8
    assert state(engine, "deaf")["ExitCode"] == 137
    assert state(engine, "deaf")["OOMKilled"] is False


def test_stop_uses_the_containers_own_signal_and_timeout(engine: Engine) -> None:
    """CTR-06, CTR-10: --stop-signal and --stop-timeout."""
    run_until_ready(engine, "own", OBEDIENT, "--stop-signal", "HUP", "--stop-timeout", "1")
    engine.cli("stop", "own")
    assert "got HUP" in engine.out("logs", "own")
    assert state(engine, "own")["ExitCode"] == 137


def test_kill_sends_any_signal(engine: Engine) -> None:
    """CTR-11: by name and by number; it lives on if it likes."""
    run_until_ready(engine, "target", OBEDIENT)
    engine.cli("kill", "-s", "HUP", "target")
    engine.wait_for(lambda: engine.out("logs", "target").count("got HUP") == 1)
    engine.cli("kill", "-s", "1", "target")
    engine.wait_for(lambda: engine.out("logs", "target").count("got HUP") == 2)
    assert "invalid signal: NOSUCH" in engine.cli("kill", "-s", "NOSUCH", "target", check=False).stderr
    engine.cli("kill", "target")
    assert state(engine, "target")["ExitCode"] == 137
    refused = engine.cli("kill", "target", check=False).stderr
    assert "is not running" in refused


def test_restart_runs_the_same_container_anew(engine: Engine) -> None:
    """CTR-12: one id, a new process, both outputs in the log, RestartCount is not for this."""
    run_until_ready(engine, "again", OBEDIENT)
    before = state(engine, "again")
    engine.cli("restart", "-t", "1", "again")
    after = state(engine, "again")
    assert after["Running"] is True
    assert after["Pid"] != before["Pid"]
    engine.wait_for(lambda: engine.out("logs", "again").count("ready") == 2)
    assert engine.json("/containers/again/json")["RestartCount"] == 0


def test_a_container_with_rm_survives_a_restart(engine: Engine) -> None:
    """CTR-12, CTR-16: AutoRemove waits for a real end."""
    run_until_ready(engine, "brief", OBEDIENT, "--rm")
    engine.cli("restart", "-t", "1", "brief")
    assert state(engine, "brief")["Running"] is True
    engine.cli("stop", "-t", "1", "brief")
    engine.wait_for(lambda: not engine.out("ps", "-aq"))


def test_pause_freezes_and_unpause_thaws(engine: Engine) -> None:
    """CTR-13: a frozen process makes no progress."""
    run_until_ready(engine, "cold", "echo ready; while :; do echo tick; sleep 0.02; done")
    engine.cli("pause", "cold")
    assert "(Paused)" in engine.out("ps", "--format", "{{.Status}}")
    assert state(engine, "cold")["Status"] == "paused"
    ticks = engine.out("logs", "cold").count("tick")
    busy = engine.out("run", "--rm", "busybox", "sh", "-c", "sleep 0.2; echo other")
    assert busy == "other"
    assert engine.out("logs", "cold").count("tick") <= ticks + 1, "one line may have been under way"
    assert "is already paused" in engine.cli("pause", "cold", check=False).stderr
    engine.cli("unpause", "cold")
    engine.wait_for(lambda: engine.out("logs", "cold").count("tick") > ticks + 1)
    status, body = engine.request("POST", "/containers/cold/unpause")
    assert (status, b"is not paused" in body) == (500, True)


def test_a_paused_container_can_be_stopped_and_removed(engine: Engine) -> None:
    """CTR-10, CTR-11, CTR-15."""
    run_until_ready(engine, "cold", OBEDIENT)
    engine.cli("pause", "cold")
    assert "cold" in engine.out("stop", "-t", "1", "cold")
    assert state(engine, "cold")["Running"] is False
    run_until_ready(engine, "colder", OBEDIENT)
    engine.cli("pause", "colder")
    assert engine.request("DELETE", "/containers/colder")[0] == 409
    engine.cli("rm", "-f", "colder")


def test_wait_tells_the_exit_code_of_each(engine: Engine) -> None:
    """CTR-14: of one that runs and of one that has ended."""
    engine.cli("run", "--name", "past", "busybox", "sh", "-c", "exit 4", check=False)
    run_until_ready(engine, "present", OBEDIENT)
    waiting = subprocess.Popen(
        [tool("docker"), "wait", "past", "present"], env=engine.environment, stdout=subprocess.PIPE, text=True
    )
    engine.cli("kill", "-s", "TERM", "present")
    assert waiting.communicate(timeout=20)[0].split() == ["4", "6"]
    assert engine.request("POST", "/containers/past/wait?condition=never")[0] == 400


def test_on_failure_restarts_as_often_as_it_may(engine: Engine) -> None:
    """CTR-17: three times, then it stays down with its last exit code."""
    engine.cli("run", "-d", "--restart", "on-failure:3", "--name", "weak", "busybox", "sh", "-c", "echo try; exit 5")
    found = engine.wait_for(
        lambda: (
            (inspected := engine.json("/containers/weak/json"))["RestartCount"] == 3
            and inspected["State"]["Status"] == "exited"
            and inspected
        )
    )
    assert found["State"]["ExitCode"] == 5
    assert engine.out("logs", "weak").split() == ["try"] * 4


def test_always_restarts_until_it_is_stopped_by_hand(engine: Engine) -> None:
    """CTR-17: a success is restarted too; a manual stop cancels."""
    engine.cli("run", "-d", "--restart", "always", "--name", "ever", "busybox", "true")
    engine.wait_for(lambda: engine.json("/containers/ever/json")["RestartCount"] >= 2)
    engine.cli("stop", "ever")
    engine.wait_for(lambda: state(engine, "ever")["Status"] == "exited")
    count = engine.json("/containers/ever/json")["RestartCount"]
    engine.cli("run", "--rm", "busybox", "sleep", "0.5")
    assert state(engine, "ever")["Status"] == "exited"
    assert engine.json("/containers/ever/json")["RestartCount"] == count


def test_a_memory_eater_is_killed_and_told_so(engine: Engine) -> None:
    """CTR-19: OOMKilled, 137, and the event."""
    eat = "a=$(head -c 200000000 /dev/zero | tr '\\0' x); echo survived"
    engine.cli("run", "--name", "eater", "-m", "16m", "--memory-swap", "16m", "busybox", "sh", "-c", eat, check=False)
    ended = state(engine, "eater")
    assert (ended["OOMKilled"], ended["ExitCode"]) == (True, 137)
    actions = engine.out(
        "events", "--since", "1", "--until", str(time.time()), "--filter", "container=eater", "--format", "{{.Action}}"
    )
    assert "oom" in actions.split()


def test_rename_moves_the_name(engine: Engine) -> None:
    """CTR-29: and frees the old one."""
    engine.cli("run", "-d", "--name", "old", "busybox", "sleep", "1000")
    engine.cli("rename", "old", "new")
    assert engine.out("ps", "--format", "{{.Names}}") == "new"
    engine.cli("run", "-d", "--name", "old", "busybox", "sleep", "1000")
    assert "is already in use" in engine.cli("rename", "old", "new", check=False).stderr
    assert engine.request("POST", "/containers/new/rename?name=new")[0] == 400


def test_update_changes_limits_of_a_running_container(engine: Engine) -> None:
    """CTR-28: in the kernel and in what is told."""
    engine.cli("run", "-d", "--name", "grown", "-m", "64m", "busybox", "sleep", "1000")
    engine.cli("update", "-m", "128m", "--memory-swap", "256m", "--cpus", "0.25", "--pids-limit", "77", "grown")
    host = engine.json("/containers/grown/json")["HostConfig"]
    assert (host["Memory"], host["NanoCpus"], host["PidsLimit"]) == (128 << 20, 250_000_000, 77)
    limit = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max"
    assert engine.out("exec", "grown", "sh", "-c", limit) == str(128 << 20)
    engine.cli("update", "--restart", "always", "grown")
    assert engine.json("/containers/grown/json")["HostConfig"]["RestartPolicy"]["Name"] == "always"


def test_rm_refuses_the_running_and_forces_on_request(engine: Engine) -> None:
    """CTR-15."""
    engine.cli("run", "-d", "--name", "busy", "busybox", "sleep", "1000")
    refused = engine.cli("rm", "busy", check=False)
    assert "stop the container before removing or force remove" in refused.stderr
    assert engine.out("rm", "-f", "busy") == "busy"
    assert engine.request("DELETE", "/containers/busy")[0] == 404


def test_container_prune_takes_the_stopped_ones_only(engine: Engine) -> None:
    """CTR-35: and respects label filters."""
    engine.cli("run", "-d", "--name", "busy", "busybox", "sleep", "1000")
    engine.cli("run", "--name", "over", "busybox", "true")
    engine.cli("run", "--name", "kept", "--label", "keep=yes", "busybox", "true")
    told = engine.out("container", "prune", "-f", "--filter", "label!=keep")
    assert "Total reclaimed space" in told
    assert sorted(engine.out("ps", "-a", "--format", "{{.Names}}").split()) == ["busy", "kept"]


def test_ps_tells_states_and_filters(engine: Engine) -> None:
    """CTR-20, CTR-21."""
    engine.cli("run", "-d", "--name", "up", "--label", "tier=web", "busybox", "sleep", "1000")
    engine.cli("run", "--name", "down", "busybox", "sh", "-c", "exit 3", check=False)
    engine.cli("create", "--name", "new", "busybox", "true")
    rows = dict(row.split("|") for row in engine.out("ps", "-a", "--format", "{{.Names}}|{{.Status}}").splitlines())
    assert rows["up"].startswith("Up ")
    assert rows["down"].startswith("Exited (3) ")
    assert rows["new"] == "Created"

    def names(*filters: str) -> list[str]:
        flags = [word for one in filters for word in ("--filter", one)]
        return engine.out("ps", "-a", "--format", "{{.Names}}", *flags).split()

    assert names("status=exited") == ["down"]
    assert names("exited=3") == ["down"]
    assert names("label=tier=web") == ["up"]
    assert names("ancestor=busybox", "name=ne") == ["new"]
    assert engine.out("ps", "-aq", "-n", "1") == engine.out("ps", "-q", "-a", "--filter", "name=new")
    assert "invalid filter" in engine.cli("ps", "--filter", "nosuch=1", check=False).stderr


def test_inspect_tells_the_whole_truth(engine: Engine) -> None:
    """CTR-22, and that formats work on it."""
    engine.cli("run", "--name", "seen", "-e", "A=b", "-w", "/tmp", "busybox", "true")
    inspected = json.loads(engine.out("inspect", "seen"))[0]
    assert inspected["Name"] == "/seen"
    assert inspected["Path"] == "true"
    assert inspected["Config"]["WorkingDir"] == "/tmp"
    assert "A=b" in inspected["Config"]["Env"]
    assert inspected["State"]["FinishedAt"] >= inspected["State"]["StartedAt"] > inspected["Created"]
    assert inspected["GraphDriver"]["Name"] == "overlay2"
    assert engine.out("inspect", "-f", "{{json .Config.Cmd}}", "seen") == '["true"]'
    assert int(engine.out("inspect", "-s", "-f", "{{.SizeRootFs}}", "seen")) > 1_000_000
    unknown = engine.cli("inspect", "nothing-like-it", check=False)
    assert "No such object: nothing-like-it" in unknown.stderr


@pytest.mark.parametrize(
    ("options", "code"),
    [(("--entrypoint", "/etc"), 126), (("--network", "nosuch"), 125)],
)
def test_a_start_that_fails_takes_its_container_with_it(engine: Engine, options: tuple[str, ...], code: int) -> None:
    """CTR-16: `--rm`; gone when the client hears of it, which has nothing else to complain about."""
    failed = engine.cli("run", "--rm", *options, "busybox", check=False)
    assert failed.returncode == code
    assert "error waiting for container" not in failed.stderr
    assert engine.json("/containers/json?all=1") == []
