"""`docker run`, `docker exec` and their exit codes, as the person at the command line sees them."""

from __future__ import annotations

import pytest

from tests.support.engine import Engine

pytestmark = pytest.mark.root


def test_run_rm_echoes_and_leaves_no_container(engine: Engine) -> None:
    """CTR-14, CTR-16: the output, the exit, the removal."""
    done = engine.cli("run", "--rm", "busybox", "echo", "hi")
    assert (done.stdout, done.stderr) == ("hi\n", "")
    assert engine.out("ps", "-aq") == ""


def test_what_is_piped_in_comes_out_and_the_end_of_input_ends_it(engine: Engine) -> None:
    """EXE-03: half-close reaches the process as end of file."""
    assert engine.out("run", "-i", "--rm", "busybox", "cat", data="x\n") == "x"
    text = "a line of text\n" * 200_000
    assert engine.cli("run", "-i", "--rm", "busybox", "cat", data=text).stdout == text


def test_the_two_streams_stay_apart(engine: Engine) -> None:
    """EXE-02."""
    done = engine.cli("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


@pytest.mark.parametrize(
    ("command", "code"),
    [(("true",), 0), (("sh", "-c", "exit 1"), 1), (("sh", "-c", "exit 42"), 42), (("sh", "-c", "kill -9 $$"), 137)],
)
def test_run_exits_as_the_command_does(engine: Engine, command: tuple[str, ...], code: int) -> None:
    """CTR-09. Nothing kills pid 1 from inside, so the shell's own -9 is sent by its child's parent below."""
    if code == 137:
        command = ("sh", "-c", "sh -c 'kill -9 $$'; exit $?")
    assert engine.cli("run", "--rm", "busybox", *command, check=False).returncode == code


def test_run_of_a_missing_command_exits_127(engine: Engine) -> None:
    """CTR-08, CTR-09: the client is told why, and `--rm` still removes it (CTR-16)."""
    done = engine.cli("run", "--rm", "busybox", "nosuchcommand", check=False)
    assert done.returncode == 127
    assert "nosuchcommand" in done.stderr
    assert "executable file not found in $PATH" in done.stderr
    assert engine.out("ps", "-aq") == ""


@pytest.mark.parametrize("command", ["/etc/passwd", "/etc"])
def test_run_of_something_not_executable_exits_126(engine: Engine, command: str) -> None:
    """CTR-09."""
    done = engine.cli("run", "--rm", "busybox", command, check=False)
    assert done.returncode == 126
    assert "permission denied" in done.stderr or "is a directory" in done.stderr


def test_a_failed_start_stays_created_with_its_error(engine: Engine) -> None:
    """CTR-08: State.Error is kept, the exit code too."""
    engine.cli("run", "--name", "broken", "busybox", "nosuchcommand", check=False)
    state = engine.json("/containers/broken/json")["State"]
    assert state["Status"] == "created"
    assert state["ExitCode"] == 127
    assert "nosuchcommand" in state["Error"]


@pytest.mark.parametrize(("signal", "code"), [("KILL", 137), ("TERM", 143)])
def test_a_killed_container_tells_by_which_signal(engine: Engine, signal: str, code: int) -> None:
    """CTR-09, CTR-11. A pid 1 has no default actions, so the signal must find one: `trap` gives TERM its meaning."""
    script = "trap 'exit 143' TERM; echo ready; while :; do sleep 0.05; done"
    engine.cli("run", "-d", "--name", "victim", "busybox", "sh", "-c", script)
    engine.wait_for(lambda: "ready" in engine.out("logs", "victim"))
    engine.cli("kill", "-s", signal, "victim")
    assert engine.out("wait", "victim") == str(code)
    assert engine.json("/containers/victim/json")["State"]["ExitCode"] == code


def test_init_forwards_signals_and_reaps(engine: Engine) -> None:
    """CTR-37: pid 1 is docker-init, a plain `sleep` dies of SIGTERM with 143."""
    engine.cli("run", "-d", "--init", "--name", "kept", "busybox", "sleep", "1000")
    assert "init" in engine.out("exec", "kept", "cat", "/proc/1/cmdline").replace("\0", " ")
    assert engine.out("exec", "kept", "stat", "-c", "%F", "/sbin/docker-init") == "regular file"
    engine.cli("stop", "-t", "20", "kept", timeout_s=15)
    assert engine.out("inspect", "-f", "{{.State.ExitCode}}", "kept") == "143"


@pytest.mark.parametrize(("command", "code"), [("exit 0", 0), ("exit 1", 1), ("kill -9 $$", 137), ("kill $$", 143)])
def test_exec_exits_as_its_command_does(engine: Engine, command: str, code: int) -> None:
    """EXE-08, EXE-09."""
    engine.cli("run", "-d", "--name", "host", "busybox", "sleep", "1000")
    assert engine.cli("exec", "host", "sh", "-c", command, check=False).returncode == code


def test_exec_of_what_is_not_there_or_not_executable(engine: Engine) -> None:
    """EXE-09: 127 and 126, with a reason in the stream."""
    engine.cli("run", "-d", "--name", "host", "busybox", "sleep", "1000")
    missing = engine.cli("exec", "host", "nosuchcommand", check=False)
    assert missing.returncode == 127
    assert "nosuchcommand" in missing.stdout + missing.stderr
    assert engine.cli("exec", "host", "/etc/passwd", check=False).returncode == 126
    assert engine.cli("exec", "-d", "host", "nosuchcommand", check=False).returncode != 0


def test_exec_takes_input_user_directory_and_environment(engine: Engine) -> None:
    """EXE-06."""
    engine.cli("run", "-d", "--name", "host", "-e", "FROM=run", "busybox", "sleep", "1000")
    assert engine.out("exec", "-i", "host", "wc", "-l", data="1\n2\n3\n") == "3"
    shown = engine.out(
        "exec",
        "-u",
        "65534:5",
        "-w",
        "/tmp",
        "-e",
        "EXTRA=1",
        "host",
        "sh",
        "-c",
        "id -u; id -g; pwd; echo $FROM $EXTRA",
    )
    assert shown.split() == ["65534", "5", "/tmp", "run", "1"]
    unknown = engine.cli("exec", "-u", "nosuchuser", "host", "true", check=False)
    assert unknown.returncode != 0
    assert "unable to find user nosuchuser" in unknown.stderr + unknown.stdout


def test_exec_in_the_background_runs_on(engine: Engine) -> None:
    """EXE-07: -d answers at once."""
    engine.cli("run", "-d", "--name", "host", "busybox", "sleep", "1000")
    engine.cli("exec", "-d", "host", "sh", "-c", "echo done > /tmp/mark; sleep 1000")
    engine.wait_for(lambda: engine.out("exec", "host", "sh", "-c", "cat /tmp/mark 2>/dev/null || true") == "done")
    assert len(engine.json("/containers/host/json")["ExecIDs"]) >= 1


def test_exec_needs_a_running_container(engine: Engine) -> None:
    """EXE-06: 409 for one that is created, exited or paused."""
    engine.cli("create", "--name", "idle", "busybox", "true")
    assert "is not running" in engine.cli("exec", "idle", "true", check=False).stderr
    engine.cli("run", "-d", "--name", "frozen", "busybox", "sleep", "1000")
    engine.cli("pause", "frozen")
    status, body = engine.request("POST", "/containers/frozen/exec", {"Cmd": ["true"]})
    assert status == 409
    assert b"is paused, unpause the container before exec" in body


def test_attach_shows_what_comes_from_now_on(engine: Engine) -> None:
    """EXE-01: a container that is attached to ends the attach with its own exit code."""
    script = "while [ ! -e /tmp/go ]; do sleep 0.02; done; echo late; exit 7"
    engine.cli("run", "-d", "--name", "slow", "busybox", "sh", "-c", script)
    engine.cli("exec", "-d", "slow", "sh", "-c", "sleep 0.5; touch /tmp/go")
    done = engine.cli("attach", "--no-stdin", "slow", check=False)
    assert (done.stdout, done.returncode) == ("late\n", 7)


def test_create_start_attached_and_start_again(engine: Engine) -> None:
    """CTR-08, EXE-01: `start -a` shows the output of each run."""
    engine.cli("create", "--name", "twice", "busybox", "echo", "again")
    assert engine.out("start", "-a", "twice") == "again"
    assert engine.out("start", "-a", "twice") == "again"
    assert engine.out("logs", "twice") == "again\nagain"


def test_a_detached_container_is_told_by_its_id(engine: Engine) -> None:
    """CTR-04: full id, unique beginning and name all lead to it."""
    container_id = engine.out("run", "-d", "--name", "found", "busybox", "sleep", "1000")
    assert len(container_id) == 64
    for reference in (container_id, container_id[:8], "found", "/found"):
        assert engine.out("inspect", "-f", "{{.Id}}", reference) == container_id
