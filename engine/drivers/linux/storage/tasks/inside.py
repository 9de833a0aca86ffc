"""Worker tasks inside a container's file tree: stat, archive, extract, export.

The worker first becomes part of the tree: a running container's mount namespace and root, or for a stopped one a mount
namespace of its own with overlay, volumes and binds put together. Every path after that means what it means to the
container, and no symlink leads out. Source: moby daemon/archive_unix.go, containerfs_linux.go.

Everything that is needed is imported before the root is changed.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import posixpath
import stat as stat_bits
import sys
import time
from typing import Any

from engine.drivers.linux.runtime.supervisor import kernel as mounts
from engine.drivers.linux.storage import kernel
from engine.drivers.linux.storage.decompress import CompressionError, plain_source
from engine.drivers.linux.storage.tar_reader import TarError, TarReader
from engine.drivers.linux.storage.tar_writer import TreeWriter
from engine.drivers.linux.storage.unpack import Rules, Unpacker, UnpackError
from engine.drivers.linux.storage.worker import TaskError, report

_GO_MODES = {
    stat_bits.S_IFDIR: 1 << 31,
    stat_bits.S_IFLNK: 1 << 27,
    stat_bits.S_IFBLK: 1 << 26,
    stat_bits.S_IFCHR: 1 << 26 | 1 << 21,
    stat_bits.S_IFIFO: 1 << 25,
    stat_bits.S_IFSOCK: 1 << 24,
}
ASIDE = "/sys"
_MADE_UP = frozenset({b"proc", b"sysfs", b"cgroup", b"cgroup2", b"devpts", b"mqueue", b"securityfs", b"debugfs"})
_GO_SETUID, _GO_SETGID, _GO_STICKY = 1 << 23, 1 << 22, 1 << 20


def stat(fields: dict[str, Any]) -> dict[str, Any]:
    """fields: the tree (see _enter) and path. Returns the fields of PathStat."""
    _enter(fields, write=False)
    path = _absolute(fields["path"])
    found = _lstat(path, fields)
    link = os.path.realpath(path) if stat_bits.S_ISLNK(found.st_mode) else ""
    return {
        "name": _base(path),
        "size": found.st_size,
        "mode": go_file_mode(found.st_mode),
        "mtime": rfc3339(found.st_mtime_ns),
        "link_target": link,
    }


def archive(fields: dict[str, Any]) -> None:
    """fields: the tree and path. Says ready, then writes a tar to stdout whose names begin with the path's last
    part. What the kernel makes up below a directory that is asked for is left out; asked for by itself it is there."""
    made_up = _made_up(fields["pid"]) if fields["pid"] else frozenset()
    _enter(fields, write=False)
    path = _absolute(fields["path"])
    _lstat(path, fields)
    report(ready=True)
    writer = TreeWriter(1, hidden=made_up - {os.fsencode(path.rstrip("/"))})
    name = _base(path)
    # "/" has no name to give: its entries begin with a slash, as moby's rebasing leaves them.
    writer.tree(os.fsencode(path), os.fsencode(name))
    writer.finish()


def export(fields: dict[str, Any]) -> None:
    """fields: the tree. Says ready, then writes a tar of the whole root to stdout."""
    _enter(fields, write=False)
    report(ready=True)
    writer = TreeWriter(1)
    writer.tree(b"/", b"", skip_root=True)
    writer.finish()


def extract(fields: dict[str, Any]) -> None:
    """fields: the tree, path, keep_directories, copy_uid_gid, user. Says ready, then reads a tar from stdin."""
    _import_decompressors()
    _enter(fields, write=True)
    path = _absolute(fields["path"])
    target = _resolved(path, fields)
    if not stat_bits.S_ISDIR(os.lstat(target).st_mode):
        raise TaskError("invalid", "extraction point is not a directory")
    _refuse_readonly(target, fields)
    owner = _owner(fields["user"]) if fields["copy_uid_gid"] and fields["user"] else None
    report(ready=True)
    rules = Rules(layer=False, keep_directories=fields["keep_directories"], owner=owner)
    root_fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        reader = TarReader(plain_source(io.FileIO(0, closefd=False)))
        Unpacker(root_fd, rules, os.fsencode(target)).apply(reader)
        reader.drain()
    except (TarError, UnpackError, CompressionError) as error:
        raise TaskError("invalid", str(error)) from error
    finally:
        os.close(root_fd)


# --- becoming part of the tree ---


def _enter(fields: dict[str, Any], *, write: bool) -> None:
    """fields: pid; or lowers, upper, work, mounts [[source, destination, rw, subpath, lowers]], place (an empty
    directory), id_map."""
    if fields["pid"]:
        _enter_running(fields["pid"])
    else:
        _enter_stopped(fields, write=write)
    os.chdir("/")
    # What was not imported before would be the container's code (CVE-2019-14271).
    sys.path.clear()
    sys.meta_path.clear()


def _enter_running(pid: int) -> None:
    try:
        namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        raise TaskError("conflict", "container is not running") from None
    owner = -1
    if os.stat(f"/proc/{pid}/ns/user").st_ino != os.stat("/proc/self/ns/user").st_ino:
        owner = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    kernel.setns(namespace, kernel.CLONE_NEWNS)
    os.fchdir(root)
    os.chroot(".")
    os.close(namespace)
    os.close(root)
    if owner >= 0:
        # Owners are the container's from here on, in archives and on files alike.
        kernel.setns(owner, kernel.CLONE_NEWUSER)
        os.close(owner)
        os.setgroups(())
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)


def _made_up(pid: int) -> frozenset[bytes]:
    """/dev and the mount points of the kernel's own file systems: no files of the container, and many not to be read.
    dockerd's view of a container has none of them either."""
    found = {b"/dev"}
    with contextlib.suppress(OSError), open(f"/proc/{pid}/mountinfo", "rb") as mounts:
        for line in mounts:
            before, _, after = line.partition(b" - ")
            if after.split()[0] in _MADE_UP:
                found.add(before.split()[4])
    return frozenset(found)


