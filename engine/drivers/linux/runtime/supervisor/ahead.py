"""Children that wait inside a container for the word to run an exec's command: the way there is behind them by then.

Who creates an exec with streams to attach to has it begun next, and meanwhile the engine commits that it is there, and
then that it shall run. The fork, the namespaces and all that makes a process the exec's take as long as these commits,
so they are done beside them: `begin` forks, `instruct` tells the child what it is to become, `release` lets it. Nothing
of the user's runs and no file is touched before the engine asks for it: a child that nobody asks for ends by itself,
with the container, with the supervisor, or here.

Refuses to know: what a plan means, the table of processes.
"""

from __future__ import annotations

import os
import signal

from . import launch, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Any

    from .child import Settings
    from .held import Process
    from .loop import Loop

WAIT_S = 1.0
"""How long a child waits for its command. Clients ask within milliseconds of an exec's creation, or take their time."""
ROOM = 16
"""So many children wait at once for execs that nobody has attached to yet."""
CAP_SYS_PTRACE = 1 << 19


class _Waiting:
    """process: what the child is to become, once it has been told; given: the plan of it, as it came."""

    __slots__ = ("entry", "given", "pid", "process", "report", "target")

    def __init__(self, target: Process, entry: dict[str, Any], pid: int, report: socket.socket) -> None:
        self.target, self.entry, self.pid, self.report = target, entry, pid, report
        self.process: Process | None = None
        self.given = b""


class Ahead:
    """helpers: what is called with the status of a child when it was reaped, by pid."""

    def __init__(self, loop: Loop, settings: Settings, helpers: dict[int, Callable[[int], None]]) -> None:
        self._loop, self._settings, self._helpers = loop, settings, helpers
        self._waiting: dict[tuple[str, str], _Waiting] = {}

    @property
    def has_room(self) -> bool:
        return len(self._waiting) < ROOM

    def begin(self, key: tuple[str, str], target: Process, doors: tuple[int, ...]) -> None:
        """Fork a child for an exec of `target`. Raises OSError, as the exec itself will. Not where the container may
        trace: it could look into a child that is still the supervisor's image."""
        if target.entry["bounding"] & CAP_SYS_PTRACE or key in self._waiting:
            return
        entry = {**target.entry, "user_namespace": target.user, "cgroup": {**target.group, "join": doors}}
        pid, report = launch.fork_waiting(entry, target.pid, self._settings)
        self._waiting[key] = _Waiting(target, entry, pid, report)
        self._helpers[pid] = lambda status: self._forget(key, pid)
        self._loop.after(WAIT_S, key, lambda: self.end(key))

    def instruct(self, target: Process, plan: dict[str, Any], complete: Callable[[], Process], null: int) -> None:
        """Tell the child what it is to become, if there is one that suits. complete: makes the process, and of the plan
        what the child needs."""
        key = plan["container_id"], plan["exec_id"]
        waiting = self._waiting.get(key)
        if waiting is None or waiting.process is not None:
            return
        if waiting.target is not target or not _suits(waiting.entry, plan):
            self.end(key)
            return
        waiting.given = wire.encode(plan)
        process = waiting.process = complete()
        theirs: list[int] = []
        try:
            stdio = process.open_stdio(null, theirs, plan["process"]["uid"])
            wire.send(waiting.report, plan, (stdio.stdin, stdio.stdout, stdio.stderr))
        except OSError:  # it has gone, or whoever asks for the exec hears why
            self.end(key)
        finally:
            for fd in theirs:
                os.close(fd)

    def release(
        self, target: Process, plan: dict[str, Any], complete: Callable[[], Process], null: int
    ) -> Process | None:
        """Let the child become what it was told, which it is now if it was not: the process, whose report is to be
        heard. None when there is no child, or one that was told something else."""
        key, given = (plan["container_id"], plan["exec_id"]), wire.encode(plan)
        self.instruct(target, plan, complete, null)
        waiting = self._waiting.get(key)
        if waiting is None:
            return None
        process = waiting.process
        if process is None or waiting.target is not target or waiting.given != given:
            self.end(key)
            return None
        try:
            wire.send(waiting.report, ("run",))
        except OSError:  # it has gone
            self.end(key)
            return None
        process.pid, process.report = waiting.pid, waiting.report
        del self._waiting[key], self._helpers[waiting.pid]
        self._loop.forget(key)
        return process

    def end(self, key: tuple[str, str]) -> None:
        """Nobody will ask for it any more."""
        waiting = self._waiting.get(key)
        if waiting is not None:
            os.kill(waiting.pid, signal.SIGKILL)  # not reaped yet, so the number is still its own
            self._forget(key, waiting.pid)
            self._helpers[waiting.pid] = lambda status: None

    def end_all(self) -> None:
        for key in list(self._waiting):
            self.end(key)

    def _forget(self, key: tuple[str, str], pid: int) -> None:
        waiting = self._waiting.get(key)
        if waiting is not None and waiting.pid == pid:
            del self._waiting[key]
            self._loop.forget(key)
            waiting.report.close()
            if waiting.process is not None:
                waiting.process.close()


def _suits(entry: dict[str, Any], plan: dict[str, Any]) -> bool:
    """Whether the way in was the one the plan wants."""
    return (
        entry["keyring"] == plan["keyring"]
        and entry["oom_score_adj"] == plan["oom_score_adj"]
        and bool(entry["process"]["apparmor"]) >= bool(plan["process"]["apparmor"])
    )
