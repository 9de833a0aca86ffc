"""The supervisor's loop: requests from the engine, reports from starting children, exits, words of the copier.

Owns: the table of live processes, exits until they are forgotten, duplicates of every stdio descriptor, the copier.
Refuses to know: what a spec means. Single-threaded by design: forking is safe and nothing needs a lock.

A request is `(sequence, verb, arguments)`, its answer `(sequence, ok, value)`; pushes carry sequence 0. An answer to
`start` waits for the child's report, everything else is answered in the same turn.
"""

from __future__ import annotations

import fcntl
import os
import resource
import select
import signal
import socket
import struct
import termios
import time

from . import cgroups, copier, launch, wire
from . import process as p
from .journal import Journal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

IDLE_S = 60.0
SWEEP_S = 0.2
OUTBOX_MAX = 100_000


class Process:
    """A live process: the container's first, or an exec."""

    __slots__ = ("answer", "exec_id", "fds", "filter", "group", "id", "kills_group", "log_fd", "master", "pid",
                 "report", "run", "shape", "started")  # fmt: skip

    def __init__(self, container_id: str, exec_id: str, run: int, pid: int) -> None:
        self.id, self.exec_id, self.run, self.pid = container_id, exec_id, run, pid
        self.report: socket.socket | None = None
        self.answer: tuple[Connection, int] | None = None
        self.started = False
        self.master = -1
        self.fds: dict[str, int] = {}
        self.shape: dict[str, Any] = {}
        self.group: dict[str, Any] = {}
        self.kills_group = False
        self.log_fd = -1
        self.filter: tuple[bytes, int] = (b"", 0)

    @property
    def key(self) -> tuple[str, str]:
        return self.id, self.exec_id


