"""A child's steps, from the clone to exec, in the order the kernel needs.

Owns: what happens between the two in a container's first process, in a further one, and in the builder of a remapped
container's tree. Refuses to know: how it was forked, who asked, what becomes of the exit.

It reports on a packet socket that closes at exec: a terminal's master, or the step that failed. Silence and end of
file mean that the program runs. Children never return: they exec or `_exit`.

A child is the supervisor's image until it execs, seen by whoever shares its pid namespace. So it first closes what is
not its own, may be neither traced nor looked into (not even for the time between its last step and exec), and imports
nothing any more: what it could import then would be the container's (`guard`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import select
import signal
import socket
import struct
import sys

from . import kernel as k
from . import process as p
from . import rootfs, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

EXEC_NAMESPACES = k.CLONE_NEWNS | k.CLONE_NEWIPC | k.CLONE_NEWUTS | k.CLONE_NEWNET | k.CLONE_NEWCGROUP


class Stdio:
    """The child's three descriptors, or -1 where a terminal takes their place."""

    __slots__ = ("stderr", "stdin", "stdout")

    def __init__(self, stdin: int, stdout: int, stderr: int) -> None:
        self.stdin, self.stdout, self.stderr = stdin, stdout, stderr


class Settings:
    """What is the same for every child. mountpoint: an empty directory, covered in each mount namespace alone.
    limits: those the engine was started with. ignored_signals: to give back. supervisor: a pidfd of the supervisor."""

    __slots__ = ("ignored_signals", "limits", "mountpoint", "supervisor")

    def __init__(
        self,
        mountpoint: bytes,
        limits: list[tuple[int, int, int]],
        ignored_signals: tuple[int, ...],
        supervisor: int,
    ) -> None:
        self.mountpoint, self.limits, self.ignored_signals = mountpoint, limits, ignored_signals
        self.supervisor = supervisor


def guard(report: socket.socket, stdio: Stdio, settings: Settings, kept: set[int], steps: Any) -> NoReturn:
    """Run the child's steps and tell the supervisor which of them failed. kept: descriptors of its own."""
    try:
        k.prctl(k.PR_SET_DUMPABLE, 0)
        own = {0, 1, 2, report.fileno(), stdio.stdin, stdio.stdout, stdio.stderr, settings.supervisor}
        k.close_all_but({fd for fd in own | kept if fd >= 0})
        sys.path.clear()
        sys.meta_path.clear()
        steps()
    except p.ExecError as error:
        wire.send(report, ("error", str(error), error.exit_code, error.number))
    except OSError as error:
        wire.send(report, ("error", _words(error), 0, error.errno or 0))
    except BaseException as error:
        wire.send(report, ("error", f"{type(error).__name__}: {error}", 128, 0))
    finally:
        os._exit(127)
    raise AssertionError


def _words(error: OSError) -> str:
    if isinstance(error, rootfs.MountError):
        return str(error.strerror)
    text = (error.strerror or "").lower()
    name = error.filename.decode(errors="replace") if isinstance(error.filename, bytes) else error.filename
    return f"{name}: {text}" if name else text


def container(
    plan: dict[str, Any],
    stdio: Stdio,
    netns_fd: int,
    joins: list[tuple[int, int]],
    settings: Settings,
    report: socket.socket,
) -> None:
    label = _settle(plan, netns_fd, joins, settings)
    if plan["loopback"]:
        _raise_loopback()
    if plan["oom_score_adj"] is not None:
        _write("/proc/self/oom_score_adj", str(plan["oom_score_adj"]).encode())
    _build_tree(plan, settings.mountpoint)
    _name(plan)
    _write_sysctls(plan)
    slave = _terminal(plan, report, console=True)
    _restrict(plan)
    p.confine(plan["process"], label)
    _run(plan["process"], stdio, slave, settings, report)


def _settle(plan: dict[str, Any], netns_fd: int, joins: list[tuple[int, int]], settings: Settings) -> int:
    """The first steps of a container's own process: into namespaces of others, its group and a session. What
    `open_label` says."""
    _die_with_supervisor(settings)
    p.restore_signals(settings.ignored_signals)
    for fd, flag in joins:
        k.setns(fd, flag)
    if netns_fd >= 0:
        k.setns(netns_fd, k.CLONE_NEWNET)
    label = p.open_label(plan["process"])
    _join_cgroup(plan["cgroup"])
    if plan["cgroup_namespace"]:
        k.unshare(k.CLONE_NEWCGROUP)
    os.setsid()
    k.join_session_keyring(plan["keyring"])
    return label


def _restrict(plan: dict[str, Any]) -> None:
    if plan["readonly"]:
        k.set_mount_attributes(-100, b"/", k.MOUNT_ATTR_RDONLY, recursive=False)
    rootfs.make_readonly(plan["readonly_paths"])
    rootfs.mask(plan["masked_paths"])


