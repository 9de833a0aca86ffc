"""`docker run -it` and `docker exec -it` from a real terminal."""

from __future__ import annotations

import contextlib
import socket

import pytest

from tests.support.engine import Engine
from tests.support.registry import tool
from tests.support.terminal import DETACH, Terminal, terminal

pytestmark = pytest.mark.root
PROMPT = "# "


def test_a_shell_at_a_terminal(engine: Engine) -> None:
    """EXE-01: a prompt, an echo, a command's output, the exit code of the shell."""
    with terminal(tool("docker"), "run", "-it", "--rm", "busybox", "sh", env=engine.environment) as shell:
        shell.expect(PROMPT)
        shell.type("test -t 0 && echo is a $((6*7)) terminal\n")
        shell.expect("is a 42 terminal\r\n")
        shell.type("echo $TERM; exit 3\n")
        shell.expect("xterm")
        assert shell.ended() == 3
    assert engine.out("ps", "-aq") == ""


def test_the_size_of_the_terminal_follows_the_window(engine: Engine) -> None:
    """CTR-36: at the start, and with every SIGWINCH."""
    with terminal(
        tool("docker"), "run", "-it", "--rm", "busybox", "sh", env=engine.environment, rows=33, columns=91
    ) as shell:
        shell.expect(PROMPT)
        await_size(shell, "33 91")
        shell.resize(44, 132)
        await_size(shell, "44 132")
        shell.type("exit\n")
        assert shell.ended() == 0


def await_size(shell: Terminal, wanted: str) -> None:
    """The CLI passes sizes on in its own time: ask until it has."""
    shell.type(f"until [ \"$(stty size)\" = '{wanted}' ]; do sleep 0.02; done; echo si'ze' is right\n")
    shell.expect("size is right\r\n", meanwhile=shell.tell_size)


def test_an_interrupt_reaches_the_foreground(engine: Engine) -> None:
    """EXE-01: ctrl-c is the terminal's, not the client's."""
    with terminal(tool("docker"), "run", "-it", "--rm", "busybox", "sh", env=engine.environment) as shell:
        shell.expect(PROMPT)
        shell.type("sleep 1000\n")
        container_id = engine.out("ps", "-q")
        engine.wait_for(lambda: "sleep 1000" in engine.out("top", container_id))
        shell.type("\x03")
        shell.expect(PROMPT)
        shell.type("exit 5\n")
        assert shell.ended() == 5


def test_detach_and_attach_again(engine: Engine) -> None:
    """EXE-04: ctrl-p ctrl-q leaves the shell running; a later attach meets the same shell."""
    with terminal(tool("docker"), "run", "-it", "--name", "kept", "busybox", "sh", env=engine.environment) as shell:
        shell.expect(PROMPT)
        shell.type("MARK=still; echo s'et'\n")
        shell.expect("set\r\n")
        shell.type(DETACH)
        assert shell.ended() == 0
    assert engine.out("inspect", "-f", "{{.State.Running}}", "kept") == "true"
    with terminal(tool("docker"), "attach", "kept", env=engine.environment) as shell:
        shell.type("echo $MARK he're'\n")
        shell.expect("still here\r\n")
        shell.type("exit 9\n")
        assert shell.ended() == 9


def test_detach_keys_can_be_chosen(engine: Engine) -> None:
    """EXE-04: and ctrl-p ctrl-q are then only keys."""
    with terminal(
        tool("docker"), "run", "-it", "--detach-keys", "ctrl-x,x", "--name", "kept", "busybox", "cat",
        env=engine.environment,
    ) as shell:  # fmt: skip
        engine.wait_for(lambda: engine.out("ps", "-q"))
        shell.type("hello\n")
        shell.expect("hello\r\n")
        shell.type("\x18x")
        assert shell.ended() == 0
    assert engine.out("ps", "--format", "{{.Names}}") == "kept"


def test_keys_that_no_client_holds_back_detach_too(engine: Engine) -> None:
    """EXE-04: the CLI looks for the keys itself; a client that does not is detached by the engine."""
    engine.cli("run", "-dit", "--name", "kept", "busybox", "cat")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as client:
        client.settimeout(20)
        client.connect(str(engine.socket))
        client.sendall(
            b"POST /containers/kept/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: x\r\n"
            b"Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n"
        )
        assert client.recv(1000).startswith(b"HTTP/1.1 101 UPGRADED")
        client.sendall(DETACH.encode())
        while client.recv(1000):
            pass
    assert engine.out("inspect", "-f", "{{.State.Running}}", "kept") == "true"


def test_exec_at_a_terminal(engine: Engine) -> None:
    """EXE-06, EXE-10: exec -it has its own terminal, with its own size."""
    engine.cli("run", "-d", "--name", "host", "busybox", "sleep", "1000")
    with terminal(tool("docker"), "exec", "-it", "host", "sh", env=engine.environment, rows=25, columns=77) as shell:
        shell.expect(PROMPT)
        await_size(shell, "25 77")
        shell.resize(30, 100)
        await_size(shell, "30 100")
        shell.type("tty; exit 4\n")
        shell.expect("/dev/pts/")
        assert shell.ended() == 4
    assert engine.out("inspect", "-f", "{{.State.Running}}", "host") == "true"


def test_detach_from_an_exec(engine: Engine) -> None:
    """EXE-04: the process of the exec runs on."""
    engine.cli("run", "-d", "--name", "host", "busybox", "sleep", "1000")
    with terminal(
        tool("docker"), "exec", "-it", "host", "sh", "-c", "echo up; sleep 777", env=engine.environment
    ) as shell:
        shell.expect("up")
        shell.type(DETACH)
        shell.ended()
        assert "read escape sequence" in shell.seen
    assert "sleep 777" in engine.out("top", "host")


def test_logs_of_a_terminal_are_its_bytes(engine: Engine) -> None:
    """CTR-27: raw, with the terminal's carriage returns."""
    engine.cli("run", "-t", "--name", "raw", "busybox", "sh", "-c", "echo one; echo two")
    assert engine.request("GET", "/containers/raw/logs?stdout=1&stderr=1")[1] == b"one\r\ntwo\r\n"