def _enter_stopped(fields: dict[str, Any], *, write: bool) -> None:
    """Reading without mounts takes a read-only overlay over the upper layer too: it changes nothing, and may be done
    while the container runs (export). Mounts may need their mount points made, in the
    read-write layer as at a start."""
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    place = fields["place"]
    if not fields["lowers"]:
        kernel.mount(fields["upper"], place, "", kernel.MS_BIND)
    elif write or fields["mounts"]:
        kernel.mount_overlay(place, tuple(fields["lowers"]), fields["upper"], fields["work"], volatile=False)
    else:
        kernel.mount_overlay(place, (fields["upper"], *fields["lowers"]), "", "", volatile=False)
    root = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for source, destination, _, subpath, lowers in sorted(fields["mounts"], key=lambda mount: mount[1].count("/")):
        found = _source(source, subpath, lowers)
        target = _mount_point(root, f"/proc/self/fd/{found}", destination)
        if fields["id_map"] is None or lowers:
            kernel.mount(f"/proc/self/fd/{found}", f"/proc/self/fd/{target}", "", kernel.MS_BIND | kernel.MS_REC)
        else:
            _mount_shifted(f"/proc/self/fd/{found}", target, fields["id_map"])
        os.close(target)
        os.close(found)
    os.close(root)
    os.chroot(place)


