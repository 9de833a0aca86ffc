"""User namespaces: whom `userns-remap` means, and making a namespace that others can be born in (SEC-10).

Owns: /etc/passwd, /etc/group, /etc/subuid and /etc/subgid as dockerd reads them; `dockremap`, the user that is made
when `default` is asked for; a network namespace that belongs to a new user namespace; whether this host can shift
owners by mounts. Refuses to know: containers.

A process with threads cannot enter a user namespace. So another one is made for it: a copy of this process that runs
nothing but the C library's sleep, is looked at and killed; should the engine die meanwhile, it wakes up and ends.
"""

from __future__ import annotations

import ctypes
import errno
import grp
import os
import pwd
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from engine.aggregates.values.id_map import IdMap, IdRange, joined, table
from engine.config import ConfigError
from engine.drivers.linux.runtime.supervisor import kernel

DEFAULT_USER = "dockremap"
SUBORDINATE_SIZE = 65536
SLEEP_S = 5
KERNEL_MIN = (5, 19)
"""The first whose overlays take layers with shifted owners."""
_STACK_BYTES = 64 << 10


def id_map_of(remap: str, etc: Path = Path("/etc")) -> IdMap:
    """`--userns-remap`: `default`, or `user[:group]` by name or number. Raises ConfigError in dockerd's words."""
    if remap == "default":
        _ensure_default_user(etc)
        remap = f"{DEFAULT_USER}:{DEFAULT_USER}"
    user, group = _named(remap)
    uids = subordinate(etc / "subuid", user[0], str(user[1]))
    gids = subordinate(etc / "subgid", group[0], str(group[1]))
    if not uids:
        raise ConfigError(f"Can't create ID mappings: no subuid ranges found for user {user[0]!r}".replace("'", '"'))
    if not gids:
        raise ConfigError(f"Can't create ID mappings: no subgid ranges found for group {group[0]!r}".replace("'", '"'))
    return IdMap(uids=joined(uids), gids=joined(gids))


def _named(remap: str) -> tuple[tuple[str, int], tuple[str, int]]:
    """(name, id) of user and group; without a group, the one of the user's name."""
    user_part, separator, group_part = remap.partition(":")
    if not user_part or (separator and not group_part) or ":" in group_part:
        raise ConfigError(f'invalid user/group specification in --userns-remap: "{remap}"')
    user = _user(user_part)
    group = _group(group_part) if separator else _group(user[0])
    if user[1] == 0 or user[0] == "root":
        raise ConfigError("userns-remap: root cannot be mapped to a user of the host")
    return user, group


def _user(text: str) -> tuple[str, int]:
    try:
        found = pwd.getpwuid(int(text)) if text.isdecimal() else pwd.getpwnam(text)
    except KeyError as error:
        kind = "Uid" if text.isdecimal() else "Username"
        raise ConfigError(f'{kind} "{text}" lookup failed: no such user') from error
    return found.pw_name, found.pw_uid


def _group(text: str) -> tuple[str, int]:
    try:
        found = grp.getgrgid(int(text)) if text.isdecimal() else grp.getgrnam(text)
    except KeyError as error:
        kind = "Gid" if text.isdecimal() else "Groupname"
        raise ConfigError(f'{kind} "{text}" lookup failed: no such group') from error
    return found.gr_name, found.gr_gid


