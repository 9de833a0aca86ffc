"""One fork: what must be open before it, and the clone itself. What the child does then is in child.py.

Refuses to know: who asked, what becomes of the exit.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket

from . import child
from . import kernel as k
from .child import Settings, Stdio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

PLACEHOLDER_S = 60


def fork_container(
    plan: dict[str, Any], stdio: Stdio, netns_fd: int, settings: Settings
) -> tuple[int, socket.socket, tuple[int, ...]]:
    """The first process of a container: (pid, the socket its report comes on, pids of others to be reaped). Raises
    OSError when a namespace to join is gone or the clone is refused."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    opened: list[int] = []

    def open_namespace(path: str) -> int:
        opened.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        return opened[-1]

    try:
        joins = [(open_namespace(path), flag) for path, flag in plan["joins"]]
        pid_namespace = open_namespace(plan["pid_namespace"]) if plan["pid_namespace"] else -1
        kept = {netns_fd, *(fd for fd, _ in joins)}
        if plan["user_namespace"] is not None:
            path = plan["user_namespace"]["path"]
            owner = open_namespace(path) if path else k.owner_of(netns_fd)
            opened += [] if path else [owner]
            return _fork_remapped(plan, stdio, netns_fd, joins, settings, (ours, theirs), owner, pid_namespace)
        pid = _clone(plan["clone_flags"], plan["cgroup"]["into"], pid_namespace)
        if pid == 0:
            child.guard(
                theirs, stdio, settings, kept, lambda: child.container(plan, stdio, netns_fd, joins, settings, theirs)
            )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
        for fd in opened:
            os.close(fd)
    ours.setblocking(False)
    return pid, ours, ()


def fork_placeholder() -> int:
    """A process without descriptors that sleeps for a minute at most."""
    pid = os.fork()
    if pid == 0:
        signal.set_wakeup_fd(-1)
        os.closerange(0, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        signal.alarm(PLACEHOLDER_S)
        while True:
            signal.pause()
    return pid


def _fork_remapped(
    plan: dict[str, Any],
    stdio: Stdio,
    netns_fd: int,
    joins: list[tuple[int, int]],
    settings: Settings,
    reports: tuple[socket.socket, socket.socket],
    owner: int,
    pid_namespace: int,
) -> tuple[int, socket.socket, tuple[int, ...]]:
    """With a user namespace (`owner`) the work is for two. The container's own process has no right to mount what the
    tree is made of; so a builder, a child of the host in the other namespaces of the container, makes it and hands it
    over as one detached mount."""
    ours, theirs = reports
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        pid = _clone(plan["clone_flags"], plan["cgroup"]["into"], pid_namespace, owner)
        if pid == 0:
            kept = {netns_fd, near.fileno(), *(fd for fd, _ in joins)}
            far.close()
            child.guard(
                theirs,
                stdio,
                settings,
                kept,
                lambda: child.remapped(plan, stdio, netns_fd, joins, settings, theirs, near),
            )
        target = k.pidfd_open(pid)
        inside = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        try:
            builder = _clone(k.CLONE_NEWNS, "", inside)
            if builder == 0:
                near.close()
                none = Stdio(-1, -1, -1)
                kept = {target, owner, far.fileno()}
                child.guard(theirs, none, settings, kept, lambda: child.build(plan, settings, pid, target, owner, far))
        finally:
            os.close(target)
            os.close(inside)
    finally:
        near.close()
        far.close()
    ours.setblocking(False)
    return pid, ours, (builder,)


def fork_exec(
    plan: dict[str, Any], stdio: Stdio, target_pid: int, settings: Settings
) -> tuple[int, socket.socket, tuple[int, ...]]:
    """A further process in the namespaces and cgroup of the container whose first process is `target_pid`. As
    `fork_container`."""
    pid, report = _fork_further(
        plan["cgroup"],
        stdio,
        target_pid,
        settings,
        lambda target, theirs: child.further(plan, stdio, target, settings, theirs),
    )
    return pid, report, ()


def fork_waiting(entry: dict[str, Any], target_pid: int, settings: Settings) -> tuple[int, socket.socket]:
    """As `fork_exec`, before there is a command. entry: what a plan says of the way into the container. The child waits
    for a plan and three descriptors on the socket that its report comes from."""
    return _fork_further(
        entry["cgroup"],
        Stdio(-1, -1, -1),
        target_pid,
        settings,
        lambda target, theirs: child.waiting(entry, target, settings, theirs),
    )


def _fork_further(
    cgroup: dict[str, Any],
    stdio: Stdio,
    target_pid: int,
    settings: Settings,
    steps: Callable[[int, socket.socket], None],
) -> tuple[int, socket.socket]:
    """A child in the pid namespace and the group of another process. steps: what it does, with a pidfd of that process
    and its end of the report."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    target = k.pidfd_open(target_pid)
    try:
        pid = _clone(0, cgroup["into"], target)
        if pid == 0:
            child.guard(theirs, stdio, settings, {target, *cgroup["join"]}, lambda: steps(target, theirs))
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
        os.close(target)
    ours.setblocking(False)
    return pid, ours


def _clone(flags: int, cgroup: str, pid_namespace: int, user_namespace: int = -1) -> int:
    """A child, born in the group and the namespaces given. A pid namespace is joined by children only: the supervisor
    points its own children there for the length of one clone."""
    cgroup_fd = os.open(cgroup, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) if cgroup else -1
    try:
        if user_namespace >= 0:
            return _clone_by_elder(flags, cgroup_fd, pid_namespace, user_namespace)
        if pid_namespace >= 0:
            k.setns(pid_namespace, k.CLONE_NEWPID)
        try:
            return k.clone3(flags, cgroup_fd)
        finally:
            if pid_namespace >= 0:
                own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
                k.setns(own, k.CLONE_NEWPID)
                os.close(own)
    finally:
        if cgroup_fd >= 0:
            os.close(cgroup_fd)


def _clone_by_elder(flags: int, cgroup_fd: int, pid_namespace: int, user_namespace: int) -> int:
    """New namespaces belong to the user namespace they are made in, and there is no way back out of one: a first child
    enters it, and makes the second, which is ours as well."""
    readable, writable = os.pipe2(os.O_CLOEXEC)
    elder = k.clone3(0)
    if elder == 0:
        try:
            k.setns(user_namespace, k.CLONE_NEWUSER)
            if pid_namespace >= 0:
                k.setns(pid_namespace, k.CLONE_NEWPID)
            pid = k.clone3(flags | k.CLONE_PARENT, cgroup_fd)
        except BaseException as error:
            os.write(writable, b"-%d" % (getattr(error, "errno", 0) or errno.EINVAL))
            os._exit(1)
        if pid == 0:
            return 0
        os.write(writable, b"%d" % pid)
        os._exit(0)
    os.close(writable)
    answer = int(os.read(readable, 32) or b"-%d" % errno.ECHILD)
    os.close(readable)
    os.waitpid(elder, 0)
    if answer < 0:
        raise OSError(-answer, os.strerror(-answer))
    return answer
