"""What a start finds: containers that went on, exits that nobody waited for, a supervisor that is gone, lost views."""

from __future__ import annotations

import json
import os
import select
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replay.verify import verify
from tests.crash.workload import ENDLESS, Workload, check_log, runs_of
from tests.support.audit import events_of, settled_without_leaks
from tests.support.engine import Engine, running_engine
from tests.support.registry import tool

pytestmark = pytest.mark.root


@pytest.fixture
def engine() -> Iterator[Engine]:
    with running_engine() as engine:
        yield engine


def state_of(engine: Engine, name: str) -> dict[str, Any]:
    state: dict[str, Any] = engine.json(f"/containers/{name}/json")["State"]
    return state


def log_of(engine: Engine, name: str) -> Path:
    return Path(engine.json(f"/containers/{name}/json")["LogPath"])


def run(engine: Engine, name: str, workload: Workload, *options: str) -> None:
    engine.out("run", "-d", "--name", name, *options, "busybox", *workload.command)


def kill_process(pid: int) -> None:
    """Kill a process of a container from outside, and wait until it is gone."""
    descriptor = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGKILL)
        assert select.select([descriptor], [], [], 10)[0], "it does not die"
    except ProcessLookupError:
        return
    finally:
        os.close(descriptor)


# -- containers that go on ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_containers_run_on_while_the_engine_is_away(engine: Engine, end: str) -> None:
    run(engine, "worker", Workload(lines=ENDLESS), "-p", "80")
    pid = state_of(engine, "worker")["Pid"]
    status = getattr(engine, end)()
    assert end == "kill" or status == 0
    before = runs_of_file(engine, pid)
    engine.wait_for(lambda: runs_of_file(engine, pid) > before)  # it writes, and somebody writes it down
    engine.start()
    assert state_of(engine, "worker")["Pid"] == pid
    assert state_of(engine, "worker")["Running"] is True
    check_log(log_of(engine, "worker"), Workload(lines=ENDLESS), ended=False, cut=True)
    settled_without_leaks(engine)


def runs_of_file(engine: Engine, pid: int) -> int:
    (log,) = (engine.data_root / "containers").glob("*/*-json.log")
    assert Path(f"/proc/{pid}").exists()
    return sum(runs_of(log)["stdout"])


