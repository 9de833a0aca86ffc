"""Exec through the raw API: every refusal, every field, and how long one is kept."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import pytest

from tests.support.engine import Engine
from tests.support.hijacked import hijacked

pytestmark = pytest.mark.root


@pytest.fixture
def host(engine: Engine) -> str:
    """The id of a container that sleeps."""
    own = ("-u", "1000", "-w", "/tmp", "-e", "A=1")
    return engine.out("run", "-d", "--name", "host", *own, "busybox", "sleep", "1000")


def refused(answer: tuple[int, bytes]) -> tuple[int, str]:
    status, body = answer
    return status, str(json.loads(body)["message"])


def create(engine: Engine, body: dict[str, Any], name: str = "host") -> tuple[int, str]:
    return refused(engine.request("POST", f"/containers/{name}/exec", body))


def test_what_cannot_be_created_says_why(engine: Engine, host: str) -> None:
    """EXE-06: no Cmd 400, unknown user 400, unknown container 404, paused, restarting or stopped 409."""
    assert create(engine, {"Cmd": []}) == (400, "No exec command specified")
    status, words = create(engine, {"Cmd": ["true"], "User": "nobody-here"})
    assert (status, words) == (400, "unable to find user nobody-here: no matching entries in passwd file")
    assert create(engine, {"Cmd": ["true"], "Env": ["=x"]}) == (400, "invalid environment variable: =x")
    assert create(engine, {"Cmd": ["true"]}, "stranger") == (404, "No such container: stranger")
    engine.cli("pause", "host")
    words = "Container host is paused, unpause the container before exec"
    assert create(engine, {"Cmd": ["true"]}) == (409, words)
    engine.cli("unpause", "host")
    engine.cli("create", "--name", "still", "busybox", "true")
    still = engine.json("/containers/still/json")["Id"]
    assert create(engine, {"Cmd": ["true"]}, "still") == (409, f"container {still} is not running")
    assert engine.json("/containers/host/json")["ExecIDs"] is None


def test_inspect_tells_every_field(engine: Engine, host: str) -> None:
    """EXE-08: before, while and after it runs; ExitCode is null until there is one; it is kept after its end."""
    fields = {"AttachStdin": True, "AttachStdout": True, "Privileged": True, "DetachKeys": "ctrl-a"}
    exec_id = engine.create_exec("host", "cat", **fields)
    shown = engine.json(f"/exec/{exec_id}/json")
    assert shown == {
        "ID": exec_id, "Running": False, "ExitCode": None, "OpenStdin": True, "OpenStdout": True, "OpenStderr": False,
        "CanRemove": False, "ContainerID": host, "DetachKeys": "ctrl-a", "Pid": 0,
        "ProcessConfig": {"tty": False, "entrypoint": "cat", "arguments": [], "privileged": True, "user": "1000"},
    }  # fmt: skip
    with hijacked(engine, f"/exec/{exec_id}/start", {}) as client:
        assert (client.status, client.headers["content-type"]) == (101, "application/vnd.docker.multiplexed-stream")
        assert "api-version" in client.headers
        client.send(b"hello\n")
        client.read_until(b"hello\n")
        running = engine.json(f"/exec/{exec_id}/json")
        assert (running["Running"], running["ExitCode"]) == (True, None)
        assert engine.wait_for(lambda: engine.json(f"/exec/{exec_id}/json")["Pid"]) > 0
        assert engine.json("/containers/host/json")["ExecIDs"] == [exec_id]
        client.close_input()
        client.read_all()
    ended = engine.wait_for(lambda: not (now := engine.json(f"/exec/{exec_id}/json"))["Running"] and now)
    assert (ended["ExitCode"], ended["CanRemove"]) == (0, False)
    assert engine.json("/containers/host/json")["ExecIDs"] is None
    engine.restart()
    assert engine.json(f"/exec/{exec_id}/json")["ExitCode"] == 0
    engine.cli("rm", "-f", "host")
    assert refused(engine.request("GET", f"/exec/{exec_id}/json"))[0] == 404
    assert refused(engine.request("POST", f"/exec/{exec_id}/start", {"Detach": True}))[0] == 404


def test_a_start_happens_once(engine: Engine, host: str) -> None:
    """EXE-07: already running and already ran 409, unknown 404; a detached one answers at once with nothing."""
    exec_id = engine.create_exec("host", "sleep", "1000")
    assert engine.request("POST", f"/exec/{exec_id}/start", {"Detach": True}) == (200, b"")
    running = (409, f"exec command {exec_id} is already running")
    assert refused(engine.request("POST", f"/exec/{exec_id}/start", {"Detach": True})) == running
    with hijacked(engine, f"/exec/{exec_id}/start", {}) as client:
        assert client.status == 409
    done = engine.create_exec("host", "true", AttachStdout=True)
    with hijacked(engine, f"/exec/{done}/start", {}) as client:
        client.read_all()
    engine.wait_for(lambda: engine.json(f"/exec/{done}/json")["ExitCode"] == 0)
    ran = (409, f"exec command {done} has already run")
    assert refused(engine.request("POST", f"/exec/{done}/start", {"Detach": True})) == ran
    status, words = refused(engine.request("POST", "/exec/nothing/start", {"Detach": True}))
    assert (status, words) == (404, "No such exec instance: nothing")


def test_a_command_that_is_not_there(engine: Engine, host: str) -> None:
    """EXE-07, EXE-09: the error is in the stream, the code in inspect: 127 for nothing there, 126 for no program; a
    detached one is 400."""
    for command, code in (("nothing-here", 127), ("/etc", 126)):
        exec_id = engine.create_exec("host", command, AttachStdout=True, AttachStderr=True)
        with hijacked(engine, f"/exec/{exec_id}/start", {}) as client:
            assert client.status == 101
            assert command in b"".join(client.read_streams().values()).decode()
        assert engine.json(f"/exec/{exec_id}/json")["ExitCode"] == code
    exec_id = engine.create_exec("host", "nothing-here")
    status, words = refused(engine.request("POST", f"/exec/{exec_id}/start", {"Detach": True}))
    assert (status, "nothing-here" in words) == (400, True)


def test_an_exec_makes_no_working_directory(engine: Engine, host: str) -> None:
    """EXE-06, EXE-09: a container's own is made at its start; one that an exec asks for must be there."""
    refused = engine.cli("exec", "-w", "/made/by/nobody", "-u", "0", host, "pwd", check=False)
    assert (refused.returncode, 'chdir to cwd ("/made/by/nobody")' in refused.stdout + refused.stderr) == (127, True)
    assert engine.cli("exec", host, "ls", "/made", check=False).returncode == 1