def subordinate(path: Path, name: str, number: str) -> list[tuple[int, int]]:
    """(start, size) of every line of subuid(5) that names the user, by name or by number, lowest first."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        fields = line.strip().split(":")
        if len(fields) == 3 and fields[0] in (name, number) and fields[1].isdecimal() and fields[2].isdecimal():
            found.append((int(fields[1]), int(fields[2])))
    return sorted(found)


def _ensure_default_user(etc: Path) -> None:
    """Make `dockremap` and give it ranges behind everybody else's, as dockerd does."""
    try:
        pwd.getpwnam(DEFAULT_USER)
    except KeyError:
        command = shutil.which("useradd")
        if command is None:
            raise ConfigError(f"user {DEFAULT_USER} cannot be made: useradd is missing") from None
        done = subprocess.run(
            [command, "--system", "--user-group", "--no-create-home", "--shell", "/bin/false", DEFAULT_USER],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise ConfigError(f"user {DEFAULT_USER} cannot be made: {done.stderr.strip()}") from None
    for name in ("subuid", "subgid"):
        if not subordinate(etc / name, DEFAULT_USER, ""):
            start = _behind(etc / name)
            with (etc / name).open("a") as file:
                file.write(f"{DEFAULT_USER}:{start}:{SUBORDINATE_SIZE}\n")


def _behind(path: Path) -> int:
    """The first id behind every range that is given away."""
    ends = [100_000]
    if path.exists():
        for line in path.read_text().splitlines():
            fields = line.strip().split(":")
            if len(fields) == 3 and fields[1].isdecimal() and fields[2].isdecimal():
                ends.append(int(fields[1]) + int(fields[2]))
    return max(ends)


def new_network_namespace(id_map: IdMap) -> int:
    """A network namespace owned by a user namespace of this map: its fd. The user namespace lives as long as it does
    and is found by `owner_of`. Raises OSError."""
    return _with_sleeper(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNET, id_map, "net")


_ENTER = (
    "import ctypes, os, sys; libc = ctypes.CDLL(None, use_errno=True); "
    "fd = os.open(f'/proc/{sys.argv[1]}/ns/user', os.O_RDONLY); "
    f"libc.setns(fd, {kernel.CLONE_NEWUSER}) or libc.unshare({kernel.CLONE_NEWNET}) or print('made', flush=True); "
    "sys.stdin.read()"
)


def network_namespace_beside(pid: int) -> int:
    """A network namespace owned by the user namespace that a process is in: for a container that shares another's pids
    or IPC, and so its user namespace too. An interpreter of its own enters it: seldom, and slow. Raises OSError."""
    command = [sys.executable, "-S", "-E", "-I", "-c", _ENTER, str(pid)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        if process.stdout.readline() != b"made\n":
            raise OSError(errno.EPERM, os.strerror(errno.EPERM), f"/proc/{pid}/ns/user")
        return os.open(f"/proc/{process.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def new_user_namespace(id_map: IdMap) -> int:
    return _with_sleeper(kernel.CLONE_NEWUSER, id_map, "user")


def reverse(id_map: IdMap) -> IdMap:
    """What turns the host's owners of a container's files into those the container sees."""

    def turned(ranges: tuple[IdRange, ...]) -> tuple[IdRange, ...]:
        return tuple(IdRange(each.outside, each.inside, each.size) for each in ranges)

    return IdMap(uids=turned(id_map.uids), gids=turned(id_map.gids))


def _with_sleeper(flags: int, id_map: IdMap, kind: str) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    stack = ctypes.create_string_buffer(_STACK_BYTES)
    top = (ctypes.addressof(stack) + _STACK_BYTES) & ~15
    sleep = ctypes.cast(libc.sleep, ctypes.c_void_p)
    libc.clone.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
    pid = libc.clone(sleep, top, flags | signal.SIGCHLD, SLEEP_S)
    if pid < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "clone")
    try:
        for name, ranges in (("uid_map", id_map.uids), ("gid_map", id_map.gids)):
            with open(f"/proc/{pid}/{name}", "w") as file:
                file.write(table(ranges))
        return os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def check_host(data_root: str, id_map: IdMap, release: tuple[int, int]) -> None:
    """Whether owners can be shifted here: layers are shared by all users of them, and so never rewritten. Raises
    ConfigError."""
    if release < KERNEL_MIN:
        raise ConfigError("userns-remap needs Linux 5.19, for overlays of id-mapped layers")
    try:
        namespace = new_user_namespace(id_map)
        try:
            tree = kernel.open_tree(os.fsencode(data_root), recursive=False)
            try:
                kernel.shift_owners(tree, namespace, recursive=False)
            finally:
                os.close(tree)
        finally:
            os.close(namespace)
    except OSError as error:
        words = (error.strerror or str(error)).lower()
        raise ConfigError(f"userns-remap: the file system of {data_root} has no id-mapped mounts: {words}") from error