# An engine that stops gives attached clients five seconds: the longer run outlives them.
@pytest.mark.parametrize(("end", "pause_s"), [("stop", 0.13), ("kill", 0.05)])
def test_an_attached_client_keeps_its_output_while_the_engine_is_away(engine: Engine, end: str, pause_s: float) -> None:
    script = f'i=0; while [ $i -lt 60 ]; do i=$((i+1)); echo "o $i"; sleep {pause_s}; done; exit 7'
    client = subprocess.Popen(
        [tool("docker"), "run", "--name", "worker", "busybox", "sh", "-c", script],
        env=engine.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert client.stdout is not None
    lines = [client.stdout.readline() for _ in range(5)]
    getattr(engine, end)()
    lines += [client.stdout.readline() for _ in range(10)]
    engine.start()
    lines += client.stdout.readlines()
    client.communicate(timeout=30)
    assert lines == [f"o {number}\n" for number in range(1, 61)]
    # The CLI's own wait was cut off with the engine; one made now gets the code.
    assert engine.out("wait", "worker") == "7"
    assert engine.out("logs", "worker").splitlines() == [f"o {number}" for number in range(1, 61)]


# -- exits that nobody waited for --------------------------------------------------------------------------------------


def test_an_exit_while_the_engine_is_dead_is_found_with_its_code(engine: Engine) -> None:
    codes = {f"ends-{code}": code for code in (0, 1, 42, 126, 255)}
    for name, code in codes.items():
        run(engine, name, Workload(lines=21, code=code))
    run(engine, "killed", Workload(lines=ENDLESS))
    pids = {name: state_of(engine, name)["Pid"] for name in codes}
    victim = state_of(engine, "killed")["Pid"]
    engine.kill()
    kill_process(victim)
    engine.wait_for(lambda: not any(is_alive(pid) for pid in pids.values()))
    engine.start()
    settled_without_leaks(engine)
    assert {name: state_of(engine, name)["ExitCode"] for name in codes} == codes
    assert state_of(engine, "killed")["ExitCode"] == 137
    for name in codes:
        check_log(log_of(engine, name), Workload(lines=21), ended=True, cut=False)


def is_alive(pid: int) -> bool:
    return pid > 0 and Path(f"/proc/{pid}").exists()


def test_an_oom_kill_while_the_engine_is_dead_is_found(engine: Engine) -> None:
    eats = "sleep 1; exec dd if=/dev/zero of=/dev/null bs=200M"
    engine.out("run", "-d", "--name", "eater", "-m", "20m", "--memory-swap", "20m", "busybox", "sh", "-c", eats)
    pid = state_of(engine, "eater")["Pid"]
    engine.kill()
    engine.wait_for(lambda: not is_alive(pid))
    engine.start()
    settled_without_leaks(engine)
    state = state_of(engine, "eater")
    assert (state["OOMKilled"], state["ExitCode"]) == (True, 137)


def test_a_shortage_of_memory_while_the_engine_is_dead_is_told_by_the_next_one(engine: Engine) -> None:
    eats = "sleep 1; tail /dev/zero; exec sleep 1000"
    engine.out("run", "-d", "--name", "eater", "-m", "16m", "--memory-swap", "16m", "busybox", "sh", "-c", eats)
    pid = state_of(engine, "eater")["Pid"]
    engine.kill()
    engine.wait_for(lambda: Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep\x001000"))
    engine.start()
    engine.wait_for(lambda: state_of(engine, "eater")["OOMKilled"])
    assert state_of(engine, "eater")["Running"]


def test_a_policy_starts_again_what_ended_while_the_engine_was_dead(engine: Engine) -> None:
    run(engine, "always", Workload(lines=ENDLESS), "--restart", "always")
    run(engine, "never", Workload(lines=ENDLESS))
    pids = [state_of(engine, name)["Pid"] for name in ("always", "never")]
    engine.kill()
    for pid in pids:
        kill_process(pid)
    engine.start()
    settled_without_leaks(engine)
    engine.wait_for(lambda: state_of(engine, "always")["Running"])
    assert state_of(engine, "always")["Pid"] not in (0, *pids)
    assert engine.json("/containers/always/json")["RestartCount"] == 1
    assert (state_of(engine, "never")["Running"], state_of(engine, "never")["ExitCode"]) == (False, 137)


def test_a_container_that_removes_itself_does_so_after_an_exit_nobody_saw(engine: Engine) -> None:
    run(engine, "brief", Workload(lines=41), "--rm", "-v", "/anonymous")
    run(engine, "victim", Workload(lines=ENDLESS), "--rm")
    brief, victim = (state_of(engine, name)["Pid"] for name in ("brief", "victim"))
    engine.kill()
    kill_process(victim)
    engine.wait_for(lambda: not is_alive(brief))
    engine.start()
    engine.wait_for(lambda: engine.json("/containers/json?all=1") == [])
    settled_without_leaks(engine)
    assert engine.json("/volumes")["Volumes"] in (None, [])


def test_an_exec_that_runs_on_or_ends_while_the_engine_is_dead_is_known_after(engine: Engine) -> None:
    run(engine, "host", Workload(lines=ENDLESS))
    ids = {}
    for name, seconds in (("short", "0.5"), ("long", "1000")):
        command = ["sh", "-c", f"sleep {seconds}; exit 9"]
        ids[name] = json.loads(engine.request("POST", "/containers/host/exec", {"Cmd": command})[1])["Id"]
        assert engine.request("POST", f"/exec/{ids[name]}/start", {"Detach": True})[0] == 200
    short = engine.json(f"/exec/{ids['short']}/json")["Pid"]
    engine.kill()
    engine.wait_for(lambda: not is_alive(short))
    engine.start()
    engine.wait_for(lambda: not engine.json(f"/exec/{ids['short']}/json")["Running"])
    assert engine.json(f"/exec/{ids['short']}/json")["ExitCode"] == 9
    assert engine.json(f"/exec/{ids['long']}/json")["Running"] is True
    engine.out("rm", "-f", "host")
    settled_without_leaks(engine)


def test_policies_start_stopped_containers_at_boot_as_docker_does(engine: Engine) -> None:
    for policy in ("always", "unless-stopped", "on-failure", "no"):
        run(engine, policy, Workload(lines=ENDLESS), "--restart", policy)
        engine.out("stop", "-t", "5", policy)
    engine.out("create", "--name", "new", "--restart", "always", "busybox", "true")
    engine.restart()
    settled_without_leaks(engine)
    engine.wait_for(lambda: state_of(engine, "always")["Running"] and state_of(engine, "on-failure")["Running"])
    assert [state_of(engine, name)["Running"] for name in ("unless-stopped", "no", "new")] == [False] * 3


# -- a supervisor that is gone -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine_dies", [False, True])
def test_with_the_supervisor_gone_its_containers_are_ended_and_reported_lost(engine: Engine, engine_dies: bool) -> None:
    """Nobody could stop them, listen to them or learn their exit code: they are not left to themselves."""
    run(engine, "worker", Workload(lines=ENDLESS), "-p", "80")
    run(engine, "steady", Workload(lines=ENDLESS), "--restart", "always")
    run(engine, "frozen", Workload(lines=ENDLESS))
    engine.out("pause", "frozen")  # on cgroup version 1 a frozen process can not even be killed
    frozen = state_of(engine, "frozen")["Pid"]
    engine.out("create", "--name", "idle", "busybox", "true")
    pid = state_of(engine, "worker")["Pid"]
    engine.out("exec", "-d", "worker", "sleep", "1000")
    if engine_dies:
        engine.kill()
    engine.end_supervisor()
    if engine_dies:
        engine.start()
    engine.wait_for(lambda: not is_alive(pid) and not is_alive(frozen))
    engine.wait_for(lambda: not state_of(engine, "worker")["Running"])
    settled_without_leaks(engine)
    assert state_of(engine, "worker")["ExitCode"] == 255
    engine.wait_for(lambda: state_of(engine, "steady")["Running"])
    assert state_of(engine, "idle")["Status"] == "created"
    assert [event.event.lost for event in events_of(engine) if event.event.NAME == "container.exited"][:2] == [
        True,
        True,
    ]
    assert engine.out("run", "--rm", "busybox", "echo", "next") == "next"


def test_the_engine_outlives_that_starting_supervisors_are_killed_too(engine: Engine) -> None:
    """As the kernel does when memory is short: one after the other, the new ones as well."""
    killed, deadline = set[int](), time.monotonic() + 1.5
    while time.monotonic() < deadline:
        killed |= set(engine.supervisors())
        engine.end_supervisor()
    assert len(killed) > 3
    assert engine.process is not None and engine.process.poll() is None
    assert engine.out("run", "--rm", "busybox", "echo", "next") == "next"
    settled_without_leaks(engine)


# -- views and caches --------------------------------------------------------------------------------------------------


def populate(engine: Engine) -> None:
    engine.out("network", "create", "--label", "a=b", "backend")
    engine.out("volume", "create", "--label", "c=d", "data")
    engine.out("tag", "busybox", "other:v1")
    run(engine, "running", Workload(lines=ENDLESS), "-p", "80", "--network", "backend", "-v", "data:/data")
    engine.out("run", "--name", "ended", "-v", "/anonymous", "busybox", "sh", "-c", "exit 3", check=False)
    engine.out("create", "--name", "new", "-l", "e=f", "busybox", "true")
    engine.out("run", "--rm", "busybox", "true")
    engine.out("exec", "running", "true")
    engine.out("rename", "new", "newer")
    engine.out("pause", "running")


def answers(engine: Engine, until: str) -> dict[str, bytes]:
    """Status holds an age, and nothing else may change with the clock."""
    found = {}
    for path in (
        "/containers/json?all=1",
        "/images/json?all=1",
        "/networks",
        "/volumes",
        f"/events?since=0&until={until}",
    ):
        status, body = engine.request("GET", path)
        assert status == 200, body
        found[path] = body
    rows = json.loads(found["/containers/json?all=1"])
    for row in rows:
        del row["Status"]
    found["/containers/json?all=1"] = json.dumps(rows).encode()
    return found


def test_without_any_view_or_cache_the_answers_are_the_same_bytes(engine: Engine) -> None:
    """SYS-06, VOL-11."""
    populate(engine)
    settled_without_leaks(engine)
    until = f"{time.time():.9f}"
    before = answers(engine, until)
    assert before[f"/events?since=0&until={until}"].count(b"\n") > 20
    assert engine.stop() == 0
    for file in [*engine.data_root.glob("views*.db*"), engine.data_root / "engine-id"]:
        if file.name.startswith("views"):
            file.unlink()
    engine.start()
    assert answers(engine, until) == before
    engine.kill()
    for file in engine.data_root.glob("views*.db*"):
        file.write_bytes(b"no database at all")
    engine.start()
    assert answers(engine, until) == before


# -- the proof of the log ----------------------------------------------------------------------------------------------


def test_a_byte_flipped_anywhere_in_the_stored_events_is_found_with_its_position(
    engine: Engine, tmp_path: Path
) -> None:
    populate(engine)
    engine.stop()
    original = (engine.data_root / "events.db").read_bytes()
    head = len(events_of(engine))
    copy = tmp_path / "events.db"
    for position in range(1, head + 1, max(1, head // 25)):
        for column in ("originator_id", "topic", "state"):
            copy.write_bytes(original)
            flip(copy, position, column, position)
            assert position in [finding.position for finding in verify(copy).findings], (position, column)
    found = replay_verify(copy)
    assert found.returncode != 0
    assert f" @{position} " in found.stdout
    copy.write_bytes(original)
    assert replay_verify(copy).returncode == 0


def flip(path: Path, position: int, column: str, salt: int) -> None:
    """Turn one bit of one stored value, behind SQLite's back as far as the chain is concerned."""
    with sqlite3.connect(path) as connection:
        (value,) = connection.execute(f"SELECT {column} FROM stored_events WHERE rowid=?", (position,)).fetchone()
        data = bytearray(value.encode() if isinstance(value, str) else value)
        data[salt % len(data)] ^= 1
        changed: str | bytes = data.decode() if isinstance(value, str) else bytes(data)
        connection.execute(f"UPDATE stored_events SET {column}=? WHERE rowid=?", (changed, position))
    connection.close()


def replay_verify(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "replay", "--log", str(path), "verify"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
