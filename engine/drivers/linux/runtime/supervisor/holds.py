"""Children that stop behind `execve`, before the first instruction of their program, until they may run it.

A child that gives up the supervisor's memory for its program's spends more than a millisecond on it. With a tracer it
can do so ahead of its time: the kernel stops it where the program would begin (ptrace(2), PTRACE_EVENT_EXEC), and kills
it when its tracer dies. The tracer is this process, for as long as the child is held, and not a moment longer.

Refuses to know: why a child is held, what it runs.
"""

from __future__ import annotations

import os

from . import kernel as k


class _Hold:
    __slots__ = ("free", "stopped")

    def __init__(self) -> None:
        self.stopped = self.free = False


class Holds:
    def __init__(self) -> None:
        self._held: dict[int, _Hold] = {}

    def take(self, pid: int) -> bool:
        """Hold a child that has not run its program yet. False where we may not trace it."""
        try:
            k.ptrace(k.PTRACE_SEIZE, pid, k.PTRACE_O_TRACEEXEC | k.PTRACE_O_EXITKILL)
        except OSError:
            return False
        self._held[pid] = _Hold()
        return True

    def free(self, pid: int) -> None:
        """Let it run: now, or as soon as it has come so far."""
        hold = self._held[pid]
        hold.free = True
        if hold.stopped:
            self._let_go(pid)

    def stopped(self, pid: int, status: int) -> None:
        """What waitpid(2) has said of a child that is not ended. All but the stop it is held for passes."""
        hold = self._held.get(pid)
        if status >> 16 == k.PTRACE_EVENT_EXEC and hold is not None:
            hold.stopped = True
            if hold.free:
                self._let_go(pid)
            return
        signal = 0 if status >> 16 else os.WSTOPSIG(status)  # one that it is to get, or a stop of its whole group
        self._ask(k.PTRACE_CONT, pid, signal)

    def wait(self, pid: int) -> None:
        """Until a child that will not run its program has ended."""
        while os.WIFSTOPPED(status := os.waitpid(pid, 0)[1]):
            self.stopped(pid, status)
        self.ended(pid)

    def ended(self, pid: int) -> None:
        self._held.pop(pid, None)

    def _let_go(self, pid: int) -> None:
        del self._held[pid]
        self._ask(k.PTRACE_DETACH, pid, 0)

    @staticmethod
    def _ask(request: int, pid: int, data: int) -> None:
        try:  # noqa: SIM105 - one import less in a process that is forked at every start
            k.ptrace(request, pid, data)
        except ProcessLookupError:
            pass  # killed meanwhile: its end comes next