def _source(source: str, subpath: str, lowers: list[str]) -> int:
    """An fd of what is to be mounted. An image of several layers is put together over a directory that nobody needs
    here: the namespace is this process's own."""
    if len(lowers) > 1:
        kernel.mount_overlay(ASIDE, tuple(lowers), "", "", volatile=False)
        base = os.open(ASIDE, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    else:
        base = os.open(lowers[0] if lowers else source, os.O_PATH | os.O_CLOEXEC)
    if not subpath:
        return base
    try:
        return kernel.openat2(base, os.fsencode(subpath), os.O_PATH, resolve=kernel.RESOLVE_BENEATH)
    finally:
        os.close(base)


def _mount_shifted(source: str, target: int, id_map: dict[str, list[tuple[int, int, int]]]) -> None:
    """A bind whose owners are shown as the container sees them. A file system that cannot do that shows the host's."""
    tree = mounts.open_tree(os.fsencode(source), recursive=True)
    with contextlib.suppress(OSError):
        mounts.shift_owners(tree, _user_namespace(id_map), recursive=True)
    mounts.move_mount(tree, target)
    os.close(tree)


def _user_namespace(id_map: dict[str, list[tuple[int, int, int]]]) -> int:
    """One in which the host's ids of a container's are its own: a child is born in it, looked at, and ends."""
    waiting, ending = os.pipe()
    child = mounts.clone3(mounts.CLONE_NEWUSER)
    if child == 0:
        os.close(ending)
        os.read(waiting, 1)
        os._exit(0)
    os.close(waiting)
    try:
        for name, ranges in (("uid_map", id_map["uids"]), ("gid_map", id_map["gids"])):
            with open(f"/proc/{child}/{name}", "w") as file:
                file.write("".join(f"{outside} {inside} {size}\n" for inside, outside, size in ranges))
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(ending)
        os.waitpid(child, 0)


def _mount_point(root: int, source: str, destination: str) -> int:
    """An fd of the destination inside the root, made where it is missing."""
    path = os.fsencode(destination.strip("/")) or b"."
    try:
        return kernel.openat2(root, path, os.O_PATH)
    except FileNotFoundError:
        pass
    parts = path.split(b"/")
    for depth in range(1, len(parts)):
        _make_directory(root, b"/".join(parts[:depth]))
    if os.path.isdir(source):
        _make_directory(root, path)
    else:
        os.close(kernel.openat2(root, path, os.O_WRONLY | os.O_CREAT, mode=0o755))
    return kernel.openat2(root, path, os.O_PATH)


def _make_directory(root: int, path: bytes) -> None:
    parent, _, base = path.rpartition(b"/")
    directory = kernel.openat2(root, parent or b".", os.O_PATH | os.O_DIRECTORY)
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(base, 0o755, dir_fd=directory)
    finally:
        os.close(directory)


# --- paths ---


def _absolute(path: str) -> str:
    """From the root, cleaned as Go's filepath does; a trailing `/` or `/.` stays, because it means "follow, and be a
    directory"."""
    if "\0" in path:
        raise TaskError("invalid", "invalid argument: a path holds no NUL")
    cleaned = posixpath.normpath("/" + path.lstrip("/"))
    if posixpath.basename(path) == "." and posixpath.basename(cleaned) != ".":
        cleaned = cleaned.rstrip("/") + "/."
    elif path.endswith("/") and not cleaned.endswith("/"):
        cleaned += "/"
    return cleaned


def _base(path: str) -> str:
    return posixpath.basename(path.rstrip("/")) or "/"


def _lstat(path: str, fields: dict[str, Any]) -> os.stat_result:
    try:
        return os.lstat(path)
    except FileNotFoundError:
        raise _missing(fields) from None


def _resolved(path: str, fields: dict[str, Any]) -> str:
    try:
        return os.path.realpath(path, strict=True)
    except FileNotFoundError:
        raise _missing(fields) from None


def _missing(fields: dict[str, Any]) -> TaskError:
    return TaskError("not found", f"Could not find the file {fields['path']} in container {fields['container']}")


def _refuse_readonly(target: str, fields: dict[str, Any]) -> None:
    """A read-only volume, or a read-only root outside of volumes."""
    inside = [
        (destination, rw)
        for _, destination, rw, _, _ in fields["mounts"]
        if target == destination or target.startswith(destination.rstrip("/") + "/")
    ]
    if not inside:
        if fields["readonly"]:
            raise TaskError("invalid", "container rootfs is marked read-only")
    elif not max(inside)[1]:
        raise TaskError("invalid", "mounted volume is marked read-only")


def _owner(user: str) -> tuple[int, int]:
    """uid and gid of `user[:group]`, looked up in the container's own files."""
    name, _, group = user.partition(":")
    entry = _lookup("/etc/passwd", name)
    uid = int(entry[2]) if entry else int(name) if _is_number(name) else -1
    gid = int(entry[3]) if entry else 0
    if group:
        found = _lookup("/etc/group", group)
        gid = int(found[2]) if found else int(group) if _is_number(group) else -1
    if uid < 0 or gid < 0:
        raise TaskError("invalid", f"unable to find user {user}: no matching entries in passwd file")
    return uid, gid


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _lookup(path: str, name: str) -> list[str] | None:
    """The line of a name or number in passwd or group."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                entry = line.rstrip("\n").split(":")
                if len(entry) >= 4 and name in (entry[0], entry[2]) and entry[2].isdecimal():
                    return entry
    except OSError:
        pass
    return None


def _import_decompressors() -> None:
    """After the root has changed nothing can be imported, and what comes on stdin is not known before."""
    for name in ("bz2", "lzma", "zstandard", "isal.igzip"):
        importlib.import_module(name)


def go_file_mode(mode: int) -> int:
    """st_mode as Go's os.FileMode."""
    bits = (mode & 0o777) | _GO_MODES.get(stat_bits.S_IFMT(mode), 0)
    for unix, go in ((0o4000, _GO_SETUID), (0o2000, _GO_SETGID), (0o1000, _GO_STICKY)):
        bits |= go if mode & unix else 0
    return bits


def rfc3339(time_ns: int) -> str:
    """RFC 3339 with as many digits of a second as there are, in UTC."""
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    fraction = f".{nanoseconds:09d}".rstrip("0") if nanoseconds else ""
    # Not strftime: it would look for the time zone's file, which here is the container's.
    year, month, day, hour, minute, second = time.gmtime(seconds)[:6]
    return f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z"
