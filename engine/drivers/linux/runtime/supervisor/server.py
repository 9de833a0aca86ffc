"""The supervisor: starts processes, holds them, reaps them, keeps their exits.

Owns: the table of live processes and the exits until they are forgotten. Refuses to know: what a spec means (plans
come ready), how streams are copied (copier_link.py), how engines are spoken to (engines.py). Single-threaded by
design: forking is safe and nothing needs a lock.

Each `_do_` method is a verb of the wire; its keywords are the request's arguments.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import time

from . import cgroups, foreign, launch, wire
from . import kernel as k
from . import process as p
from .ahead import Ahead
from .child import Settings, Stdio
from .copier_link import CopierLink
from .engines import LATER, Connection, Engines
from .groups import Groups
from .held import Process
from .journal import Journal
from .loop import Loop
from .ooms import Ooms

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

IDLE_S = 60.0
SWEEP_S = 0.2
SHUTDOWN_S = 5.0
KILLED_IN_SETUP = "the process was killed before it could become the program"


class Supervisor:
    def __init__(self, listener: socket.socket, exec_root: str, data_root: str) -> None:
        self._listener = listener
        self._exec_root = exec_root
        self._settings = Settings(os.fsencode(exec_root + "/rootfs"), [], (), k.pidfd_open(os.getpid()))
        self._journal = Journal(data_root + "/supervisor/exits")
        self._groups = Groups(exec_root + "/groups")
        self._loop = Loop()
        self._engines = Engines(self._loop, listener, self._dispatch)
        self._copier = CopierLink(self._loop, self._engines, lambda process: process.pid in self._processes)
        self._ooms = Ooms(self._loop, self._tell_oom)
        self._exits: dict[tuple[str, str, int], dict[str, Any]] = {}
        self._processes: dict[int, Process] = {}
        self._by_key: dict[tuple[str, str], Process] = {}
        self._helpers: dict[int, Callable[[int], None]] = {}
        self._strays: dict[int, int] = {}
        self._ahead = Ahead(self._loop, self._settings, self._helpers)
        self._placeholders: set[int] = set()
        self._null = -1
        self._capabilities = 0
        self._idle_since = time.monotonic()
        self._stopping = False

    # ---- life

    def prepare(self) -> None:
        """Everything with an effect that must be done once: folders, limits, signals, the copier."""
        os.makedirs(self._settings.mountpoint, 0o700, exist_ok=True)
        os.makedirs(self._exec_root + "/groups", 0o700, exist_ok=True)
        self._null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        for exit_ in self._journal.read():
            self._exits[exit_["container_id"], exit_["exec_id"], exit_["run"]] = exit_
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
        if self._engines or self._processes or self._exits or self._copier:
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
        known = self._by_key.get((container, ""))
        if known is not None:
            if known.run != run:
                raise FileExistsError(17, f"container {container} runs already")
            if not known.started:
                known.answer = caller
            return known.pid if known.started else LATER
        if (container, "", run) in self._exits:
            return 0
        self._groups.make(container, plan["cgroup"])
        process = Process(container, "", run, plan["stdio"])
        process.group, process.kills_group = plan["cgroup"], not plan["own_pid_namespace"]
        process.filter = plan["process"]["seccomp"], plan["process"]["seccomp_flags"]
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
            self._fork(process, plan, lambda stdio: launch.fork_container(plan, stdio, netns, self._settings))
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
        return pid

    def _do_release(self, caller: tuple[Connection, int], fds: list[int], *, pid: int) -> None:
        self._release(pid)

    def _release(self, pid: int) -> None:
        if pid in self._placeholders:  # not reaped yet, so the number is still its own
            os.kill(pid, signal.SIGKILL)

    def _do_execute(self, caller: tuple[Connection, int], fds: list[int], *, plan: dict[str, Any]) -> Any:
        container, exec_id = plan["container_id"], plan["exec_id"]
        target = self._by_key.get((container, ""))
        if target is None or not target.started:
            raise ProcessLookupError(3, f"container {container} is not running")
        known = self._by_key.get((container, exec_id))
        if known is not None:
            if not known.started:
                known.answer = caller
            return known.pid if known.started else LATER
        if target.bundle is not None:
            return self._execute_foreign(caller, target, plan)
        process = self._ahead.release(target, plan, lambda: self._complete(target, plan), self._null)
        if process is None:
            process = self._complete(target, plan)
            self._fork(process, plan, lambda stdio: launch.fork_exec(plan, stdio, target.pid, self._settings))
        else:
            self._hold(process)
        process.answer = caller
        return LATER

    def _do_expect(self, caller: tuple[Connection, int], fds: list[int], *, plan: dict[str, Any]) -> None:
        """`execute` comes next with the same plan."""
        target = self._by_key.get((plan["container_id"], ""))
        if target is not None and target.can_be_entered:
            self._ahead.instruct(target, plan, lambda: self._complete(target, plan), self._null)

    def _complete(self, target: Process, plan: dict[str, Any]) -> Process:
        """Put into an exec's plan what its container says of it."""
        process = Process(target.id, plan["exec_id"], target.run, plan["stdio"])
        plan["cgroup"] = {**target.group, "join": self._groups.doors(target.id)}
        plan["process"]["seccomp"], plan["process"]["seccomp_flags"] = target.filter
        plan["user_namespace"] = process.user = target.user
        self._bound(plan)
        return process

    def _do_start_foreign(self, caller: tuple[Connection, int], fds: list[int], *, plan: dict[str, Any]) -> Any:
        """As `start`, by an OCI runtime: `plan["config"]` is its config.json."""
        container, run = plan["container_id"], plan["run"]
        known = self._by_key.get((container, ""))
        if known is not None and known.run == run and known.started:
            return known.pid
        if known is not None:
            raise FileExistsError(17, f"container {container} runs already")
        if (container, "", run) in self._exits:
            return 0
        process = Process(container, "", run, plan["stdio"])
        process.group, process.kills_group = plan["cgroup"], not plan["own_pid_namespace"]
        process.bundle = foreign.Bundle(self._exec_root, container, plan["runtime"], plan["runtime_flags"])
        process.bundle.write(plan["config"])
        self._groups.claim(container, plan["cgroup"])
        process.answer = caller
        netns = process.take_log(fds)
        self._run_foreign(process, "run", "init", ["--bundle", process.bundle.path], plan, netns)
        return LATER

    def _execute_foreign(self, caller: tuple[Connection, int], target: Process, plan: dict[str, Any]) -> Any:
        assert target.bundle is not None
        process = Process(target.id, plan["exec_id"], target.run, plan["stdio"])
        process.bundle, process.answer = target.bundle, caller
        document = f"{target.bundle.path}/{process.exec_id}.json"
        with open(document, "wb") as file:
            file.write(plan["document"])
        self._run_foreign(process, "exec", process.exec_id, ["--process", document], None, -1)
        return LATER

    def _run_foreign(
        self, process: Process, verb: str, tag: str, options: list[str], plan: dict[str, Any] | None, netns_fd: int
    ) -> None:
        """Fork the runtime; what its end means is decided when it is reaped."""
        bundle = process.bundle
        assert bundle is not None
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
        self._by_key[process.key] = process
        self._helpers[pid] = lambda status: self._on_runtime_exit(process, tag, console, status)

    def _on_runtime_exit(self, process: Process, tag: str, console: socket.socket | None, status: int) -> None:
        bundle = process.bundle
        assert bundle is not None
        if console is not None:
            process.master = foreign.received_master(console)
            console.close()
        if status:
            self._fail(process, "runtime log: " + bundle.complaint(tag), 0, 0, reaped=True)
            return
        process.pid = bundle.pid(tag)
        self._processes[process.pid] = process
        process.started = True
        self._copier.open(process)
        self._reply(process, True, process.pid)
        self._ooms.watch(process)
        if process.pid in self._strays:
            self._on_exit(process, self._strays.pop(process.pid))

    def _clean_foreign(self, bundle: foreign.Bundle) -> None:
        stdio = Stdio(self._null, self._null, self._null)
        pid = foreign.fork_runtime(bundle.delete_command(), stdio, self._settings, bundle, None, -1)
        self._helpers[pid] = lambda status: bundle.remove() if bundle.container_id not in self._live_ids() else None

    def _live_ids(self) -> set[str]:
        return {container for container, _ in self._by_key}

    def _do_signal(
        self, caller: tuple[Connection, int], fds: list[int], *, container_id: str, exec_id: str, number: int
    ) -> Any:
        process = self._by_key.get((container_id, exec_id))
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
                "ooms": self._ooms.count(process),
                "group": process.group["trees"][0]["path"] if process.group.get("trees") else "",
            }
            for process in self._processes.values()
            if process.started
        ]
        starting = sum(not process.started for process in self._processes.values())
        return {"running": running, "exits": list(self._exits.values()), "starting": starting}

    def _do_forget(
        self, caller: tuple[Connection, int], fds: list[int], *, container_id: str, run: int, exec_id: str,
        group: dict[str, Any],
    ) -> Any:  # fmt: skip
        """`group` is for a container this supervisor never knew: its leftovers are killed and removed as well. Clients
        that wait for an exec that nobody will run have waited long enough."""
        self._exits.pop((container_id, exec_id, run), None)
        self._journal.forget(container_id, run, exec_id)
        if (container_id, exec_id) in self._by_key:
            return
        if exec_id:
            self._copier.abort(container_id, exec_id)
        else:
            self._groups.discard(container_id, group)

    def _do_attach(
        self, caller: tuple[Connection, int], fds: list[int], *, container_id: str, exec_id: str,
        want: dict[str, bool], detach_keys: bytes, early_input: bytes,
    ) -> Any:  # fmt: skip
        ident = self._copier.attach(caller[0], fds[0], container_id, exec_id, want, detach_keys, early_input)
        if exec_id:
            self._expect(container_id, exec_id)
        return ident

    def _expect(self, container_id: str, exec_id: str) -> None:
        """Who attaches to an exec that is not there has it begun next."""
        target = self._by_key.get((container_id, ""))
        if target is not None and target.can_be_entered and (container_id, exec_id) not in self._by_key:
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
        process = self._by_key.get((container_id, exec_id))
        if process is None:
            raise ProcessLookupError(3, "no such process")
        process.resize(height, width)

    def _do_drained(
        self, caller: tuple[Connection, int], fds: list[int], *, container_id: str, run: int, exec_id: str
    ) -> Any:
        key = (container_id, exec_id, run)
        process = self._by_key.get((container_id, exec_id))
        if not self._copier.is_undrained(key) and (process is None or process.run != run):
            return None
        self._copier.when_drained(key, *caller)
        return LATER

    def _do_shutdown(self, caller: tuple[Connection, int], fds: list[int]) -> Any:
        """End everything and go: for tests, never part of an engine's stop."""
        self._ahead.end_all()
        for pid in self._processes:
            os.kill(pid, signal.SIGKILL)
        waiting = {*self._processes, *self._helpers}
        while waiting:
            # In any order: the first process of a pid namespace ends only after everybody reaped the others in it.
            waiting.discard(os.waitpid(-1, 0)[0])
        self._groups.discard_all()
        deadline = time.monotonic() + SHUTDOWN_S
        while not self._groups.sweep() and time.monotonic() < deadline:
            time.sleep(0.01)
        self._stopping = True

    # ---- starting

    def _fork(
        self,
        process: Process,
        plan: dict[str, Any],
        fork: Callable[[Stdio], tuple[int, socket.socket, tuple[int, ...]]],
    ) -> None:
        theirs: list[int] = []
        try:
            stdio = process.open_stdio(self._null, theirs, plan["process"]["uid"])
            process.pid, process.report, process.builders = fork(stdio)
        except BaseException:
            process.close()
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        self._helpers.update((pid, lambda status: None) for pid in process.builders)
        self._hold(process)

    def _hold(self, process: Process) -> None:
        """It is a child of ours that will report."""
        assert process.report is not None
        self._processes[process.pid] = self._by_key[process.key] = process
        self._loop.watch(process.report.fileno(), lambda events: self._on_report(process))

    def _bound(self, plan: dict[str, Any]) -> None:
        """What this host lacks, nobody gets (as runc)."""
        for name in ("bounding", "permitted", "effective", "inheritable", "ambient"):
            plan["process"][name] &= self._capabilities

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
            self._fail(process, *failure, reaped=reaped)
            return
        process.started = True
        self._copier.open(process)
        self._reply(process, True, process.pid)
        self._ooms.watch(process)

    def _fail(self, process: Process, message: str, exit_code: int, number: int, *, reaped: bool) -> None:
        """The child never became the program: undo everything, then say so."""
        self._end_builders(process)
        if not reaped:
            os.waitpid(process.pid, 0)
        self._remove(process)
        process.close()
        self._copier.abort(process.id, process.exec_id)
        if process.bundle is not None and not process.exec_id:
            self._clean_foreign(process.bundle)
        if not process.exec_id:
            self._groups.discard(process.id)
        self._reply(process, False, {"message": message, "errno": number, "exit_code": exit_code})

    def _end_builders(self, process: Process) -> None:
        """Before its first process: that one ends only when nobody is left in its pid namespace."""
        for pid in process.builders:
            if self._helpers.pop(pid, None) is not None:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

    def _reply(self, process: Process, ok: bool, value: Any) -> None:
        if process.answer is not None:
            self._engines.answer(*process.answer, ok, value)
            process.answer = None

    def _remove(self, process: Process) -> None:
        self._processes.pop(process.pid, None)
        if self._by_key.get(process.key) is process:
            del self._by_key[process.key]

    # ---- ends

    def _tell_oom(self, process: Process, count: int) -> None:
        self._engines.push("oom", {"container_id": process.id, "run": process.run, "count": count})

    def _on_child(self, wakeup: int) -> None:
        os.read(wakeup, 4096)
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
            self._placeholders.discard(pid)
            helper = self._helpers.pop(pid, None)
            process = self._processes.get(pid)
            if helper is not None:
                helper(status)
            elif process is not None:
                self._on_exit(process, status)
            elif self._helpers:
                # A stray that a subreaper inherits, or a container's process that ended before its runtime did.
                self._strays[pid] = status
            if not self._helpers:
                self._strays.clear()

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
        self._exits[process.id, process.exec_id, process.run] = exit_
        durable = not self._engines
        self._engines.push("exit", exit_)  # first: somebody waits for it, and the disk can not refuse a message
        self._journal.record(exit_, durable=durable)
        self._copier.exited(process)
        if process.bundle is not None and not process.exec_id:
            self._clean_foreign(process.bundle)


def _own_capabilities() -> int:
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("CapPrm:"):
                return int(line[7:], 16)
    return 0
