"""The supervisor: starts processes, holds them, reaps them, keeps their exits.

Owns: what an engine may ask for. Refuses to know: what a spec means (plans come ready), what becomes of a process
(lives.py), other runtimes (foreign_runs.py), how streams are copied (copier_link.py), how engines are spoken to
(engines.py). Single-threaded by design: forking is safe and nothing needs a lock.

Each `_do_` method is a verb of the wire; its keywords are the request's arguments.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import time

from . import kernel as k
from . import launch
from . import process as p
from .ahead import Ahead
from .child import Settings, Stdio
from .copier_link import CopierLink
from .engines import LATER, Connection, Engines
from .foreign_runs import ForeignRuns
from .groups import Groups
from .held import Process
from .journal import Journal
from .lives import Lives
from .loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .foreign import Bundle
    from .lives import Forked

IDLE_S = 60.0
SWEEP_S = 0.2
SHUTDOWN_S = 5.0
FILTER = ("seccomp", "seccomp_flags", "seccomp_early")
"""What a plan says of a process's filter; an exec's is its container's."""


class Supervisor:
    def __init__(self, listener: socket.socket, exec_root: str, data_root: str) -> None:
        self._listener = listener
        self._exec_root = exec_root
        self._settings = Settings(os.fsencode(exec_root + "/rootfs"), [], (), k.pidfd_open(os.getpid()))
        self._journal = Journal(data_root + "/supervisor/exits")
        self._groups = Groups(exec_root + "/groups")
        self._loop = Loop()
        self._engines = Engines(self._loop, listener, self._dispatch)
        self._copier = CopierLink(self._loop, self._engines, lambda process: process.pid in self._lives.by_pid)
        self._lives = Lives(self._loop, self._engines, self._groups, self._journal, self._copier, self._clean)
        self._null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self._foreign = ForeignRuns(exec_root, self._settings, self._null, self._groups, self._lives)
        self._ahead = Ahead(self._loop, self._settings, self._lives.helpers)
        self._placeholders: set[int] = set()
        self._capabilities = 0
        self._idle_since = time.monotonic()
        self._stopping = False

    # ---- life

    def prepare(self) -> None:
        """Everything with an effect that must be done once: folders, limits, signals, the copier."""
        os.makedirs(self._settings.mountpoint, 0o700, exist_ok=True)
        os.makedirs(self._exec_root + "/groups", 0o700, exist_ok=True)
        for exit_ in self._journal.read():
            self._lives.exits[exit_["container_id"], exit_["exec_id"], exit_["run"]] = exit_
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        # Containers get the limit the engine was started with; the supervisor itself holds many descriptors.
        self._settings.limits = [(resource.RLIMIT_NOFILE, soft, hard)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self._capabilities = _own_capabilities()
        self._take_signals()
        self._engines.listen()
        self._copier.start()

    def _take_signals(self) -> None:
        readable, writable = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
        for ignored in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            signal.signal(ignored, signal.SIG_IGN)  # ended by `shutdown` or SIGKILL, never by a stray terminal
        self._settings.ignored_signals = p.ignored_signals()
        self._loop.watch(readable, lambda events: self._on_child(readable))

    def _on_child(self, wakeup: int) -> None:
        os.read(wakeup, 4096)
        self._reap()

    def _reap(self) -> None:
        try:
            self._lives.reap()
        except Exception:
            self._loop.after(0, "reap", self._reap)  # the others that have ended: nobody wakes us for them again
            raise

    def run(self) -> None:
        swept = True
        while not self._stopping and not self._is_idle():
            self._loop.turn(IDLE_S if swept else SWEEP_S)
            # Both every time: what waits for the disk and what waits for the kernel know nothing of each other.
            written = self._journal.write()
            swept = self._groups.sweep() and written
        os.unlink(self._listener.getsockname())

    def _is_idle(self) -> bool:
        """With nobody to serve and nothing to keep for a while, there is no need for a supervisor."""
        if self._engines or self._lives.by_pid or self._lives.exits or self._copier:
            self._idle_since = time.monotonic()
            return False
        return time.monotonic() - self._idle_since >= IDLE_S

    def _dispatch(self, connection: Connection, sequence: int, verb: str, arguments: Any, fds: list[int]) -> Any:
        return getattr(self, "_do_" + verb)((connection, sequence), fds, **arguments)

    # ---- verbs

    def _do_hello(self, caller: tuple[Connection, int], fds: list[int]) -> Any:
        return {"pid": os.getpid(), "copier": self._copier.pid}

    def _do_start(self, caller: tuple[Connection, int], fds: list[int], *, plan: dict[str, Any]) -> Any:
        """A container's first process. Idempotent by (id, run): a second request gets the same pid."""
        try:
            return self._start(caller, fds, plan)
        finally:
            self._release(plan["placeholder"])

    def _start(self, caller: tuple[Connection, int], fds: list[int], plan: dict[str, Any]) -> Any:
        container, run = plan["container_id"], plan["run"]
        known = self._lives.find(container)
        if known is not None:
            if known.run != run:
                raise FileExistsError(17, f"container {container} runs already")
            if not known.started:
                known.answer = caller
            return known.pid if known.started else LATER
        if (container, "", run) in self._lives.exits:
            return 0
        self._groups.make(container, plan["cgroup"])
        process = Process(container, "", run, plan["stdio"])
        process.group, process.kills_group = plan["cgroup"], not plan["own_pid_namespace"]
        process.filter = {name: plan["process"][name] for name in FILTER}
        process.user = plan["user_namespace"]
        process.entry = {
            "keyring": plan["keyring"],
            "oom_score_adj": plan["oom_score_adj"],
            "process": {"apparmor": plan["process"]["apparmor"]},
            "bounding": plan["process"]["bounding"],
        }
        netns = process.take_log(fds)
        self._bound(plan)
        try:
            self._begin(process, plan, lambda stdio: launch.fork_container(plan, stdio, netns, self._settings))
        except BaseException:
            self._groups.discard(container)
            raise
        process.answer = caller
        return LATER

    def _do_hold(self, caller: tuple[Connection, int], fds: list[int]) -> int:
        """A process that does nothing, for a service manager to make a group around. A start takes its place; without
        one it ends by itself."""
        pid = launch.fork_placeholder()
        self._placeholders.add(pid)
        self._lives.helpers[pid] = lambda status: self._placeholders.discard(pid)
        return pid

    def _do_release(self, caller: tuple[Connection, int], fds: list[int], *, pid: int) -> None:
        self._release(pid)

    def _release(self, pid: int) -> None:
        if pid in self._placeholders:  # not reaped yet, so the number is still its own
            os.kill(pid, signal.SIGKILL)

    def _do_execute(self, caller: tuple[Connection, int], fds: list[int], *, plan: dict[str, Any]) -> Any:
        container, exec_id = plan["container_id"], plan["exec_id"]
        target = self._lives.find(container)
        if target is None or not target.started:
            raise ProcessLookupError(3, f"container {container} is not running")
        known = self._lives.find(container, exec_id)
        if known is not None:
            if not known.started:
                known.answer = caller
            return known.pid if known.started else LATER
        if target.bundle is not None:
            self._foreign.execute(caller, target, plan)
            return LATER
        process = self._ahead.release(target, plan, lambda: self._complete(target, plan), self._null)
        if process is None:
            process = self._complete(target, plan)
            self._begin(process, plan, lambda stdio: launch.fork_exec(plan, stdio, target.pid, self._settings))
        else:
            self._lives.hear(process)
        process.answer = caller
        return LATER

    def _do_expect(self, caller: tuple[Connection, int], fds: list[int], *, plan: dict[str, Any]) -> None:
        """`execute` comes next with the same plan."""
        target = self._lives.find(plan["container_id"])
        if target is not None and target.can_be_entered:
            self._ahead.instruct(target, plan, lambda: self._complete(target, plan), self._null)

    def _complete(self, target: Process, plan: dict[str, Any]) -> Process:
        """Put into an exec's plan what its container says of it."""
        process = Process(target.id, plan["exec_id"], target.run, plan["stdio"])
        plan["cgroup"] = {**target.group, "join": self._groups.doors(target.id)}
        plan["process"].update(target.filter)
        plan["user_namespace"] = process.user = target.user
        self._bound(plan)
        return process

    def _begin(self, process: Process, plan: dict[str, Any], fork: Callable[[Stdio], Forked]) -> None:
        self._lives.begin(process, self._null, plan["process"]["uid"], fork)

    def _bound(self, plan: dict[str, Any]) -> None:
        """What this host lacks, nobody gets (as runc)."""
        for name in ("bounding", "permitted", "effective", "inheritable", "ambient"):
            plan["process"][name] &= self._capabilities

    def _do_start_foreign(self, caller: tuple[Connection, int], fds: list[int], *, plan: dict[str, Any]) -> Any:
        """As `start`, by an OCI runtime: `plan["config"]` is its config.json."""
        container, run = plan["container_id"], plan["run"]
        known = self._lives.find(container)
        if known is not None and known.run == run and known.started:
            return known.pid
        if known is not None:
            raise FileExistsError(17, f"container {container} runs already")
        if (container, "", run) in self._lives.exits:
            return 0
        self._foreign.start(caller, fds, plan)
        return LATER

    def _clean(self, bundle: Bundle) -> None:
        self._foreign.clean(bundle)

    def _do_signal(
        self, caller: tuple[Connection, int], fds: list[int], *, container_id: str, exec_id: str, number: int
    ) -> Any:
        process = self._lives.find(container_id, exec_id)
        if process is None:
            return False
        # The pid cannot be anybody else's: a dead child keeps it until this very process has reaped it.
        os.kill(process.pid, number)
        return True

    def _do_list(self, caller: tuple[Connection, int], fds: list[int]) -> Any:
        running = [
            {
                "container_id": process.id,
                "run": process.run,
                "exec_id": process.exec_id,
                "pid": process.pid,
                "ooms": self._lives.ooms(process),
                "group": process.group["trees"][0]["path"] if process.group.get("trees") else "",
            }
            for process in self._lives.by_pid.values()
            if process.started
        ]
        starting = sum(not process.started for process in self._lives.by_pid.values())
        return {"running": running, "exits": list(self._lives.exits.values()), "starting": starting}

    def _do_forget(
        self, caller: tuple[Connection, int], fds: list[int], *, container_id: str, run: int, exec_id: str,
        group: dict[str, Any],
    ) -> Any:  # fmt: skip
        """`group` is for a container this supervisor never knew: its leftovers are killed and removed as well. Clients
        that wait for an exec that nobody will run have waited long enough."""
        self._lives.exits.pop((container_id, exec_id, run), None)
        self._journal.forget(container_id, run, exec_id)
        if self._lives.find(container_id, exec_id) is not None:
            return
        if exec_id:
            self._copier.abort(container_id, exec_id)
        else:
            self._groups.discard(container_id, group)

    def _do_attach(
        self, caller: tuple[Connection, int], fds: list[int], *, container_id: str, exec_id: str,
        want: dict[str, bool], detach_keys: bytes, early_input: bytes,
    ) -> Any:  # fmt: skip
        if exec_id:
            self._approach(container_id, exec_id)  # first: the copier may take this processor when it is spoken to
        return self._copier.attach(caller[0], fds[0], container_id, exec_id, want, detach_keys, early_input)

    def _do_approach(self, caller: tuple[Connection, int], fds: list[int], *, container_id: str, exec_id: str) -> None:
        if self._ahead.has_room:
            self._approach(container_id, exec_id)

    def _approach(self, container_id: str, exec_id: str) -> None:
        """Who attaches to an exec that is not there, or is told of one, has it begun next."""
        target = self._lives.find(container_id)
        if target is not None and target.can_be_entered and self._lives.find(container_id, exec_id) is None:
            try:  # noqa: SIM105 - one import less in a process that is forked at every start
                self._ahead.begin((container_id, exec_id), target, self._groups.doors(container_id))
            except OSError:
                pass  # whoever asks for the exec hears why

    def _do_cancel(self, caller: tuple[Connection, int], fds: list[int], *, ident: int) -> Any:
        self._copier.cancel(ident)

    def _do_resize(
        self,
        caller: tuple[Connection, int],
        fds: list[int],
        *,
        container_id: str,
        exec_id: str,
        height: int,
        width: int,
    ) -> Any:
        process = self._lives.find(container_id, exec_id)
        if process is None:
            raise ProcessLookupError(3, "no such process")
        process.resize(height, width)

    def _do_drained(
        self, caller: tuple[Connection, int], fds: list[int], *, container_id: str, run: int, exec_id: str
    ) -> Any:
        key = (container_id, exec_id, run)
        process = self._lives.find(container_id, exec_id)
        if not self._copier.is_undrained(key) and (process is None or process.run != run):
            return None
        self._copier.when_drained(key, *caller)
        return LATER

    def _do_shutdown(self, caller: tuple[Connection, int], fds: list[int]) -> Any:
        """End everything and go: for tests, never part of an engine's stop."""
        self._ahead.end_all()
        for pid in list(self._placeholders):
            self._release(pid)
        self._lives.kill()
        self._groups.discard_all()
        deadline = time.monotonic() + SHUTDOWN_S
        while not self._groups.sweep() and time.monotonic() < deadline:
            time.sleep(0.01)
        self._stopping = True

def _own_capabilities() -> int:
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("CapPrm:"):
                return int(line[7:], 16)
    return 0