def test_an_exec_inherits_and_overrides(engine: Engine, host: str) -> None:
    """EXE-06: user, working directory and environment of the container, or its own; Privileged has all of them."""
    show = ("sh", "-c", "id -u; pwd; echo $A $B; grep CapEff /proc/self/status")

    def told(**fields: Any) -> list[str]:
        exec_id = engine.create_exec("host", *show, AttachStdout=True, **fields)
        with hijacked(engine, f"/exec/{exec_id}/start", {}) as client:
            return client.read_streams()[1].decode().split("\n")

    assert told()[:3] == ["1000", "/tmp", "1"]
    assert told(User="0", WorkingDir="/etc", Env=["B=2", "A=3"])[:3] == ["0", "/etc", "3 2"]
    plain, privileged = told(User="0")[3], told(User="0", Privileged=True)[3]
    assert int(plain.split()[1], 16) < int(privileged.split()[1], 16)


def test_the_size_of_a_terminal(engine: Engine, host: str) -> None:
    """EXE-10, CTR-36: by ConsoleSize of create or start, by resize once it runs; before the start 400, bad ones 400;
    clients before 1.42 have no ConsoleSize."""
    size = ("sh", "-c", "read x; stty size")
    for prefix, at_create, at_start, wanted in (
        ("", [30, 90], None, b"30 90"),
        ("", [30, 90], [40, 99], b"40 99"),
        ("/v1.41", [30, 90], None, b"stty: standard input"),
    ):
        body = {"Cmd": size, "Tty": True, "AttachStdin": True, "AttachStdout": True, "ConsoleSize": at_create}
        exec_id = json.loads(engine.request("POST", f"{prefix}/containers/host/exec", body)[1])["Id"]
        start = {"Tty": True, "ConsoleSize": at_start}
        with hijacked(engine, f"{prefix}/exec/{exec_id}/start", start) as client:
            client.send(b"\r")
            assert wanted in client.read_all()
    exec_id = engine.create_exec("host", *size, Tty=True, AttachStdin=True, AttachStdout=True)
    assert engine.request("POST", f"/exec/{exec_id}/resize?h=1&w=2")[0] == 400
    with hijacked(engine, f"/exec/{exec_id}/start", {"Tty": True}) as client:
        engine.wait_for(lambda: engine.json(f"/exec/{exec_id}/json")["Running"])
        assert engine.request("POST", f"/exec/{exec_id}/resize?h=50&w=101")[0] == 200
        client.send(b"\r")
        assert b"50 101" in client.read_all()
    for query, words in (
        ("h=x&w=1", 'invalid resize height "x": invalid syntax'),
        ("h=1", 'invalid resize width "": invalid syntax'),
        ("h=1&w=-1", 'invalid resize width "-1": value out of range'),
        ("h=99999999999&w=1", 'invalid resize height "99999999999": value out of range'),
    ):
        assert refused(engine.request("POST", f"/exec/{exec_id}/resize?{query}")) == (400, words)
        assert refused(engine.request("POST", f"/containers/host/resize?{query}")) == (400, words)
    engine.cli("create", "--name", "still", "busybox", "true")
    assert engine.request("POST", "/containers/still/resize?h=1&w=1")[0] == 409


