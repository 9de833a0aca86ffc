"""Cgroups of containers: made before the fork, removed after the exit is recorded.

Owns: directories, the first writes, OOM counts, leftovers. Refuses to know: what limits mean; the plan names files and
bytes (engine/drivers/linux/runtime/cgroup_plan.py).
"""

from __future__ import annotations

import errno
import os
import time

from . import devices_bpf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LEFTOVER_ATTEMPTS, LEFTOVER_PAUSE_S = 50, 0.01


def make(group: dict[str, Any]) -> None:
    """Fresh directories with their limits. A leftover of an earlier run is removed first: its counters are not ours.
    Raises OSError; the caller removes what was made."""
    for tree in () if group["made"] else group["trees"]:
        _make_one(tree["root"], tree["path"], tree["controller"])
    for path, data in group["writes"]:
        write(path, data)
    if group["device_program"]:
        devices_bpf.attach(group["into"], group["device_program"])


def _make_one(root: str, path: str, controller: str) -> None:
    full = root + path
    try:
        os.mkdir(full)
    except FileNotFoundError:
        _make_parents(root, path, controller)
        os.mkdir(full)
    except FileExistsError:
        _remove_leftover(full)
        os.mkdir(full)
    if controller == "cpuset":
        _inherit_cpuset(full)


def _remove_leftover(full: str) -> None:
    """Its last processes may still be dying; that takes a moment, and a start can wait for it."""
    for _ in range(LEFTOVER_ATTEMPTS):
        try:
            remove_tree(full)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            time.sleep(LEFTOVER_PAUSE_S)
        else:
            return
    remove_tree(full)


def _make_parents(root: str, path: str, controller: str) -> None:
    here = root
    for part in path.strip("/").split("/")[:-1]:
        if controller == "unified":
            enable_controllers(here)
        here += "/" + part
        if not os.path.isdir(here):
            os.mkdir(here)  # nobody else makes groups here between these two lines
        if controller == "cpuset":
            _inherit_cpuset(here)
    if controller == "unified":
        enable_controllers(here)


def enable_controllers(directory: str) -> None:
    """v2: let children of `directory` be limited, by as many controllers as there are."""
    with open(directory + "/cgroup.controllers") as available:
        names = available.read().split()
    for name in names:
        try:
            write(directory + "/cgroup.subtree_control", b"+" + name.encode())
        except OSError:
            continue  # a controller busy elsewhere: its limits will fail by name when asked for


def _inherit_cpuset(directory: str) -> None:
    for name in ("/cpuset.cpus", "/cpuset.mems"):
        with open(directory + name) as own:
            if own.read().strip():
                continue
        with open(os.path.dirname(directory) + name) as parent:
            write(directory + name, parent.read().strip().encode())


def write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, data)
    except OSError as error:
        value = data.decode(errors="replace")
        raise OSError(error.errno, f"failed to write {value!r} to {path}: {(error.strerror or '').lower()}") from error
    finally:
        os.close(fd)


def oom_kills(path: str) -> int:
    """The `oom_kill` count of memory.oom_control (v1) or memory.events (v2, where it includes groups below)."""
    directory, _, name = path.rpartition("/")
    if name != "memory.oom_control":
        return _oom_kills(path)
    # What the container's own groups counted is theirs alone on version 1.
    return sum(_oom_kills(here + "/" + name) for here, _, _ in os.walk(directory))


def _oom_kills(path: str) -> int:
    try:
        with open(path) as lines:
            for line in lines:
                if line.startswith("oom_kill "):
                    return int(line[9:])
    except (OSError, ValueError):
        pass
    return 0


def kill(group: dict[str, Any]) -> None:
    """SIGKILL everything in the group, and thaw what is frozen: on version 1 a frozen process cannot die."""
    _kill_members(group)
    for tree in group["trees"]:
        if tree["controller"] == "freezer":
            try:
                write(tree["root"] + tree["path"] + "/freezer.state", b"THAWED")
            except OSError:
                continue  # the group is gone, and so are its members


def _kill_members(group: dict[str, Any]) -> None:
    """Kill whatever still runs in the group. Errors are nobody's business: `remove` will tell."""
    for tree in group["trees"]:
        full = tree["root"] + tree["path"]
        if tree["controller"] == "unified":
            try:
                write(full + "/cgroup.kill", b"1")
            except OSError:
                continue
            return
    for tree in group["trees"][:1]:
        _kill_listed(tree["root"] + tree["path"])


def _kill_listed(directory: str) -> None:
    for here, _, _ in os.walk(directory):
        try:
            with open(here + "/cgroup.procs") as members:
                pids = [int(line) for line in members]
        except OSError:
            continue
        for pid in pids:
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                continue


def remove(group: dict[str, Any]) -> bool:
    """Remove the directories: True when none is left, False when a process still dies in one (ask again)."""
    done = True
    for tree in group["trees"]:
        try:
            remove_tree(tree["root"] + tree["path"])
        except OSError as error:
            if error.errno != errno.ENOENT:
                done = False
    return done


def remove_tree(directory: str) -> None:
    """rmdir, and when the container made groups of its own, those first."""
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        return
    except OSError:
        for here, names, _ in os.walk(directory, topdown=False):
            for name in names:
                os.rmdir(os.path.join(here, name))
        os.rmdir(directory)
