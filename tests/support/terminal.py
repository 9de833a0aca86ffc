"""A person at a terminal: the real CLI under a pseudo terminal that can be typed at, read and resized."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Mapping

DEADLINE_S = 20.0
MEANWHILE_S = 0.5
DETACH = "\x10\x11"
"""ctrl-p, ctrl-q."""


class Terminal:
    """seen: everything shown so far."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self._process = process
        self._master = master
        self._read = 0
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def expect(self, text: str, *, meanwhile: Callable[[], None] | None = None) -> str:
        """Read until the text comes up after what was expected before; what stood before it. meanwhile: what is done
        twice a second until then."""
        deadline = time.monotonic() + DEADLINE_S
        while (found := self.seen.find(text, self._read)) < 0:
            if meanwhile is not None and time.monotonic() < deadline and not self._readable(MEANWHILE_S):
                meanwhile()
            elif not self._more(deadline):
                raise AssertionError(f"the terminal closed before {text!r}: {self.seen!r}")
        before = self.seen[self._read : found]
        self._read = found + len(text)
        return before

    def resize(self, rows: int, columns: int) -> None:
        """The kernel tells the CLI with SIGWINCH: the terminal is its controlling one."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def tell_size(self) -> None:
        """A SIGWINCH more: the CLI listens for them some time after what it runs has begun."""
        self._process.send_signal(signal.SIGWINCH)

    def ended(self) -> int:
        """Wait for the CLI's end; its exit status."""
        deadline = time.monotonic() + DEADLINE_S
        while self._more(deadline):
            pass
        return self._process.wait(DEADLINE_S)

    def _readable(self, timeout_s: float) -> bool:
        return bool(select.select([self._master], [], [], timeout_s)[0])

    def _more(self, deadline: float) -> bool:
        if not self._readable(max(0.0, deadline - time.monotonic())):
            raise AssertionError(f"nothing more came: {self.seen!r}")
        try:
            chunk = os.read(self._master, 65536)
        except OSError:  # EIO: the last holder of the other end is gone
            return False
        self.seen += chunk.decode(errors="replace")
        return bool(chunk)


@contextlib.contextmanager
def terminal(*command: str, env: Mapping[str, str], rows: int = 24, columns: int = 80) -> Iterator[Terminal]:
    """Run a command at a terminal of its own."""
    master, slave = os.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def take_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env=dict(env), start_new_session=True,
        preexec_fn=take_terminal,
    )  # fmt: skip
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()
        os.close(master)
