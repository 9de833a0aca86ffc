"""The processes that live, from the fork to the exit that nobody has forgotten yet.

Owns: the table of them, what a child reports until it is its program, what becomes of it when it ends or never was, and
who else of our children is waited for (helpers: placeholders, other runtimes, builders, children ahead of their
command). Refuses to know: verbs, how a process is forked, how its streams are copied.
"""

from __future__ import annotations

import os
import signal
import socket
import time

from . import cgroups, wire
from .ooms import Ooms

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .child import Stdio
    from .copier_link import CopierLink
    from .engines import Engines
    from .foreign import Bundle
    from .groups import Groups
    from .held import Process
    from .journal import Journal
    from .loop import Loop

Forked = tuple[int, socket.socket, tuple[int, ...]]
"""A child: its pid, what it reports on, the pids of those that build for it."""
KILLED_IN_SETUP = "the process was killed before it could become the program"


class Lives:
    """clean: what removes what a foreign runtime keeps of a container that has ended."""

    def __init__(
        self,
        loop: Loop,
        engines: Engines,
        groups: Groups,
        journal: Journal,
        copier: CopierLink,
        clean: Callable[[Bundle], None],
    ) -> None:
        self._loop, self._engines, self._groups, self._journal = loop, engines, groups, journal
        self._copier, self._clean = copier, clean
        self._ooms = Ooms(loop, self._tell_oom)
        self._by_key: dict[tuple[str, str], Process] = {}
        self._strays: dict[int, int] = {}
        self.by_pid: dict[int, Process] = {}
        self.exits: dict[tuple[str, str, int], dict[str, Any]] = {}
        """By container, exec and run, until they are forgotten."""
        self.helpers: dict[int, Callable[[int], None]] = {}
        """What is called with the status of a child that is no process of a container's, once it was reaped."""

    def find(self, container_id: str, exec_id: str = "") -> Process | None:
        return self._by_key.get((container_id, exec_id))

    @property
    def containers(self) -> set[str]:
        return {container for container, _ in self._by_key}

    def ooms(self, process: Process) -> int:
        return self._ooms.count(process)

    # ---- beginnings

    def begin(self, process: Process, null: int, uid: int, fork: Callable[[Stdio], Forked]) -> None:
        """Make a child with the stdio of the process. uid: its user in the container. Raises what `fork` raises, having
        undone the rest."""
        theirs: list[int] = []
        try:
            process.pid, process.report, process.builders = fork(process.open_stdio(null, theirs, uid))
        except BaseException:
            process.close()
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        self.helpers.update((pid, lambda status: None) for pid in process.builders)
        self.hear(process)

    def hear(self, process: Process) -> None:
        """It is a child of ours, and reports until it execs."""
        assert process.report is not None
        self.by_pid[process.pid] = process
        self.enter(process)
        self._loop.watch(process.report.fileno(), lambda events: self._on_report(process))

    def enter(self, process: Process) -> None:
        """It has its place in the table, though there may be no pid yet."""
        self._by_key[process.key] = process

    def adopt(self, process: Process) -> None:
        """A foreign runtime has started it, and it is ours now; it may have ended already."""
        self.by_pid[process.pid] = process
        self._is_there(process)
        if process.pid in self._strays:
            self._on_exit(process, self._strays.pop(process.pid))

    def _on_report(self, process: Process, *, reaped: bool = False) -> None:
        """Hear what the child says until it execs or fails. reaped: it is gone, so all it said is there to be read."""
        report = process.report
        assert report is not None
        failure: tuple[str, int, int] | None = None
        while True:
            try:
                message = wire.receive(report)
            except BlockingIOError:
                return
            if message is None:
                break
            (kind, *details), fds = message
            if kind == "terminal":
                process.master = fds[0]
            elif kind == "ready":
                process.ready = True
            else:
                failure = details[0], details[1], details[2]
                break
        self._loop.unwatch(report.fileno())
        report.close()
        process.report = None
        if failure is None and not process.ready:
            failure = KILLED_IN_SETUP, 128, 0  # as by an OOM kill: the limit was too small even for the setup
        if failure is not None:
            self.fail(process, *failure, reaped=reaped)
        else:
            self._is_there(process)

    def _is_there(self, process: Process) -> None:
        process.started = True
        self._copier.open(process)
        self._reply(process, True, process.pid)
        self._ooms.watch(process)

    def fail(self, process: Process, message: str, exit_code: int, number: int, *, reaped: bool) -> None:
        """The child never became the program: undo everything, then say so."""
        self._end_builders(process)
        if not reaped:
            os.waitpid(process.pid, 0)
        self._remove(process)
        process.close()
        self._copier.abort(process.id, process.exec_id)
        if process.bundle is not None and not process.exec_id:
            self._clean(process.bundle)
        if not process.exec_id:
            self._groups.discard(process.id)
        self._reply(process, False, {"message": message, "errno": number, "exit_code": exit_code})

    def _end_builders(self, process: Process) -> None:
        """Before its first process: that one ends only when nobody is left in its pid namespace."""
        for pid in process.builders:
            if self.helpers.pop(pid, None) is not None:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

    def _reply(self, process: Process, ok: bool, value: Any) -> None:
        if process.answer is not None:
            self._engines.answer(*process.answer, ok, value)
            process.answer = None

    def _remove(self, process: Process) -> None:
        self.by_pid.pop(process.pid, None)
        if self._by_key.get(process.key) is process:
            del self._by_key[process.key]

    # ---- ends

    def reap(self) -> None:
        """Whoever has ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._copier.pid:
                self._copier.replace()
                continue
            helper = self.helpers.pop(pid, None)
            process = self.by_pid.get(pid)
            if helper is not None:
                helper(status)
            elif process is not None:
                self._on_exit(process, status)
            elif self.helpers:
                # A stray that a subreaper inherits, or a container's process that ended before its runtime did.
                self._strays[pid] = status
            if not self.helpers:
                self._strays.clear()

    def kill(self) -> None:
        """End all processes of containers, and wait for all children."""
        for pid in self.by_pid:
            os.kill(pid, signal.SIGKILL)
        waiting = {*self.by_pid, *self.helpers}
        while waiting:
            # In any order: the first process of a pid namespace ends only after everybody reaped the others in it.
            waiting.discard(os.waitpid(-1, 0)[0])

    def _on_exit(self, process: Process, status: int) -> None:
        now = time.time_ns()
        if not process.started:
            self._end_builders(process)  # whoever holds the other end of the report could still speak
            self._on_report(process, reaped=True)
            if not process.started:
                return
        self._remove(process)
        self._ooms.forget(process)
        if process.kills_group and not process.exec_id:
            cgroups.kill(process.group)  # without a pid namespace of its own nothing else ends the rest
        exit_ = {
            "container_id": process.id,
            "run": process.run,
            "exec_id": process.exec_id,
            "exit_code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status),
            "oom_killed": not process.exec_id and cgroups.oom_kills(process.group.get("oom", "")) > 0,
            "finished_at_ns": now,
        }
        self.exits[process.id, process.exec_id, process.run] = exit_
        durable = not self._engines
        self._engines.push("exit", exit_)  # first: somebody waits for it, and the disk can not refuse a message
        self._journal.record(exit_, durable=durable)
        self._copier.exited(process)
        if process.bundle is not None and not process.exec_id:
            self._clean(process.bundle)

    def _tell_oom(self, process: Process, count: int) -> None:
        self._engines.push("oom", {"container_id": process.id, "run": process.run, "count": count})