def test_the_size_given_at_create_is_there_from_the_start(engine: Engine) -> None:
    """CTR-36: HostConfig.ConsoleSize, from 1.42 on."""
    body = {"Image": "busybox", "Tty": True, "Cmd": ["stty", "size"], "HostConfig": {"ConsoleSize": [33, 77]}}
    for prefix, wanted in (("", "33 77"), ("/v1.41", "stty: standard input")):
        status, answer = engine.request("POST", f"{prefix}/containers/create", body)
        assert status == 201, answer
        container = json.loads(answer)["Id"]
        engine.cli("start", container)
        engine.cli("wait", container)
        assert engine.out("logs", container).strip() == wanted


def test_who_has_read_to_the_end_finds_the_exit_code(engine: Engine, host: str) -> None:
    """EXE-08: the CLI asks for it as soon as the stream ends; also of a process that says nothing."""
    for number in range(12):
        exec_id = engine.create_exec("host", "sh", "-c", f"echo out; exit {number}", AttachStdout=True)
        with hijacked(engine, f"/exec/{exec_id}/start", {}) as client:
            assert client.read_streams() == {1: b"out\n"}
        shown = engine.json(f"/exec/{exec_id}/json")
        assert (shown["Running"], shown["ExitCode"]) == (False, number)


def test_a_process_that_closes_its_output_and_runs_on_is_told_as_running(engine: Engine, host: str) -> None:
    """EXE-08: the end of the output is not the end of the process."""
    exec_id = engine.create_exec("host", "sh", "-c", "exec >&- 2>&-; sleep 100", AttachStdout=True, AttachStderr=True)
    with hijacked(engine, f"/exec/{exec_id}/start", {}) as client:
        assert client.read_all() == b""
        shown = engine.json(f"/exec/{exec_id}/json")
        assert (shown["Running"], shown["ExitCode"]) == (True, None)


def begun(engine: Engine, command: list[str]) -> tuple[str, socket.socket]:
    """An exec that is asked for, and a client of it that has read nothing yet."""
    created = engine.request("POST", "/containers/host/exec", {"Cmd": command, "AttachStdout": True})
    exec_id = json.loads(created[1])["Id"]
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(10)
    client.connect(str(engine.socket))
    body = b'{"Detach":false,"Tty":false}'
    lines = [f"POST /v1.41/exec/{exec_id}/start HTTP/1.1", "Host: d", "Content-Type: application/json"]
    lines += ["Connection: Upgrade", "Upgrade: tcp", f"Content-Length: {len(body)}", "", ""]
    client.sendall("\r\n".join(lines).encode() + body)
    return exec_id, client


@pytest.mark.parametrize(
    ("command", "output"),
    [(["sh", "-c", "echo out; echo err >&2; sleep 1"], b"out\n"), (["nosuchcommand"], b"executable file not found")],
)
def test_output_comes_behind_the_head_and_not_with_it(
    engine: Engine, host: str, command: list[str], output: bytes
) -> None:
    """EXE-07: docker-py reads the head with a buffer and what follows without; a busy machine wakes it late."""
    _, client = begun(engine, command)
    with client:
        time.sleep(0.4)
        first = client.recv(65536)
        assert first.endswith(b"\r\n\r\n") and output not in first
        told = b""
        while output not in told:
            told += client.recv(65536)


def test_a_client_that_reads_nothing_holds_nobody_up(engine: Engine, host: str) -> None:
    exec_id, client = begun(engine, ["echo", "out"])
    with client:
        engine.wait_for(lambda: engine.json(f"/exec/{exec_id}/json")["ExitCode"] == 0)
