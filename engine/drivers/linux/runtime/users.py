"""LinuxIdentities: Docker's `user[:group]` looked up in a container's own passwd and group files.

Owns: the rules (those of runc's user package, with its words), and reading a file of a root file system that nobody
has mounted: layers merged by name, whiteouts and symbolic links followed inside the container's root only.
Refuses to know: the host's users.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

import msgspec
import trio

from engine.drivers.linux.runtime.supervisor import kernel
from engine.drivers.ports.runtime import RootFilesystem
from engine.errors import Fault, PortError
from engine.oci.spec import Identity

ID_MAX = 2**31 - 1
_NUMBER = re.compile(r"[+-]?[0-9]{1,18}")
LINKS_MAX = 40
FILE_SIZE_MAX = 8 << 20

REMEMBERED = 256
"""So many answers."""
REST_NS = 1_000_000_000
FILES = (b"/etc/passwd", b"/etc/group")
AT_HAND = kernel.RESOLVE_NO_XDEV | kernel.RESOLVE_CACHED

ReadFile = Callable[[str], bytes]
Stamps = tuple[tuple[int, int, int, int, int], ...]
"""Of each file: device, inode, size, times of its last change and of its attributes' (ns)."""


class PasswdEntry(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    uid: int
    gid: int
    home: str


class GroupEntry(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    gid: int
    members: tuple[str, ...]


class LinuxIdentities:
    """The Identities port. Reading goes through `limiter`: layers may lie on a slow disk. Who was found in a live
    container is remembered for as long as its files are the same, which can be seen without waiting for a disk."""

    def __init__(self, limiter: trio.CapacityLimiter) -> None:
        self._limiter = limiter
        self._found: OrderedDict[tuple[int, str, tuple[str, ...]], tuple[Stamps, Identity]] = OrderedDict()

    async def resolve(self, user: str, groups: Sequence[str], rootfs: RootFilesystem, *, pid: int = 0) -> Identity:
        key = (pid, user, tuple(groups))
        known = self._found.get(key)
        if known is not None and known[0] == stamps(pid):
            self._found.move_to_end(key)
            return known[1]

        def look_up() -> tuple[Stamps | None, Identity]:
            if pid:
                before = stamps(pid)
                return before, resolve_identity(user, groups, lambda path: read_in_root(f"/proc/{pid}/root", path))
            layers = tuple(layer for layer in (rootfs.upper, *rootfs.lowers) if layer)
            return None, resolve_identity(user, groups, lambda path: read_merged(layers, path))

        try:
            seen, identity = await trio.to_thread.run_sync(look_up, limiter=self._limiter)
        except OSError as error:
            raise PortError("resolve user", str(error), errno=error.errno or 0) from error
        if seen is not None and rested(seen, time.time_ns()):
            self._found[key] = seen, identity
            while len(self._found) > REMEMBERED:
                self._found.popitem(last=False)
        return identity


def resolve_identity(user: str, groups: Sequence[str], read: ReadFile) -> Identity:
    """`read` gives a file's content, b"" for a missing one. Raises PortError(INVALID)."""
    entries, group_entries = parse_passwd(read("/etc/passwd")), parse_group(read("/etc/group"))
    user_part, _, group_part = user.partition(":")
    uid, gid, home, name = _find_user(user_part or "0", entries, known_by_name=bool(user_part))
    supplementary: list[int] = []
    if group_part:
        gid = _find_group(group_part, group_entries, "unable")
    elif name:
        supplementary = [entry.gid for entry in group_entries if name in entry.members]
    supplementary += [_find_group(group, group_entries, "Unable") for group in groups]
    # The primary group is among the supplementary ones, or a setgid program could get rid of it (CVE-2022-36109).
    return Identity(uid=uid, gid=gid, additional_gids=tuple(dict.fromkeys([gid, *supplementary])), home=home or "/")


def _find_user(wanted: str, entries: Sequence[PasswdEntry], *, known_by_name: bool) -> tuple[int, int, str, str]:
    for entry in entries:
        if (known_by_name and entry.name == wanted) or str(entry.uid) == wanted:
            return entry.uid, entry.gid, entry.home, entry.name
    if not _NUMBER.fullmatch(wanted):
        raise _invalid(f"unable to find user {wanted}: no matching entries in passwd file")
    return _in_range(int(wanted)), 0, "/", ""


def _find_group(wanted: str, entries: Sequence[GroupEntry], word: str) -> int:
    for entry in entries:
        if entry.name == wanted or str(entry.gid) == wanted:
            return entry.gid
    if not _NUMBER.fullmatch(wanted):
        raise _invalid(f"{word} to find group {wanted}: no matching entries in group file")
    return _in_range(int(wanted))


def _in_range(number: int) -> int:
    if not 0 <= number <= ID_MAX:
        raise _invalid("uids and gids must be in range 0-2147483647")
    return number


def _invalid(message: str) -> PortError:
    return PortError("resolve user", message, fault=Fault.INVALID)


def parse_passwd(content: bytes) -> tuple[PasswdEntry, ...]:
    """Lines that do not have the form are skipped, as by everybody."""
    found = []
    for fields in _fields(content):
        if len(fields) >= 4 and fields[2].isdecimal() and fields[3].isdecimal():
            home = fields[5] if len(fields) > 5 else ""
            found.append(PasswdEntry(name=fields[0], uid=int(fields[2]), gid=int(fields[3]), home=home))
    return tuple(found)


def parse_group(content: bytes) -> tuple[GroupEntry, ...]:
    found = []
    for fields in _fields(content):
        if len(fields) >= 3 and fields[2].isdecimal():
            members = tuple(m for m in fields[3].split(",") if m) if len(fields) > 3 else ()
            found.append(GroupEntry(name=fields[0], gid=int(fields[2]), members=members))
    return tuple(found)


def _fields(content: bytes) -> list[list[str]]:
    lines = (line.strip() for line in content.decode(errors="replace").splitlines())
    return [line.split(":") for line in lines if line and not line.startswith("#")]


def stamps(pid: int) -> Stamps | None:
    """What changes with the files that users are found in, of a live process's root. None where the kernel can not say
    without waiting for a disk or a server, or where they are not on the root's own file system."""
    found = []
    try:
        root_fd = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        for path in FILES:
            try:
                fd = kernel.open_in_root(root_fd, path, os.O_PATH, resolve=AT_HAND)
            except FileNotFoundError:
                found.append((0, 0, 0, 0, 0))
                continue
            try:
                status = os.fstat(fd)
            finally:
                os.close(fd)
            found.append((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    except OSError:
        return None
    finally:
        os.close(root_fd)
    return tuple(found)


def rested(seen: Stamps, now_ns: int) -> bool:
    """Whether the last change is so long ago that another one would have another time."""
    return all(changed_ns < now_ns - REST_NS for *_, changed_ns in seen)


def read_in_root(root: str, path: str) -> bytes:
    """A file below a live process's root; symbolic links cannot lead out of it. b"" when missing."""
    root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = kernel.open_in_root(root_fd, os.fsencode(path), os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return b""
    finally:
        os.close(root_fd)
    return _read_regular(fd)


def _read_regular(fd: int) -> bytes:
    """A fifo or device planted there must not be waited for."""
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return b""
        return file.read(FILE_SIZE_MAX)


def read_merged(layers: Sequence[str], path: str) -> bytes:
    """A file as the overlay of `layers` (topmost first) would show it, without mounting it. b"" when missing."""
    todo = [part for part in path.split("/") if part]
    done: list[str] = []
    links = 0
    while todo:
        part = todo.pop(0)
        if part == ".":
            continue
        if part == "..":
            del done[-1:]
            continue
        found = _find([*done, part], layers)
        if found is None:
            return b""
        if not stat.S_ISLNK(os.lstat(found).st_mode):
            done.append(part)
            if not todo:
                return _read_regular(os.open(found, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC))
            continue
        links += 1
        if links > LINKS_MAX:
            return b""
        target = os.readlink(found)
        if target.startswith("/"):
            done = []
        todo = [piece for piece in target.split("/") if piece] + todo
    return b""


def _find(parts: Sequence[str], layers: Sequence[str]) -> str | None:
    """The topmost object at a path without symbolic links, or None when it is missing or deleted by a whiteout."""
    stack = list(layers)
    for index, part in enumerate(parts):
        following: list[str] = []
        for directory in stack:
            candidate = f"{directory}/{part}"
            try:
                status = os.lstat(candidate)
            except (FileNotFoundError, NotADirectoryError):
                continue
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                break
            if not stat.S_ISDIR(status.st_mode):
                if not following:
                    return candidate if index == len(parts) - 1 else None
                break
            following.append(candidate)
            if _is_opaque(candidate):
                break
        if not following:
            return None
        stack = following
    return stack[0]


def _is_opaque(directory: str) -> bool:
    try:
        return os.getxattr(directory, "trusted.overlay.opaque", follow_symlinks=False) == b"y"
    except OSError:
        return False