def remapped(
    plan: dict[str, Any],
    stdio: Stdio,
    netns_fd: int,
    joins: list[tuple[int, int]],
    settings: Settings,
    report: socket.socket,
    builder: socket.socket,
) -> None:
    """The container's own process in its user namespace: until it becomes its root it is still the host's, without any
    right but to files that the host's root owns (the cgroups')."""
    label = _settle(plan, netns_fd, joins, settings)
    wire.send(builder, ("joined",))
    message = wire.receive(builder)
    if message is None:
        os._exit(127)  # the builder has said why
    tree = message[1][0]
    k.mount(None, b"/", None, k.MS_SLAVE | k.MS_REC)
    target = os.open(settings.mountpoint, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    k.move_mount(tree, target)
    for fd in (tree, target):
        os.close(fd)
    rootfs.enter(settings.mountpoint, shared=False)
    # Whatever a volume shares with the host goes one way only: the host's rights are not the container's.
    k.mount(None, b"/", None, k.MS_SLAVE | k.MS_REC)
    _become_root(settings)
    slave = _terminal(plan, report, console=False)
    if slave >= 0:
        p.bind_console(slave)
    p.confine(plan["process"], label)
    _run(plan["process"], stdio, slave, settings, report)


def _become_root(settings: Settings) -> None:
    """From the host's root, which nobody is in a user namespace, to the namespace's own."""
    os.setgroups(())
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    _hide(settings)


def _hide(settings: Settings) -> None:
    """A change of credentials has taken both away."""
    k.prctl(k.PR_SET_DUMPABLE, 0)
    _die_with_supervisor(settings)


def build(
    plan: dict[str, Any], settings: Settings, pid: int, target: int, owner: int, container: socket.socket
) -> None:
    """The builder: `target` and `pid` are the container's process, `owner` its user namespace. What it makes belongs to
    the container's root."""
    _die_with_supervisor(settings)
    p.restore_signals(settings.ignored_signals)
    if wire.receive(container) is None:
        os._exit(127)  # the container's process has said why
    if plan["oom_score_adj"] is not None:
        _write(f"/proc/{pid}/oom_score_adj", str(plan["oom_score_adj"]).encode())
    k.setns(target, k.CLONE_NEWIPC | k.CLONE_NEWUTS | k.CLONE_NEWNET | k.CLONE_NEWCGROUP)
    k.act_as(*plan["user_namespace"]["root"])
    _hide(settings)
    if plan["loopback"]:
        _raise_loopback()
    _build_tree(plan, settings.mountpoint, owner)
    _name(plan)
    if plan["sysctls"]:
        _write_sysctls_as_root(plan, settings)
    _restrict(plan)
    # What is copied to another user's mount namespace is locked there: no read-only bind can be made writable, and no
    # mask taken off, whatever capabilities the container has.
    k.setns(owner, k.CLONE_NEWUSER)
    k.unshare(k.CLONE_NEWNS)
    wire.send(container, ("tree",), (k.open_tree(b"/", recursive=True),))
    os._exit(0)


def _write_sysctls(plan: dict[str, Any]) -> None:
    for path, value in plan["sysctls"]:
        _write(path, value.encode(), magic=k.PROC_MAGIC)


def _write_sysctls_as_root(plan: dict[str, Any], settings: Settings) -> None:
    """Those of an IPC namespace ask who writes, those of a network what he may: the root that the first belong to, with
    the rights over the second."""
    uid, gid = plan["user_namespace"]["root"]
    os.setegid(gid)
    os.seteuid(uid)
    k.raise_capabilities()
    _write_sysctls(plan)
    os.seteuid(0)
    os.setegid(0)
    k.act_as(uid, gid)
    _hide(settings)


def _die_with_supervisor(settings: Settings) -> None:
    """Until it runs a program, a child without a supervisor is nobody's: it would finish its setup after a recovery has
    looked, and run on unseen."""
    k.prctl(k.PR_SET_PDEATHSIG, signal.SIGKILL)
    watch = select.poll()
    watch.register(settings.supervisor, select.POLLIN)
    if watch.poll(0):  # it died before it could be the one to send the signal
        os._exit(127)


def further(plan: dict[str, Any], stdio: Stdio, target: int, settings: Settings, report: socket.socket) -> None:
    label = _enter(plan, target, settings)
    _become(plan, stdio, label, settings, report)


def waiting(entry: dict[str, Any], target: int, settings: Settings, report: socket.socket) -> None:
    """As `further`, but for its command, which comes by the socket on which it reports, and the word to run it, which
    comes behind, unless it is not wanted."""
    label = _enter(entry, target, settings)
    plan, fds = _hear(report)
    _become(plan, Stdio(*fds), label, settings, report, lambda: _hear(report))


def _hear(report: socket.socket) -> tuple[Any, list[int]]:
    message = wire.receive(report)
    if message is None:
        os._exit(0)
    return message


def _enter(plan: dict[str, Any], target: int, settings: Settings) -> int:
    """A further process's way into the container. What `open_label` says."""
    _die_with_supervisor(settings)
    p.restore_signals(settings.ignored_signals)
    label = p.open_label(plan["process"])
    _go_through(plan["cgroup"]["join"])
    if plan["oom_score_adj"] is not None:
        _write("/proc/self/oom_score_adj", str(plan["oom_score_adj"]).encode())
    remapped = plan["user_namespace"] is not None
    k.setns(target, EXEC_NAMESPACES | (k.CLONE_NEWUSER if remapped else 0))
    if remapped:
        _become_root(settings)
    os.setsid()
    k.join_session_keyring(plan["keyring"])
    return label


def _become(
    plan: dict[str, Any],
    stdio: Stdio,
    label: int,
    settings: Settings,
    report: socket.socket,
    until_wanted: Callable[[], object] | None = None,
) -> None:
    slave = _terminal(plan, report, console=False)
    p.confine(plan["process"], label)
    _run(plan["process"], stdio, slave, settings, report, until_wanted)


def _build_tree(plan: dict[str, Any], mountpoint: bytes, owner: int = -1) -> None:
    """owner: the user namespace whose root the files of layers shall belong to."""
    propagation = plan["propagation"]
    shared = bool(propagation & k.MS_SHARED)
    k.mount(None, b"/", None, propagation)
    if shared:
        rootfs.make_parent_private(mountpoint)
    layers = plan["rootfs"] if owner < 0 else rootfs.shift_layers(plan["rootfs"], mountpoint, owner)
    rootfs.mount_overlay(layers, mountpoint)
    root_fd = os.open(mountpoint, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for entry in plan["mounts"]:
        rootfs.mount_one(root_fd, entry)
    if plan["devices"] is not None:
        rootfs.make_devices(root_fd, plan["devices"])
    os.close(root_fd)
    rootfs.enter(mountpoint, shared=shared)
    if plan["root_propagation"]:
        k.mount(None, b"/", None, plan["root_propagation"])


def _name(plan: dict[str, Any]) -> None:
    if plan["hostname"]:
        socket.sethostname(plan["hostname"])


def _terminal(plan: dict[str, Any], report: socket.socket, *, console: bool) -> int:
    stdio = plan["stdio"]
    if not stdio["tty"]:
        return -1
    master, slave = p.open_terminal(plan["process"], stdio["height"], stdio["width"], console=console)
    wire.send(report, ("terminal",), (master,))
    os.close(master)
    return slave


def _run(
    process: dict[str, Any],
    stdio: Stdio,
    slave: int,
    settings: Settings,
    report: socket.socket,
    until_wanted: Callable[[], object] | None = None,
) -> None:
    """until_wanted: returns when the program shall run. Nothing before it can be seen by the container's files."""
    for number, soft, hard in settings.limits:
        resource.setrlimit(number, (soft, hard))
    p.set_limits(process)
    if slave >= 0:
        stdio = Stdio(slave, slave, slave)
        p.take_terminal(slave)
    environment = {}
    for item in process["env"]:
        name, _, value = item.partition("=")
        environment[name] = value
    p.become(process)
    place((stdio.stdin, stdio.stdout, stdio.stderr))
    k.close_all_but({0, 1, 2, report.fileno()})
    if until_wanted is not None:
        p.filter_early(process)
        until_wanted()
    p.change_directory(process)
    path = p.find_program(process["args"][0], environment)
    # Said before the filter may forbid saying anything: an end of file without this word means a death in the setup.
    wire.send(report, ("ready",))
    k.prctl(k.PR_SET_PDEATHSIG, 0)  # programs outlive the supervisor; a change of user cleared it already
    p.seal(process)
    p.execute(path, process["args"], environment)


def place(sources: tuple[int, int, int]) -> None:
    """Put the three at 0, 1 and 2; first out of the way of each other."""
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in sources]
    for number, fd in enumerate(high):
        os.dup2(fd, number, inheritable=True)


def _join_cgroup(cgroup: dict[str, Any]) -> None:
    # "0" written to a v1 `tasks` file moves the single thread that writes, without the wait for a grace period that
    # cgroup.procs brings.
    for path in cgroup["join"]:
        _write(path, b"0")


def _go_through(doors: tuple[int, ...]) -> None:
    """As `_join_cgroup`, by files that are open already."""
    for fd in doors:
        os.write(fd, b"0")


def _write(path: str, data: bytes, *, magic: int = 0) -> None:
    """magic: of the file system that the path must be on, where the container could have put something else."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        if magic and k.filesystem_type(fd) != magic:
            raise OSError(errno.EPERM, "not the kernel's file")
        os.write(fd, data)
    except OSError as error:
        raise OSError(error.errno, f"write {path}: {(error.strerror or '').lower()}") from error
    finally:
        os.close(fd)


def _raise_loopback() -> None:
    siocgifflags, siocsifflags, iff_up = 0x8913, 0x8914, 1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(sock, siocgifflags, request))[1]
        fcntl.ioctl(sock, siocsifflags, struct.pack("16sh14x", b"lo", flags | iff_up))