class Connection:
    """An engine. Answers queue when its socket is full; one that never reads is dropped, its exits stay journalled."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.outbox: list[Any] = []
        self.closed = False


class Supervisor:
    def __init__(self, listener: socket.socket, exec_root: str, data_root: str) -> None:
        self._listener = listener
        self._exec_root = exec_root
        self._settings = launch.Settings(os.fsencode(exec_root + "/rootfs"), [], ())
        self._groups_directory = exec_root + "/groups"
        self._null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self._journal = Journal(data_root + "/supervisor/exits")
        self._exits: dict[tuple[str, str, int], dict[str, Any]] = {}
        self._processes: dict[int, Process] = {}
        self._by_key: dict[tuple[str, str], Process] = {}
        self._groups: dict[str, dict[str, Any]] = {}
        self._dying: dict[str, dict[str, Any]] = {}
        self._undrained: dict[tuple[str, str, int], Process] = {}
        self._drain_waits: list[tuple[tuple[str, str, int], Connection, int]] = []
        self._attachments: dict[int, tuple[Connection, int]] = {}
        self._next_ident = 1
        self._connections: list[Connection] = []
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._copier_pid = 0
        self._copier: socket.socket | None = None
        self._copier_outbox: list[tuple[Any, tuple[int, ...]]] = []
        self._idle_since = time.monotonic()
        self._capabilities = 0
        self._stopping = False

    # ---- life

    def prepare(self) -> None:
        """Everything with an effect that must be done once: roots, limits, signals, the copier."""
        os.makedirs(self._settings.mountpoint, 0o700, exist_ok=True)
        os.makedirs(self._groups_directory, 0o700, exist_ok=True)
        for exit_ in self._journal.read():
            self._exits[exit_["container_id"], exit_["exec_id"], exit_["run"]] = exit_
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._capabilities = _own_capabilities()
        # Containers get the limit the engine was started with; the supervisor itself holds many descriptors.
        self._settings.limits = [(resource.RLIMIT_NOFILE, soft, hard)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        readable, writable = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
        for ignored in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            signal.signal(ignored, signal.SIG_IGN)  # ended by `shutdown` or SIGKILL, never by a stray terminal
        self._settings.ignored_signals = p.ignored_signals()
        self._watch(readable, select.EPOLLIN, lambda events: self._on_child(readable))
        self._watch(self._listener.fileno(), select.EPOLLIN, self._on_connect)
        self._start_copier()

    def run(self) -> None:
        while not self._stopping:
            for fd, events in self._epoll.poll(self._patience()):
                handler = self._handlers.get(fd)
                if handler is not None:
                    handler(events)
            self._sweep()
            if self._is_idle():
                break
        os.unlink(self._listener.getsockname())

    def _patience(self) -> float:
        if self._dying:
            return SWEEP_S
        return IDLE_S if not self._connections else -1

    def _is_idle(self) -> bool:
        if self._connections or self._processes or self._exits or self._undrained:
            self._idle_since = time.monotonic()
            return False
        return time.monotonic() - self._idle_since >= IDLE_S

    def _watch(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        self._handlers[fd] = handler
        self._epoll.register(fd, events)

    def _unwatch(self, fd: int) -> None:
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    # ---- engines

    def _on_connect(self, events: int) -> None:
        sock, _ = self._listener.accept()
        connection = Connection(sock)
        self._connections.append(connection)
        self._watch(sock.fileno(), select.EPOLLIN, lambda events: self._on_request(connection, events))

    def _on_request(self, connection: Connection, events: int) -> None:
        if events & select.EPOLLOUT:
            self._flush(connection)
        if not events & ~select.EPOLLOUT:
            return
        try:
            message = wire.receive(connection.sock)
        except BlockingIOError:
            return
        except OSError:
            message = None
        if message is None:
            self._drop(connection)
            return
        (sequence, verb, arguments), fds = message
        try:
            value = getattr(self, "_do_" + verb)(connection, sequence, fds, **arguments)
        except OSError as error:
            text = error.strerror or str(error)
            self._answer(connection, sequence, False, {"message": text, "errno": error.errno or 0, "exit_code": 128})
        except Exception as error:
            words = f"{type(error).__name__}: {error}"
            self._answer(connection, sequence, False, {"message": words, "errno": 0, "exit_code": 128})
        else:
            if value is not launch:
                self._answer(connection, sequence, True, value)
        finally:
            for fd in fds:
                os.close(fd)

    def _answer(self, connection: Connection, sequence: int, ok: bool, value: Any) -> None:
        if connection.closed:
            return
        connection.outbox.append((sequence, ok, value))
        if len(connection.outbox) == 1:
            self._flush(connection)

    def _flush(self, connection: Connection) -> None:
        while connection.outbox:
            try:
                wire.send(connection.sock, connection.outbox[0])
            except BlockingIOError:
                if len(connection.outbox) > OUTBOX_MAX:
                    self._drop(connection)
                    return
                self._epoll.modify(connection.sock.fileno(), select.EPOLLIN | select.EPOLLOUT)
                return
            except OSError:
                self._drop(connection)
                return
            del connection.outbox[0]
        self._epoll.modify(connection.sock.fileno(), select.EPOLLIN)

    def _drop(self, connection: Connection) -> None:
        if connection.closed:
            return
        connection.closed = True
        self._unwatch(connection.sock.fileno())
        connection.sock.close()
        self._connections.remove(connection)
        self._idle_since = time.monotonic()

    def _push(self, kind: str, value: Any) -> None:
        for connection in list(self._connections):
            self._answer(connection, 0, True, (kind, value))

    # ---- verbs

    def _do_hello(self, connection: Connection, sequence: int, fds: list[int]) -> Any:
        return {"pid": os.getpid(), "copier": self._copier_pid}

    def _do_start(self, connection: Connection, sequence: int, fds: list[int], *, plan: dict[str, Any]) -> Any:
        """A container's first process. Idempotent by (id, run): a second request gets the same pid."""
        container, run = plan["container_id"], plan["run"]
        known = self._by_key.get((container, ""))
        if known is not None:
            if known.run != run:
                raise FileExistsError(17, f"container {container} runs already")
            if known.started:
                return known.pid
            known.answer = (connection, sequence)
            return launch
        if (container, "", run) in self._exits:
            return 0
        self._finish_dying(container)
        group = plan["cgroup"]
        self._claim(container, group)
        try:
            cgroups.make(group)
            process = self._fork(plan, lambda stdio: launch.fork_container(
                plan, stdio, fds[0] if fds else -1, self._settings
            ))  # fmt: skip
        except BaseException:
            self._discard_group(container, group)
            raise
        process.group, process.kills_group = group, not plan["own_pid_namespace"]
        process.filter = plan["process"]["seccomp"], plan["process"]["seccomp_flags"]
        self._groups[container] = group
        process.answer = (connection, sequence)
        return launch

    def _do_execute(self, connection: Connection, sequence: int, fds: list[int], *, plan: dict[str, Any]) -> Any:
        container, exec_id = plan["container_id"], plan["exec_id"]
        target = self._by_key.get((container, ""))
        if target is None or not target.started:
            raise ProcessLookupError(3, f"container {container} is not running")
        known = self._by_key.get((container, exec_id))
        if known is not None and known.started:
            return known.pid
        plan["run"] = target.run
        plan["cgroup"] = target.group
        plan["process"]["seccomp"], plan["process"]["seccomp_flags"] = target.filter
        process = self._fork(plan, lambda stdio: launch.fork_exec(plan, stdio, target.pid, self._settings))
        process.answer = (connection, sequence)
        return launch

    def _do_signal(
        self, connection: Connection, sequence: int, fds: list[int], *, container_id: str, exec_id: str, number: int
    ) -> Any:
        process = self._by_key.get((container_id, exec_id))
        if process is None:
            return False
        # The pid cannot be anybody else's: a dead child keeps it until this very process has reaped it.
        os.kill(process.pid, number)
        return True

    def _do_list(self, connection: Connection, sequence: int, fds: list[int]) -> Any:
        running = [
            {
                "container_id": each.id,
                "run": each.run,
                "exec_id": each.exec_id,
                "pid": each.pid,
                "group": each.group["trees"][0]["path"] if each.group.get("trees") else "",
            }
            for each in self._processes.values()
            if each.started
        ]
        return {"running": running, "exits": list(self._exits.values())}

    def _do_forget(
        self, connection: Connection, sequence: int, fds: list[int], *, container_id: str, run: int, exec_id: str,
        group: dict[str, Any],
    ) -> Any:  # fmt: skip
        """`group` is for a container this supervisor never knew: its leftovers are killed and removed as well."""
        self._exits.pop((container_id, exec_id, run), None)
        self._journal.forget(container_id, run, exec_id)
        if not exec_id and (container_id, "") not in self._by_key:
            self._discard_group(container_id, self._groups.pop(container_id, group))
        return None

    def _do_attach(
        self, connection: Connection, sequence: int, fds: list[int], *, container_id: str, exec_id: str,
        want: dict[str, bool], detach_keys: bytes, early_input: bytes,
    ) -> Any:  # fmt: skip
        """Answered at once with the attachment's number; its end is pushed as `stream_end`."""
        ident, self._next_ident = self._next_ident, self._next_ident + 1
        self._attachments[ident] = (connection, ident)
        client = os.dup(fds[0])
        self._to_copier(("attach", ident, container_id, exec_id, want, detach_keys, early_input), (client,))
        return ident

    def _do_cancel(self, connection: Connection, sequence: int, fds: list[int], *, ident: int) -> Any:
        if ident in self._attachments:
            self._to_copier(("cancel", ident))
        return None

    def _do_fence(self, connection: Connection, sequence: int, fds: list[int]) -> Any:
        token, self._next_ident = self._next_ident, self._next_ident + 1
        self._attachments[token] = (connection, -sequence)
        self._to_copier(("fence", token))
        return launch

    def _do_resize(
        self, connection: Connection, sequence: int, fds: list[int], *, container_id: str, exec_id: str, height: int,
        width: int,
    ) -> Any:  # fmt: skip
        process = self._by_key.get((container_id, exec_id))
        if process is None:
            raise ProcessLookupError(3, "no such process")
        if process.master >= 0:
            fcntl.ioctl(process.master, termios.TIOCSWINSZ, struct.pack("4H", height, width, 0, 0))
        return None

    def _do_drained(
        self, connection: Connection, sequence: int, fds: list[int], *, container_id: str, run: int, exec_id: str
    ) -> Any:
        key = (container_id, exec_id, run)
        process = self._by_key.get((container_id, exec_id))
        if key not in self._undrained and (process is None or process.run != run):
            return None
        self._drain_waits.append((key, connection, sequence))
        return launch

    def _do_shutdown(self, connection: Connection, sequence: int, fds: list[int]) -> Any:
        """End everything and go: for tests and for `--purge`, never part of an engine's stop."""
        for process in list(self._processes.values()):
            os.kill(process.pid, signal.SIGKILL)
            os.waitpid(process.pid, 0)
        for container, group in self._groups.items():
            self._discard_group(container, group)
        deadline = time.monotonic() + 5
        while self._dying and time.monotonic() < deadline:
            self._sweep()
            time.sleep(0.01)
        self._stopping = True
        return None

    # ---- starting

    def _fork(self, plan: dict[str, Any], fork: Callable[[launch.Stdio], tuple[int, socket.socket]]) -> Process:
        container, exec_id = plan["container_id"], plan["exec_id"]
        shape = plan["stdio"]
        for name in ("bounding", "permitted", "effective", "inheritable", "ambient"):
            plan["process"][name] &= self._capabilities  # what this host lacks, nobody gets (as runc)
        ours: dict[str, int] = {}
        theirs: list[int] = []
        log_fd = -1
        try:
            if shape["log"]["driver"] != "none":
                log_fd = os.open(shape["log"]["path"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
            stdio = self._pipes(shape, ours, theirs)
            pid, report = fork(stdio)
        except BaseException:
            for fd in ours.values():
                os.close(fd)
            if log_fd >= 0:
                os.close(log_fd)
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        process = Process(container, exec_id, plan["run"], pid)
        process.shape, process.fds, process.log_fd, process.report = shape, ours, log_fd, report
        self._processes[pid] = self._by_key[process.key] = process
        self._watch(report.fileno(), select.EPOLLIN, lambda events: self._on_report(process))
        return process

    def _pipes(self, shape: dict[str, Any], ours: dict[str, int], theirs: list[int]) -> launch.Stdio:
        if shape["tty"]:
            return launch.Stdio(self._null, self._null, self._null)
        ends = {}
        for name in ("stdout", "stderr"):
            ours[name], ends[name] = os.pipe2(os.O_CLOEXEC)
            theirs.append(ends[name])
        stdin = self._null
        if shape["open_stdin"]:
            stdin, ours["stdin"] = os.pipe2(os.O_CLOEXEC)
            theirs.append(stdin)
        return launch.Stdio(stdin, ends["stdout"], ends["stderr"])

    def _on_report(self, process: Process) -> None:
        report = process.report
        assert report is not None
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
                continue
            self._close_report(process)
            self._fail(process, *details)
            return
        self._close_report(process)
        process.started = True
        self._open_stream(process)
        self._reply(process, True, process.pid)

    def _close_report(self, process: Process) -> None:
        assert process.report is not None
        self._unwatch(process.report.fileno())
        process.report.close()
        process.report = None

    def _fail(self, process: Process, message: str, exit_code: int, number: int) -> None:
        """The child never became the program: undo everything, then say so."""
        os.waitpid(process.pid, 0)
        self._remove_process(process)
        self._close_fds(process)
        self._to_copier(("abort", process.id, process.exec_id))
        if not process.exec_id:
            self._discard_group(process.id, self._groups.pop(process.id, process.group))
        self._reply(process, False, {"message": message, "errno": number, "exit_code": exit_code})

    def _reply(self, process: Process, ok: bool, value: Any) -> None:
        if process.answer is not None:
            self._answer(*process.answer, ok, value)
            process.answer = None

    def _remove_process(self, process: Process) -> None:
        self._processes.pop(process.pid, None)
        if self._by_key.get(process.key) is process:
            del self._by_key[process.key]

    def _close_fds(self, process: Process) -> None:
        for fd in (*process.fds.values(), process.master, process.log_fd):
            if fd >= 0:
                os.close(fd)
        process.fds, process.master, process.log_fd = {}, -1, -1

    def _open_stream(self, process: Process) -> None:
        shape = process.shape
        if shape["tty"]:
            fds = [process.master]
            if shape["open_stdin"] and "stdin" not in process.fds:
                process.fds["stdin"] = os.dup(process.master)
        else:
            fds = [process.fds["stdout"], process.fds["stderr"]]
        if "stdin" in process.fds:
            fds.append(process.fds["stdin"])
        if process.log_fd < 0 and shape["log"]["driver"] != "none":
            process.log_fd = os.open(shape["log"]["path"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        if process.log_fd >= 0:
            fds.append(process.log_fd)
            process.log_fd = -1
        what = {
            "tty": shape["tty"],
            "stdin_once": shape["stdin_once"],
            "stdout": True,
            "stderr": not shape["tty"],
            "stdin": "stdin" in process.fds,
            "log": shape["log"],
        }
        duplicates = tuple(os.dup(fd) if fd in (*process.fds.values(), process.master) else fd for fd in fds)
        self._undrained[process.id, process.exec_id, process.run] = process
        self._to_copier(("open", process.id, process.exec_id, process.run, what), duplicates)

    # ---- ends

    def _on_child(self, wakeup: int) -> None:
        os.read(wakeup, 4096)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._copier_pid:
                self._replace_copier()
                continue
            process = self._processes.get(pid)
            if process is not None:
                self._on_exit(process, status)

    def _on_exit(self, process: Process, status: int) -> None:
        now = time.time_ns()
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
        if not process.started:
            self._settle_report(process)
            if not process.started:
                return
        self._remove_process(process)
        if process.kills_group and not process.exec_id:
            cgroups.kill(process.group)  # without a pid namespace of its own nothing else ends the rest
        exit_ = {
            "container_id": process.id,
            "run": process.run,
            "exec_id": process.exec_id,
            "exit_code": code,
            "oom_killed": not process.exec_id and cgroups.oom_kills(process.group.get("oom", "")) > 0,
            "finished_at_ns": now,
        }
        self._exits[process.id, process.exec_id, process.run] = exit_
        self._journal.record(exit_, durable=not self._connections)
        self._to_copier(("exited", process.id, process.exec_id, process.run))
        self._push("exit", exit_)

    def _settle_report(self, process: Process) -> None:
        """The child is reaped before its report was read: read it now. Whatever it says is complete."""
        report = process.report
        assert report is not None
        while True:
            message = wire.receive(report)
            if message is None:
                break
            (kind, *details), fds = message
            if kind == "terminal":
                process.master = fds[0]
                continue
            self._close_report(process)
            self._fail_reaped(process, *details)
            return
        self._close_report(process)
        process.started = True
        self._open_stream(process)
        self._reply(process, True, process.pid)

    def _fail_reaped(self, process: Process, message: str, exit_code: int, number: int) -> None:
        self._remove_process(process)
        self._close_fds(process)
        self._to_copier(("abort", process.id, process.exec_id))
        if not process.exec_id:
            self._discard_group(process.id, self._groups.pop(process.id, process.group))
        self._reply(process, False, {"message": message, "errno": number, "exit_code": exit_code})

    # ---- cgroups on their way out

    def _discard_group(self, container: str, group: dict[str, Any]) -> None:
        if group.get("trees"):
            cgroups.kill(group)
            self._dying[container] = group

    def _claim(self, container: str, group: dict[str, Any]) -> None:
        """Write down whose group this is: another engine on this host may use the same parent group, and neither may
        take the other's for an orphan."""
        if group["trees"]:
            with open(f"{self._groups_directory}/{container}", "w") as claim:
                claim.write(group["trees"][0]["path"])

    def _finish_dying(self, container: str) -> None:
        """A start right after a forget: the old group must be gone, its counters are not the new run's."""
        group = self._dying.pop(container, None)
        if group is not None:
            cgroups.remove(group)

    def _sweep(self) -> None:
        for container, group in list(self._dying.items()):
            if cgroups.remove(group):
                del self._dying[container]
                try:
                    os.unlink(f"{self._groups_directory}/{container}")
                except FileNotFoundError:
                    continue

    # ---- the copier

    def _start_copier(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            self._become_copier(theirs)
        theirs.close()
        ours.setblocking(False)
        self._copier, self._copier_pid = ours, pid
        self._watch(ours.fileno(), select.EPOLLIN, self._on_copier)

    def _become_copier(self, control: socket.socket) -> None:
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            keep = control.fileno()
            os.closerange(3, keep)
            os.closerange(keep + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
            copier.Copier(control).run()
        finally:
            os._exit(1)

    def _replace_copier(self) -> None:
        """The copier died (nobody should kill it, but the kernel's OOM killer may): another goes on with the kept
        descriptors. What the old one had read and not written is lost, and so are its clients."""
        assert self._copier is not None
        self._unwatch(self._copier.fileno())
        self._copier.close()
        self._copier_outbox.clear()
        for ident, (connection, sequence) in list(self._attachments.items()):
            if sequence < 0:
                self._answer(connection, -sequence, True, None)
            else:
                self._answer(connection, 0, True, ("stream_end", (ident, "gone")))
        self._attachments.clear()
        self._start_copier()
        for process in list(self._undrained.values()):
            self._open_stream(process)
            if process.pid not in self._processes:
                self._to_copier(("exited", process.id, process.exec_id, process.run))

    def _to_copier(self, message: tuple[Any, ...], fds: tuple[int, ...] = ()) -> None:
        """Descriptors given here are closed once sent. Never blocks: the copier may be waiting for this loop."""
        self._copier_outbox.append((message, fds))
        if len(self._copier_outbox) == 1:
            self._flush_copier()

    def _flush_copier(self) -> None:
        assert self._copier is not None
        while self._copier_outbox:
            message, fds = self._copier_outbox[0]
            try:
                wire.send(self._copier, message, fds)
            except BlockingIOError:
                self._epoll.modify(self._copier.fileno(), select.EPOLLIN | select.EPOLLOUT)
                return
            except OSError:
                return  # it died: SIGCHLD brings the replacement, which is told anew
            for fd in fds:
                os.close(fd)
            del self._copier_outbox[0]
        self._epoll.modify(self._copier.fileno(), select.EPOLLIN)

    def _on_copier(self, events: int) -> None:
        if events & select.EPOLLOUT:
            self._flush_copier()
        assert self._copier is not None
        try:
            message = wire.receive(self._copier)
        except BlockingIOError:
            return
        except OSError:
            message = None
        if message is None:
            self._unwatch(self._copier.fileno())
            return
        (verb, *arguments), _ = message
        getattr(self, "_heard_" + verb)(*arguments)

    def _heard_end(self, ident: int, reason: str) -> None:
        connection, _ = self._attachments.pop(ident, (None, 0))
        if connection is not None:
            self._answer(connection, 0, True, ("stream_end", (ident, reason)))

    def _heard_fence(self, token: int) -> None:
        connection, sequence = self._attachments.pop(token, (None, 0))
        if connection is not None:
            self._answer(connection, -sequence, True, None)

    def _heard_stdin_closed(self, container: str, exec_id: str, run: int) -> None:
        process = self._undrained.get((container, exec_id, run))
        if process is not None and "stdin" in process.fds:
            os.close(process.fds.pop("stdin"))
            process.shape = {**process.shape, "open_stdin": False}

    def _heard_drained(self, container: str, exec_id: str, run: int) -> None:
        key = (container, exec_id, run)
        process = self._undrained.pop(key, None)
        if process is not None:
            self._close_fds(process)
        for entry in [entry for entry in self._drain_waits if entry[0] == key]:
            self._drain_waits.remove(entry)
            self._answer(entry[1], entry[2], True, None)


def _own_capabilities() -> int:
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("CapPrm:"):
                return int(line[7:], 16)
    return 0
