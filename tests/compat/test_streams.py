"""What the engine tells while it runs: logs, events, stats, top, info, disk usage."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time

import pytest

from tests.support.engine import Engine
from tests.support.registry import tool

pytestmark = pytest.mark.root
TEN = "for i in 1 2 3 4 5 6 7 8 9 10; do echo line $i; usleep 5000; done"


def lines(engine: Engine, *words: str) -> list[str]:
    return engine.out("logs", *words).splitlines()


def test_logs_tail_since_and_timestamps(engine: Engine) -> None:
    """CTR-27."""
    engine.cli("run", "--name", "talk", "busybox", "sh", "-c", TEN)
    assert lines(engine, "talk") == [f"line {n}" for n in range(1, 11)]
    assert lines(engine, "--tail", "5", "talk") == [f"line {n}" for n in range(6, 11)]
    assert lines(engine, "--tail", "0", "talk") == []
    assert lines(engine, "--since", "1m", "--tail", "2", "talk") == ["line 9", "line 10"]
    assert lines(engine, "--until", "1m", "talk") == []
    stamped = lines(engine, "-t", "--tail", "1", "talk")[0]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z line 10", stamped)
    after = lines(engine, "--since", stamped.split()[0], "talk")
    assert "line 10" in after
    assert "line 1" not in after


def test_logs_follow_until_the_end(engine: Engine) -> None:
    """CTR-27: -f --tail 5 --since 1m -t shows what was and what comes, and ends with the container."""
    script = f"{TEN}; echo marked; while [ ! -e /go ]; do sleep 0.02; done; echo last"
    engine.cli("run", "-d", "--name", "talk", "busybox", "sh", "-c", script)
    engine.wait_for(lambda: "marked" in engine.out("logs", "talk"))
    following = subprocess.Popen(
        [tool("docker"), "logs", "-f", "--tail", "5", "--since", "1m", "-t", "talk"],
        env=engine.environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert following.stdout is not None
    assert following.stdout.readline().endswith("line 7\n")
    engine.cli("exec", "talk", "touch", "/go")
    rest = following.stdout.read().splitlines()
    assert [line.split(" ", 1)[1] for line in rest] == ["line 8", "line 9", "line 10", "marked", "last"]
    assert following.wait(20) == 0


def test_logs_keep_the_streams_apart(engine: Engine) -> None:
    """CTR-27, EXE-02."""
    engine.cli("run", "--name", "both", "busybox", "sh", "-c", "echo out; echo err >&2")
    done = engine.cli("logs", "both")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")
    assert engine.request("GET", "/containers/both/logs")[0] == 400
    assert engine.request("GET", "/containers/both/logs?stderr=1")[1] == b"\x02\0\0\0\0\0\0\x04err\n"


def test_no_output_is_no_logs_and_a_rotated_log_is_whole(engine: Engine) -> None:
    """LOG-01, LOG-02: `none` has nothing to read; max-size keeps the newest lines over all files."""
    engine.cli("run", "--name", "mute", "--log-driver", "none", "busybox", "echo", "hi")
    assert "configured logging driver does not support reading" in engine.cli("logs", "mute", check=False).stderr
    engine.cli(
        "run", "--name", "much", "--log-opt", "max-size=10k", "--log-opt", "max-file=3", "busybox",
        "sh", "-c", "i=0; while [ $i -lt 500 ]; do echo number $i; i=$((i+1)); done",
    )  # fmt: skip
    kept = lines(engine, "much")
    assert kept[-1] == "number 499"
    assert kept == [f"number {n}" for n in range(500 - len(kept), 500)]
    assert 100 < len(kept) < 500


def test_events_tell_a_whole_life_in_order(engine: Engine) -> None:
    """EVT-01, EVT-05: `events --since 0` begins at the beginning of history."""
    engine.cli("network", "create", "yard")
    container_id = engine.out("create", "--name", "lived", "--network", "yard", "busybox", "sh", "-c", "exit 3")
    engine.cli("start", "-a", "lived", check=False)
    engine.cli("rm", "lived")
    told = engine.out(
        "events", "--since", "0", "--until", str(time.time()), "--filter", f"container={container_id}",
        "--format", "{{json .}}",
    )  # fmt: skip
    events = [json.loads(line) for line in told.splitlines()]
    assert [event["Action"] for event in events] == ["create", "attach", "start", "die", "destroy"]
    assert events[3]["Actor"]["Attributes"]["exitCode"] == "3"
    assert {event["Actor"]["Attributes"]["name"] for event in events} == {"lived"}
    everything = engine.out("events", "--since", "0", "--until", str(time.time()), "--format", "{{.Type}} {{.Action}}")
    order = [line for line in everything.splitlines() if line.startswith(("container", "network"))]
    assert order[-7:] == [
        "container create", "container attach", "network connect", "container start", "container die",
        "network disconnect", "container destroy",
    ]  # fmt: skip
    assert "image load" in everything


def test_events_follow_and_filter(engine: Engine) -> None:
    """EVT-01, EVT-04: a follower sees what it asked for as it happens."""
    following = subprocess.Popen(
        [tool("docker"), "events", "--since", str(time.time()), "--filter", "event=die", "--filter", "label=watch",
         "--format", "{{.Action}} {{index .Actor.Attributes \"name\"}}"],
        env=engine.environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        engine.cli("run", "--name", "unseen", "busybox", "true")
        engine.cli("run", "--name", "seen", "--label", "watch", "busybox", "true")
        assert following.stdout is not None
        assert following.stdout.readline() == "die seen\n"
    finally:
        following.kill()
        following.wait()


def test_events_of_exec(engine: Engine) -> None:
    """EXE-09: exec_create, exec_start, exec_die with its code. Arguments may hold secrets and are not told."""
    engine.cli("run", "-d", "--name", "host", "busybox", "sleep", "1000")
    engine.cli("exec", "host", "sh", "-c", "exit 9", check=False)
    told = engine.out(
        "events", "--since", "0", "--until", str(time.time()), "--filter", "container=host",
        "--format", '{{.Action}}|{{index .Actor.Attributes "exitCode"}}',
    )  # fmt: skip
    actions = told.splitlines()[-3:]
    assert actions == ["exec_create: sh|", "exec_start: sh|", "exec_die|9"]


def test_stats_without_a_stream(engine: Engine) -> None:
    """CTR-26: figures of the running one; a stopped one has none."""
    engine.cli("run", "-d", "--name", "busy", "-m", "64m", "busybox", "sh", "-c", "while :; do :; done")
    shown = engine.out("stats", "--no-stream", "--format", "{{.Name}}|{{.CPUPerc}}|{{.MemUsage}}|{{.PIDs}}|{{.NetIO}}")
    name, cpu, memory, pids, traffic = shown.split("|")
    assert name == "busy"
    assert float(cpu.rstrip("%")) > 0
    assert memory.endswith("/ 64MiB")
    assert int(pids) >= 1
    assert "B / " in traffic
    document = engine.json("/containers/busy/stats?stream=0&one-shot=1")
    assert document["memory_stats"]["limit"] == 64 << 20
    assert "eth0" in document["networks"]
    engine.cli("stop", "-t", "0", "busy")
    assert engine.json("/containers/busy/stats?stream=0")["memory_stats"] == {}


def test_top_shows_the_processes(engine: Engine) -> None:
    """CTR-25."""
    engine.cli("run", "-d", "--name", "host", "busybox", "sh", "-c", "sleep 123 & sleep 456")
    engine.wait_for(lambda: "sleep 456" in engine.out("top", "host"))
    shown = engine.out("top", "host")
    assert shown.splitlines()[0].split()[:2] == ["UID", "PID"]
    assert "sleep 123" in shown
    titles = engine.out("top", "host", "-o", "pid,comm").splitlines()[0].split()
    assert titles == ["PID", "COMMAND"]
    assert "PID" in engine.cli("top", "host", "-o", "comm", check=False).stderr
    engine.cli("stop", "-t", "0", "host")
    assert "is not running" in engine.cli("top", "host", check=False).stderr


def test_version_and_info(engine: Engine) -> None:
    """API: the client finds a server it can talk to, and counts."""
    assert json.loads(engine.out("version", "--format", "{{json .Server}}"))["Os"] == "linux"
    engine.cli("run", "-d", "busybox", "sleep", "1000")
    shown = json.loads(engine.out("info", "--format", "{{json .}}"))
    assert (shown["Containers"], shown["ContainersRunning"], shown["Images"]) == (1, 1, 1)
    assert shown["Driver"] == "overlay2"
    assert "native" in shown["Runtimes"]
    assert not shown.get("ServerErrors")


def test_disk_usage(engine: Engine) -> None:
    """`docker system df`."""
    write = "head -c 1000000 /dev/zero > /big; sleep 1000"
    engine.cli("run", "-d", "--name", "busy", "-v", "data:/data", "busybox", "sh", "-c", write)
    engine.cli("volume", "create", "idle")

    def rows() -> dict[str, str]:
        shown = engine.out("system", "df", "--format", "{{.Type}}|{{.TotalCount}}/{{.Active}}")
        return dict(line.split("|") for line in shown.splitlines())

    assert rows()["Images"] == "1/1"
    assert rows()["Containers"] == "1/1"
    assert rows()["Local Volumes"] == "2/1"
    assert "busy" in engine.out("system", "df", "-v")


def test_a_signal_to_the_client_reaches_the_container(engine: Engine) -> None:
    """CTR-11: the CLI proxies it; the exit code of the container is the CLI's own."""
    script = "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.05; done"
    client = subprocess.Popen(
        [tool("docker"), "run", "--rm", "busybox", "sh", "-c", script],
        env=engine.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert client.stdout is not None
    assert client.stdout.readline() == "ready\n"
    client.send_signal(signal.SIGINT)
    assert client.stdout.read() == "caught\n"
    assert client.wait(20) == 9


def test_a_client_that_dies_takes_nobody_along(engine: Engine) -> None:
    """CTR-10, EXE-11: an attached client is killed in the middle of the output; the container does not notice."""
    script = "i=0; while [ $i -lt 200000 ]; do echo line $i; i=$((i+1)); done; echo end"
    client = subprocess.Popen(
        [tool("docker"), "run", "--name", "talker", "busybox", "sh", "-c", script],
        env=engine.environment,
        stdout=subprocess.PIPE,
    )
    assert client.stdout is not None
    assert client.stdout.read(100)
    client.kill()
    client.wait()
    client.stdout.close()
    assert engine.out("wait", "talker") == "0"
    assert engine.out("logs", "--tail", "1", "talker") == "end"
    assert engine.out("logs", "talker").count("\n") == 200_000


def test_many_at_once(engine: Engine) -> None:
    """Eight clients run, attach to one, and follow one log at the same time; each sees everything."""
    engine.cli("run", "-d", "--name", "one", "-i", "busybox", "sh", "-c", "read go; seq 1000")
    command = [tool("docker"), "logs", "-f", "one"]
    followers = [subprocess.Popen(command, env=engine.environment, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    command = [tool("docker"), "run", "-i", "--rm", "busybox", "md5sum"]
    runners = [
        subprocess.Popen(command, env=engine.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(8)
    ]
    engine.cli("attach", "one", data="go\n")
    sums = {runner.communicate("same input\n", timeout=60)[0] for runner in runners}
    assert len(sums) == 1
    wanted = "".join(f"{n}\n" for n in range(1, 1001))
    assert [follower.communicate(timeout=60)[0] for follower in followers] == [wanted] * 4
    engine.wait_for(lambda: engine.out("ps", "-q") == "")
