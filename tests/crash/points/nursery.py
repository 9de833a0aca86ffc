"""Engines with points out of one process that has imported everything.

A start of Python with all that an engine imports takes most of what a death costs; a fork of it a twentieth. The
program (`python -m tests.crash.points.nursery`) reads a line of JSON for each engine, forks it, and answers with its
pid. Which files the engine opens, which processes it starts and how it dies is as ever.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO


class Forked:
    """An engine that somebody else forked, with what tests use of a Popen. How it ended is not known: 0."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        try:
            self._fd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._fd = -1

    def poll(self) -> int | None:
        if self._fd >= 0 and select.select([self._fd], [], [], 0)[0]:
            os.close(self._fd)
            self._fd = -1
        return None if self._fd >= 0 else 0

    def wait(self, timeout_s: float = 60.0) -> int:
        deadline = time.monotonic() + timeout_s
        while self.poll() is None:
            if not select.select([self._fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise subprocess.TimeoutExpired(f"engine {self.pid}", timeout_s)
        return 0

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._fd, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Nursery:
    """The test's end."""

    def __init__(self, namespace: str, environment: Mapping[str, str]) -> None:
        command = ["nsenter", f"--net=/run/netns/{namespace}", sys.executable, "-m", __name__]
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def fork(self, arguments: Sequence[str], log: Path) -> Forked:
        """An engine with these arguments, which writes to `log`."""
        wish, told = self._process.stdin, self._process.stdout
        assert wish is not None and told is not None
        wish.write(json.dumps([list(arguments), str(log)]) + "\n")
        wish.flush()
        return Forked(int(told.readline()))

    def close(self) -> None:
        self._process.communicate(timeout=30)


def serve(wishes: IO[str]) -> None:
    """Until nobody wishes for anything any more. What has ended is reaped by the kernel."""
    from engine.__main__ import main  # here: the test's end needs none of it
    from tests.crash.points.control import VARIABLE, Control
    from tests.crash.points.engine import with_points

    with_points(Control(os.environ[VARIABLE]))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for wish in wishes:
        arguments, log = json.loads(wish)
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _write_to(log)
            os._exit(main(arguments))
        print(pid, flush=True)


def _write_to(log: str) -> None:
    nothing, file = os.open(os.devnull, os.O_RDONLY), os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for fd, at in ((nothing, 0), (file, 1), (file, 2)):
        os.dup2(fd, at)
    os.close(nothing)
    os.close(file)


if __name__ == "__main__":
    serve(sys.stdin)
