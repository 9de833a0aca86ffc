"""The engine ends and comes back, politely or by kill -9: what users had goes on, what happened meanwhile is told."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.aggregates.container.events import ContainerRestartScheduled
from tests.support.audit import events_of
from tests.support.engine import Engine
from tests.support.outside import fetch_locally, neighbour

pytestmark = pytest.mark.root
SERVE = "mkdir -p /www; echo page > /www/index.html; httpd -f -p 80 -h /www"

BOTH_WAYS = pytest.mark.parametrize("how", ["stop", "kill"])


def away(engine: Engine, how: str) -> None:
    """The engine is gone."""
    if how == "stop":
        assert engine.stop() == 0
    else:
        engine.kill()


@BOTH_WAYS
def test_containers_go_on_and_are_still_in_reach(engine: Engine, how: str) -> None:
    """SYS-12: Same process, published port, names on the network, exec, logs, stop: all as before (NET-38)."""
    engine.cli("network", "create", "yard")
    engine.cli("run", "-d", "--name", "web", "--network", "yard", "-p", "8080:80", "busybox", "sh", "-c", SERVE)
    engine.cli("run", "-d", "--name", "peer", "--network", "yard", "busybox", "sleep", "1000")
    engine.wait_for(lambda: fetch_locally(engine, "http://127.0.0.1:8080/") == "page\n")
    before = engine.json("/containers/web/json")
    networks, listed = engine.json("/networks"), engine.json("/containers/json?all=1")
    away(engine, how)
    with neighbour(engine) as outside:
        assert outside.fetch(f"http://{outside.address}:8080/") == "page\n", "NAT needs no engine"
        engine.start()
        assert outside.fetch(f"http://{outside.address}:8080/") == "page\n"
    after = engine.json("/containers/web/json")
    assert (after["State"], after["NetworkSettings"]) == (before["State"], before["NetworkSettings"])
    assert engine.json("/networks") == networks
    for now, then in zip(engine.json("/containers/json?all=1"), listed, strict=True):
        assert {**now, "Status": ""} == {**then, "Status": ""}
    assert fetch_locally(engine, "http://127.0.0.1:8080/") == "page\n"
    address = after["NetworkSettings"]["Networks"]["yard"]["IPAddress"]
    assert address in engine.out("exec", "peer", "nslookup", "-type=a", "web")
    engine.cli("run", "-d", "--name", "new", "--network", "yard", "busybox", "sleep", "1000")
    assert engine.json("/containers/new/json")["NetworkSettings"]["Networks"]["yard"]["IPAddress"] in engine.out(
        "exec", "peer", "nslookup", "-type=a", "new"
    )
    engine.cli("stop", "-t", "0", "web")
    assert fetch_locally(engine, "http://127.0.0.1:8080/") == ""


@BOTH_WAYS
def test_what_ends_meanwhile_is_told(engine: Engine, how: str) -> None:
    """SYS-11: Exit code, every line of output, the removal of --rm, the restart by policy (CTR-16, CTR-17, CTR-18)."""
    wait = "while [ ! -e /v/go ]; do sleep 0.02; done; "
    engine.cli("run", "-d", "--name", "ends", "-v", "vol:/v", "busybox", "sh", "-c", f"{wait} echo told; exit 7")
    engine.cli("run", "-d", "--name", "goes", "--rm", "-v", "vol:/v", "busybox", "sh", "-c", wait)
    again = f"{wait} echo run; if [ -e /second ]; then sleep 1000; fi; touch /second; exit 1"
    engine.cli("run", "-d", "--name", "again", "--restart", "always", "-v", "vol:/v", "busybox", "sh", "-c", again)
    pids = [engine.json(f"/containers/{name}/json")["State"]["Pid"] for name in ("ends", "goes", "again")]
    volume = engine.data_root / "volumes/vol/_data"
    away(engine, how)
    (volume / "go").touch()
    engine.wait_for(lambda: not any(lives(pid) for pid in pids))
    engine.start()
    engine.wait_for(lambda: engine.json("/containers/ends/json")["State"]["Status"] == "exited")
    assert engine.json("/containers/ends/json")["State"]["ExitCode"] == 7
    assert engine.out("logs", "ends") == "told"
    engine.wait_for(lambda: engine.request("GET", "/containers/goes/json")[0] == 404)
    engine.wait_for(lambda: engine.out("logs", "again").split() == ["run", "run"])
    engine.wait_for(lambda: engine.json("/containers/again/json")["State"]["Running"])


@BOTH_WAYS
def test_a_restart_policy_goes_on_where_it_was(engine: Engine, how: str) -> None:
    """CTR-17: the wait that was under way keeps its deadline, the next one is twice as long, and the count goes on."""
    loop = engine.out("run", "-d", "--name", "loop", "--restart", "always", "busybox", "false")
    engine.wait_for(lambda: engine.json("/containers/loop/json")["RestartCount"] >= 3)
    away(engine, how)
    engine.start()
    engine.wait_for(lambda: engine.json("/containers/loop/json")["RestartCount"] >= 5)
    engine.cli("rm", "-f", "loop")
    events = [recorded.event for recorded in events_of(engine) if recorded.key == loop]
    told = [event for event in events if isinstance(event, ContainerRestartScheduled)]
    assert [event.restart_count for event in told] == list(range(1, len(told) + 1))
    assert [event.delay_ms for event in told] == [min(100 * 2**n, 60_000) for n in range(len(told))]


@BOTH_WAYS
def test_a_failing_streak_goes_on_where_it_was(engine: Engine, how: str) -> None:
    """CTR-24: what failed before the engine went counts after it."""
    probe = ("--health-cmd", "test -e /well", "--health-interval", "100ms", "--health-retries", "1000")
    engine.cli("run", "-d", "--name", "ill", *probe, "busybox", "sleep", "1000")

    def streak() -> int:
        found: int = engine.json("/containers/ill/json")["State"]["Health"]["FailingStreak"]
        return found

    engine.wait_for(lambda: streak() >= 3)
    before = streak()
    away(engine, how)
    engine.start()
    assert streak() >= before
    engine.wait_for(lambda: streak() > before + 1)
    engine.cli("exec", "ill", "touch", "/well")
    engine.wait_for(lambda: engine.json("/containers/ill/json")["State"]["Health"]["Status"] == "healthy")
    assert streak() == 0


def lives(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@BOTH_WAYS
def test_an_attached_client_keeps_its_stream(engine: Engine, how: str) -> None:
    """Principle 9: the copier holds the client's connection; what is written while the engine is away arrives."""
    script = "echo before; while [ ! -e /v/go ]; do sleep 0.02; done; echo after"
    engine.cli("create", "--name", "speaks", "-v", "vol:/v", "busybox", "sh", "-c", script)
    # By hand and not by the CLI, which gives up when its request to start ends with the engine.
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as client:
        client.settimeout(20)
        client.connect(str(engine.socket))
        client.sendall(
            b"POST /containers/speaks/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: x\r\n"
            b"Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n"
        )
        shown = client.makefile("rb")
        while shown.readline() != b"\r\n":
            pass
        assert engine.request("POST", "/containers/speaks/start")[0] == 204
        assert shown.readline().endswith(b"before\n")
        away(engine, how)
        (engine.data_root / "volumes/vol/_data/go").touch()
        assert shown.readline().endswith(b"after\n")
        assert shown.read() == b"", "the end of the process ends the stream"
    engine.start()
    engine.wait_for(lambda: engine.out("logs", "speaks") == "before\nafter")


