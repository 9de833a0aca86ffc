"""A process that the supervisor holds: its pid, its descriptors, what becomes of them.

Owns: pipes made before a start, duplicates kept for a next copier. Refuses to know: the loop.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import termios

from . import child
from .logs import FILES, SERVERS
from .logs.files import open_log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .engines import Connection
    from .foreign import Bundle


class Process:
    """The container's first process (exec_id "") or an exec. answer: who waits for the start. fds: our ends of its
    pipes, by name. master: of its terminal, or -1. log_fd: the log's file or the connection to its server, until a
    copier has it. spool_fd: what its server has not taken yet (logs/spool.py)."""

    __slots__ = ("answer", "builders", "bundle", "entry", "exec_id", "fds", "filter", "group", "id", "kills_group",
                 "log_fd", "master", "pid", "ready", "report", "run", "shape", "spool_fd", "started",
                 "user")  # fmt: skip

    def __init__(self, container_id: str, exec_id: str, run: int, shape: dict[str, Any]) -> None:
        self.id, self.exec_id, self.run, self.shape = container_id, exec_id, run, shape
        self.pid = 0
        self.bundle: Bundle | None = None
        """Set when a foreign runtime runs it."""
        self.report: socket.socket | None = None
        self.answer: tuple[Connection, int] | None = None
        self.ready = self.started = False
        self.master = self.log_fd = self.spool_fd = -1
        self.fds: dict[str, int] = {}
        self.group: dict[str, Any] = {}
        self.kills_group = False
        self.entry: dict[str, Any] = {}
        """What its plan said that matters to who enters it later (ahead.py)."""
        self.filter: dict[str, Any] = {}
        """What its plan said of its seccomp filter."""
        self.builders: tuple[int, ...] = ()
        """Who makes its tree, until then."""
        self.user: dict[str, Any] | None = None
        """Its user namespace, as plans have it."""

    @property
    def key(self) -> tuple[str, str]:
        return self.id, self.exec_id

    @property
    def run_key(self) -> tuple[str, str, int]:
        return self.id, self.exec_id, self.run

    @property
    def can_be_entered(self) -> bool:
        """Whether children of ours run its execs, and may come now."""
        return self.started and self.bundle is None

    def take_log(self, fds: list[int]) -> int:
        """Keep the connection to the log's server, which comes last when there is one; the network namespace, or -1."""
        if self.shape["log"].get("handed"):
            self.log_fd = os.dup(fds[-1])
            fds = fds[:-1]
        return fds[0] if fds else -1

    def open_stdio(self, null: int, theirs: list[int], uid: int = 0) -> child.Stdio:
        """The log (so that one that cannot be opened fails the start) and the pipes; the child's ends also go to
        `theirs`, to be closed after the fork. uid: the user in the container, who may open /dev/stdout by its name."""
        if self.shape["log"]["driver"] in FILES:
            self.log_fd = open_log(self.shape["log"]["path"])
        if self.shape["tty"]:
            return child.Stdio(null, null, null)
        ends = {}
        for name in ("stdout", "stderr"):
            self.fds[name], ends[name] = os.pipe2(os.O_CLOEXEC)
            theirs.append(ends[name])
        stdin = null
        if self.shape["open_stdin"]:
            stdin, self.fds["stdin"] = os.pipe2(os.O_CLOEXEC)
            theirs.append(stdin)
        uid = self._on_host(uid)
        for fd in theirs if uid else ():
            os.fchown(fd, uid, -1)
        return child.Stdio(stdin, ends["stdout"], ends["stderr"])

    def _on_host(self, uid: int) -> int:
        for inside, outside, size in self.user["uids"] if self.user else ():
            if inside <= uid < inside + size:
                return int(outside + uid - inside)
        return uid

    def stream(self) -> tuple[dict[str, Any], tuple[int, ...]]:
        """What a copier needs: the shape, and duplicates of stdout, stderr, stdin and the log, as far as there are."""
        shape = self.shape
        if shape["tty"]:
            names = [self.master]
            if shape["open_stdin"] and "stdin" not in self.fds:
                self.fds["stdin"] = os.dup(self.master)
        else:
            names = [self.fds["stdout"], self.fds["stderr"]]
        if "stdin" in self.fds:
            names.append(self.fds["stdin"])
        fds = [os.dup(fd) for fd in names]
        if self.log_fd < 0 and shape["log"]["driver"] in FILES:
            self.log_fd = open_log(shape["log"]["path"])
        has_log = self.log_fd >= 0
        if has_log:
            fds.append(self.log_fd)
            self.log_fd = -1
        if self.spool_fd < 0 and shape["log"]["driver"] in SERVERS and not shape["log"]["queue"]["lossy"]:
            self.spool_fd = os.memfd_create("spool", os.MFD_CLOEXEC)
        if self.spool_fd >= 0:
            fds.append(os.dup(self.spool_fd))
        what = {
            "tty": shape["tty"],
            "stdin_once": shape["stdin_once"],
            "stdout": True,
            "stderr": not shape["tty"],
            "stdin": "stdin" in self.fds,
            "log": shape["log"],
            "log_fd": has_log,
            "spool_fd": self.spool_fd >= 0,
        }
        return what, tuple(fds)

    def stdin_closed(self) -> None:
        """The copier closed its end; ours must go too, or the process never reads the end of file."""
        if "stdin" in self.fds:
            os.close(self.fds.pop("stdin"))
            self.shape = {**self.shape, "open_stdin": False}

    def resize(self, height: int, width: int) -> None:
        if self.master >= 0:
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", height, width, 0, 0))

    def close(self) -> None:
        for fd in (*self.fds.values(), self.master, self.log_fd, self.spool_fd):
            if fd >= 0:
                os.close(fd)
        self.fds, self.master, self.log_fd, self.spool_fd = {}, -1, -1, -1
