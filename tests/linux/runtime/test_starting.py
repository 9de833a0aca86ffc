"""The start of a supervisor, and who dies in the middle of it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.drivers.linux.runtime.supervisor import __main__ as program
from engine.drivers.linux.runtime.supervisor import wire

pytestmark = pytest.mark.root
PATIENCE_S = 20.0


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def test_a_supervisor_lives_on_when_whoever_started_it_is_killed(tmp_path: Path) -> None:
    """The next engine would find its lock, and no supervisor behind it."""
    command = [sys.executable, "-S", "-E", "-I", str(program.__file__), str(tmp_path / "exec"), str(tmp_path / "data")]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as starter:
        wait_for(tmp_path / "exec" / "supervisor.lock")
        starter.send_signal(signal.SIGKILL)
    wait_for(tmp_path / "exec" / "supervisor.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as engine:
        engine.settimeout(PATIENCE_S)
        deadline = time.monotonic() + PATIENCE_S
        while engine.connect_ex(str(tmp_path / "exec" / "supervisor.sock")):
            assert time.monotonic() < deadline, (tmp_path / "exec" / "supervisor.log").read_text()
            time.sleep(0.01)
        for verb in ("hello", "shutdown"):
            wire.send(engine, (1, verb, {}))
            answer = wire.receive(engine)
            assert answer is not None, (tmp_path / "exec" / "supervisor.log").read_text()
            assert answer[0][1], answer
    assert (tmp_path / "exec" / "supervisor.log").read_text() == ""