def test_a_paused_container_stays_paused(engine: Engine) -> None:
    """CTR-13."""
    engine.cli("run", "-d", "--name", "cold", "busybox", "sleep", "1000")
    engine.cli("pause", "cold")
    engine.restart()
    assert engine.json("/containers/cold/json")["State"]["Status"] == "paused"
    engine.cli("unpause", "cold")
    assert engine.out("exec", "cold", "echo", "thawed") == "thawed"


def test_the_log_is_whole_and_the_answers_are_the_same_without_views(engine: Engine) -> None:
    """Views are disposable: byte for byte the same lists after their deletion; `replay verify` passes."""
    engine.cli("network", "create", "--label", "a=b", "yard")
    engine.cli("run", "--name", "over", "-v", "vol:/v", "--network", "yard", "busybox", "true")
    engine.cli("create", "--name", "new", "--label", "x=y", "-p", "80", "busybox")
    paths = ("/containers/json?all=1", "/images/json", "/networks", "/volumes")

    def answers() -> list[bytes]:
        # `Exited (0) 3 seconds ago` tells the time of asking; everything else is as it was.
        rows = [engine.request("GET", path)[1] for path in paths]
        return [
            subprocess.run(["sed", "-E", 's/"Status":"[^"]*"//g'], input=r, capture_output=True).stdout for r in rows
        ]

    before = answers()
    history = f"/events?since=1&until={time.time()}"
    events = engine.request("GET", history)[1]
    engine.stop()
    for name in engine.data_root.glob("views*.db*"):
        name.unlink()
    engine.start()
    assert answers() == before
    assert engine.request("GET", history)[1] == events
    assert engine.replay("verify").returncode == 0


def test_an_engine_without_cgroups_says_what_is_missing(tmp_path: Path) -> None:
    """SYS-03: as `ip netns exec` leaves it; else the first container would fail, with fewer words."""
    roots = ("--data-root", str(tmp_path / "data"), "--exec-root", str(tmp_path / "exec"))
    command = (sys.executable, "-m", "engine", "-H", f"unix://{tmp_path}/socket", "--pidfile", str(tmp_path / "pid"))
    hidden = 'umount -l /sys/fs/cgroup; exec "$@"'
    ended = subprocess.run(
        ["unshare", "-m", "sh", "-c", hidden, "sh", *command, *roots], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 1
    assert "no cgroup file system is mounted" in ended.stderr
    assert "nsenter --net=" in ended.stderr
    assert not (tmp_path / "socket").exists()
