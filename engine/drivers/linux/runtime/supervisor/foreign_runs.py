"""Processes that another OCI runtime starts: asked for, waited for, taken over, cleaned up after.

Owns: what the end of a runtime's own process means. Refuses to know: its command line (foreign.py), and what becomes of
the processes afterwards (lives.py).
"""

from __future__ import annotations

import os
import socket

from . import foreign
from .child import Stdio
from .held import Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .child import Settings
    from .engines import Connection
    from .groups import Groups
    from .lives import Lives


class ForeignRuns:
    """null: an open /dev/null."""

    def __init__(self, exec_root: str, settings: Settings, null: int, groups: Groups, lives: Lives) -> None:
        self._exec_root, self._settings, self._null = exec_root, settings, null
        self._groups, self._lives = groups, lives

    def start(self, caller: tuple[Connection, int], fds: list[int], plan: dict[str, Any]) -> None:
        """A container's first process; `caller` hears of it."""
        container = plan["container_id"]
        process = Process(container, "", plan["run"], plan["stdio"])
        process.group, process.kills_group = plan["cgroup"], not plan["own_pid_namespace"]
        process.bundle = foreign.Bundle(self._exec_root, container, plan["runtime"], plan["runtime_flags"])
        process.bundle.write(plan["config"])
        self._groups.claim(container, plan["cgroup"])
        process.answer = caller
        netns = process.take_log(fds)
        self._run(process, process.bundle, "run", "init", ["--bundle", process.bundle.path], plan, netns)

    def execute(self, caller: tuple[Connection, int], target: Process, plan: dict[str, Any]) -> None:
        """A further one."""
        assert target.bundle is not None
        process = Process(target.id, plan["exec_id"], target.run, plan["stdio"])
        process.bundle, process.answer = target.bundle, caller
        document = f"{target.bundle.path}/{process.exec_id}.json"
        with open(document, "wb") as file:
            file.write(plan["document"])
        self._run(process, target.bundle, "exec", process.exec_id, ["--process", document], None, -1)

    def clean(self, bundle: foreign.Bundle) -> None:
        stdio = Stdio(self._null, self._null, self._null)
        pid = foreign.fork_runtime(bundle.delete_command(), stdio, self._settings, bundle, None, -1)
        self._lives.helpers[pid] = lambda status: self._cleaned(bundle)

    def _cleaned(self, bundle: foreign.Bundle) -> None:
        if bundle.container_id not in self._lives.containers:  # it may have been started again
            bundle.remove()

    def _run(
        self,
        process: Process,
        bundle: foreign.Bundle,
        verb: str,
        tag: str,
        options: list[str],
        plan: dict[str, Any] | None,
        netns_fd: int,
    ) -> None:
        """Fork the runtime; what its end means is decided when it is reaped."""
        tty = process.shape["tty"]
        command = bundle.command(verb, tag, *options, terminal=tty)
        theirs: list[int] = []
        try:
            console = bundle.console(tag) if tty else None
            stdio = process.open_stdio(self._null, theirs)
            pid = foreign.fork_runtime(command, stdio, self._settings, bundle, plan, netns_fd)
        except BaseException:
            process.close()
            if not process.exec_id:
                self._groups.discard(process.id)
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        self._lives.enter(process)
        self._lives.helpers[pid] = lambda status: self._on_end(process, bundle, tag, console, status)

    def _on_end(
        self, process: Process, bundle: foreign.Bundle, tag: str, console: socket.socket | None, status: int
    ) -> None:
        if console is not None:
            process.master = foreign.received_master(console)
            console.close()
        if status:
            self._lives.fail(process, "runtime log: " + bundle.complaint(tag), 0, 0, reaped=True)
        else:
            process.pid = bundle.pid(tag)
            self._lives.adopt(process)
