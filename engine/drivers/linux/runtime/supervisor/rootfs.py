"""A container's file tree, built by the container's own first process in its own mount namespace.

Owns: overlay, mounts in order, /dev, pivot_root, masked and read-only paths. Refuses to know: cgroups, credentials,
and what an OCI spec looks like: it gets a plan of numbers and bytes (engine/drivers/linux/runtime/plan.py).

Every path inside the container is resolved with openat2(RESOLVE_IN_ROOT) and mounted upon through its descriptor, so
that a symbolic link planted in an image cannot lead a mount out of the container's root. Nothing is looked up twice:
what another container may swap in a shared volume meanwhile must not become something else (CVE-2021-30465), and what
is mounted over another thing is checked to be what it is called (CVE-2025-31133).
"""

from __future__ import annotations

import errno
import os
import stat

from . import kernel as k

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OPTIONS_MAX = 4000
LINKS_MAX = 40
ATTRIBUTES = 0b1111
"""ro, nosuid, nodev and noexec: the same numbers as mount(2) flags and as mount_setattr(2) attributes."""
PROC_MOUNTS = frozenset(
    b"/proc/" + name
    for name in (
        b"cpuinfo", b"diskstats", b"meminfo", b"stat", b"swaps", b"uptime", b"loadavg", b"slabinfo", b"net/dev",
        b"sys/kernel/ns_last_pid", b"sys/crypto/fips_enabled",
    )
)  # fmt: skip
"""Below /proc only these may be mounted upon: a made-up file there would take what is meant for the kernel, a security
label first of all (CVE-2019-16884, CVE-2019-19921). Source: runc libcontainer/rootfs_linux.go."""
NULL_DEVICE = os.makedev(1, 3)
DEVICE_LINKS = (
    (b"/proc/self/fd", b"fd"),
    (b"/proc/self/fd/0", b"stdin"),
    (b"/proc/self/fd/1", b"stdout"),
    (b"/proc/self/fd/2", b"stderr"),
    (b"/proc/kcore", b"core"),
    (b"pts/ptmx", b"ptmx"),
)


class MountError(OSError):
    """A mount that failed, with words for the user."""


def through(fd: int) -> bytes:
    return b"/proc/self/fd/%d" % fd


def mount_overlay(layer: dict[str, Any], target: bytes) -> None:
    """The overlay on `target`, or without lowers the tree that is whole already. A page of options is all that mount(2)
    takes; more lowers go through fsconfig, one by one (Linux 6.5), or relative to their common directory."""
    lowers = [os.fsencode(lower) for lower in layer["lowers"]]
    if not lowers:
        k.mount(os.fsencode(layer["upper"]), target, None, k.MS_BIND)
        return
    rest = [(b"upperdir", os.fsencode(layer["upper"])), (b"workdir", os.fsencode(layer["work"]))]
    # Whatever the host's defaults are: with either on, the upper directory alone would not say what changed.
    rest += [(b"redirect_dir", b"off"), (b"metacopy", b"off")]
    if layer.get("volatile"):
        rest.append((b"volatile", b""))
    tail = b"," + b",".join(key + b"=" + _escaped(value) if value else key for key, value in rest)
    joined = b"lowerdir=" + b":".join(_escaped(lower) for lower in lowers) + tail
    if len(joined) < OPTIONS_MAX:
        k.mount(b"overlay", target, b"overlay", 0, joined)
        return
    try:
        tree = k.make_filesystem(b"overlay", [(b"lowerdir+", lower) for lower in lowers] + rest)
    except OSError:
        common = os.path.commonpath(lowers)
        relative = b":".join(_escaped(os.path.relpath(lower, common)) for lower in lowers)
        os.chdir(common)
        k.mount(b"overlay", target, b"overlay", 0, b"lowerdir=" + relative + tail)
        return
    target_fd = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    k.move_mount(tree, target_fd)
    os.close(target_fd)
    os.close(tree)


def shift_layers(layer: dict[str, Any], place: bytes, user_namespace: int) -> dict[str, Any]:
    """The same layers as `mount_overlay` takes them, with the owners that a user namespace gives them: the folder that
    holds them all is mounted once more on `place`, where the overlay will hide it. On disk, owners stay the image's."""
    folders = [folder for folder in (*layer["lowers"], layer["upper"], layer["work"]) if folder]
    common = os.path.commonpath(folders)
    tree = k.open_tree(os.fsencode(common), recursive=False)
    k.shift_owners(tree, user_namespace, recursive=False)
    target = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    k.move_mount(tree, target)
    os.close(target)
    os.close(tree)

    def moved(path: str) -> str:
        return f"{os.fsdecode(place)}/{os.path.relpath(path, common)}"

    return {
        **layer,
        "lowers": [moved(path) for path in layer["lowers"]],
        "upper": moved(layer["upper"]),
        "work": moved(layer["work"]) if layer["work"] else "",
    }


def _escaped(path: bytes) -> bytes:
    return path.replace(b"\\", b"\\\\").replace(b":", b"\\:").replace(b",", b"\\,")


def open_destination(root_fd: int, path: bytes, *, directory: bool) -> int:
    """An O_PATH descriptor of `path` inside the root, made when missing (directories 0755, a file 0755)."""
    try:
        return k.open_in_root(root_fd, path, os.O_PATH)
    except FileNotFoundError:
        pass
    todo, done = _parts(path), list[bytes]()
    parent = os.dup(root_fd)
    links = 0
    while todo:
        part = todo.pop(0)
        if part == b"..":
            done = done[:-1]
        elif target := _link(parent, part):
            links += 1
            if links > LINKS_MAX:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            # A link that leads nowhere yet: what is missing is made where it points to, inside the root.
            done = [] if target.startswith(b"/") else done
            todo = _parts(target) + todo
        else:
            _make_missing(parent, part, directory=directory or bool(todo))
            done = [*done, part]
        os.close(parent)
        parent = k.open_in_root(root_fd, b"/" + b"/".join(done), os.O_PATH)
    return parent


def _parts(path: bytes) -> list[bytes]:
    return [part for part in path.split(b"/") if part not in (b"", b".")]


def _link(parent: int, name: bytes) -> bytes:
    try:
        return os.readlink(name, dir_fd=parent)
    except OSError:
        return b""


def _make_missing(parent: int, name: bytes, *, directory: bool) -> None:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        _make(parent, name, directory=directory)


def _make(parent: int, name: bytes, *, directory: bool) -> None:
    if directory:
        os.mkdir(name, 0o755, dir_fd=parent)
    else:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o755, dir_fd=parent))


def mount_one(root_fd: int, entry: dict[str, Any]) -> None:
    destination = os.fsencode(entry["destination"])
    try:
        if entry["type"] == "bind":
            _bind(root_fd, entry, destination)
        elif entry["type"] == "cgroup":
            _cgroup(root_fd, entry, destination)
        else:
            _filesystem(root_fd, entry, destination)
    except OSError as error:
        words = f'error mounting "{entry["source"]}" to rootfs at "{entry["destination"]}": '
        if not isinstance(error, MountError):
            words += f"mount {entry['source']}:{entry['destination']}: "
        raise MountError(error.errno, words + (error.strerror or "").lower()) from error


def _filesystem(root_fd: int, entry: dict[str, Any], destination: bytes) -> None:
    if entry["type"] in ("proc", "sysfs"):
        _refuse_links(root_fd, destination, entry["type"])
    target = open_destination(root_fd, destination, directory=True)
    _refuse_proc(root_fd, target, -1 if entry["type"] == "proc" else None)
    flags, data = entry["flags"], os.fsencode(entry["data"])
    k.mount(os.fsencode(entry["source"]), through(target), entry["type"].encode(), flags, data)
    os.close(target)
    _finish(root_fd, entry, destination)


def _refuse_links(root_fd: int, path: bytes, kind: str) -> None:
    try:
        os.close(k.open_in_root(root_fd, path, os.O_PATH | os.O_DIRECTORY, resolve=k.RESOLVE_NO_SYMLINKS))
    except FileNotFoundError:
        return
    except OSError as error:
        raise MountError(error.errno, f'filesystem "{kind}" must be mounted on ordinary directory') from error


def _refuse_proc(root_fd: int, target: int, source: int | None) -> None:
    """What lies at or below /proc must stay the kernel's. source: of a bind; -1 for a new procfs, None for others."""
    root = os.readlink(through(root_fd))
    path = os.readlink(through(target)).removeprefix(root.rstrip(b"/")) or b"/"
    if path == b"/proc":
        if source is None or (source >= 0 and k.filesystem_type(source) != k.PROC_MAGIC):
            raise MountError(errno.EPERM, f'"{os.fsdecode(path)}" cannot be mounted because it is not of type proc')
    elif path.startswith(b"/proc/") and path not in PROC_MOUNTS:
        raise MountError(errno.EPERM, f'"{os.fsdecode(path)}" cannot be mounted because it is inside /proc')


def _bind(root_fd: int, entry: dict[str, Any], destination: bytes) -> None:
    tree = _tree(root_fd, entry)
    if entry["attributes"]:
        k.set_mount_attributes(tree, b"", entry["attributes"], recursive=entry["attributes_recursive"])
    directory = stat.S_ISDIR(os.fstat(tree).st_mode)
    target = open_destination(root_fd, destination, directory=directory)
    _refuse_proc(root_fd, target, tree)
    if stat.S_ISDIR(os.fstat(target).st_mode) != directory:
        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))  # mount(2) says so, move_mount(2) EINVAL
    k.move_mount(tree, target)
    for flag in entry["propagation"]:
        k.mount(None, through(tree), None, flag)
    os.close(target)
    os.close(tree)


def _tree(root_fd: int, entry: dict[str, Any]) -> int:
    """What a bind mounts, detached: a path, something below a path, or an image's layers as one tree."""
    lowers, beneath = [os.fsencode(lower) for lower in entry["lowers"]], os.fsencode(entry["subpath"])
    if len(lowers) > 1:
        tree = k.make_filesystem(b"overlay", [(b"lowerdir+", lower) for lower in lowers])
        if not beneath:
            return tree
        # Only what is attached can be copied from: it lies on the root for that moment.
        k.move_mount(tree, root_fd)
        try:
            return _clone_beneath(tree, beneath, recursive=False)
        finally:
            k.umount(through(tree))
            os.close(tree)
    source = lowers[0] if lowers else os.fsencode(entry["source"])
    if not beneath:
        return _clone_tree(source, recursive=entry["recursive"])
    base = os.open(source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _clone_beneath(base, beneath, recursive=entry["recursive"])
    finally:
        os.close(base)


def _clone_beneath(base: int, path: bytes, *, recursive: bool) -> int:
    """Whoever has the volume may swap a directory for a link at any time: the kernel itself keeps us below."""
    try:
        found = k.open_beneath(base, path)
    except OSError as error:
        words = "is escaping from its base" if error.errno == errno.EXDEV else (error.strerror or "").lower()
        raise MountError(error.errno, f"cannot access path {os.fsdecode(path)}: {words}") from error
    try:
        return k.open_tree(b"", dir_fd=found, recursive=recursive)
    finally:
        os.close(found)


def _clone_tree(source: bytes, *, recursive: bool) -> int:
    """A detached copy of the mounts at `source`. `/proc/<pid>/root/...` lies in another container's mount namespace,
    whose mounts can only be copied from within it."""
    parts = source.split(b"/", 4)
    if not (len(parts) == 5 and parts[1] == b"proc" and parts[2].isdigit() and parts[3] == b"root"):
        return k.open_tree(source, recursive=recursive)
    own = os.open(b"/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    other = os.open(b"/proc/" + parts[2] + b"/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    k.setns(other, k.CLONE_NEWNS)
    try:
        return k.open_tree(b"/" + parts[4], recursive=recursive)
    finally:
        k.setns(own, k.CLONE_NEWNS)
        os.close(own)
        os.close(other)


def _finish(root_fd: int, entry: dict[str, Any], destination: bytes) -> None:
    """Attributes and propagation, on the mount that now lies on top of the destination."""
    attributes, propagation = entry["attributes"], entry["propagation"]
    if not attributes and not propagation:
        return
    top = k.open_in_root(root_fd, destination, os.O_PATH)
    if attributes:
        k.set_mount_attributes(top, b"", attributes, recursive=entry["attributes_recursive"])
    for flag in propagation:
        k.mount(None, through(top), None, flag)
    os.close(top)


def _cgroup(root_fd: int, entry: dict[str, Any], destination: bytes) -> None:
    """v2: one mount. v1: a tmpfs with one mount for each hierarchy; without a cgroup namespace the container's own
    groups are bound there instead (as runc does)."""
    flags = entry["flags"] & ~k.MS_RDONLY
    target = open_destination(root_fd, destination, directory=True)
    if entry["unified"]:
        k.mount(b"cgroup", through(target), b"cgroup2", flags)
        os.close(target)
        _finish(root_fd, entry, destination)
        return
    k.mount(b"tmpfs", through(target), b"tmpfs", flags, b"mode=755")
    os.close(target)
    top = k.open_in_root(root_fd, destination, os.O_PATH)
    for name, options, own_group in entry["hierarchies"]:
        _make(top, name.encode(), directory=True)
        place = through(top) + b"/" + name.encode()
        if entry["namespaced"]:
            source = name if options.startswith("none,") else "cgroup"
            k.mount(source.encode(), place, b"cgroup", entry["flags"], options.encode())
        else:
            k.mount(own_group.encode(), place, None, k.MS_BIND | k.MS_REC)
            # A bind has the attributes of where it comes from, until it is given its own.
            k.set_mount_attributes(-100, place, entry["flags"] & ATTRIBUTES, recursive=True)
    for name, link in entry["links"]:
        os.symlink(name, through(top) + b"/" + link.encode())
    os.close(top)
    _finish(root_fd, entry, destination)


def make_devices(root_fd: int, devices: list[tuple[str, int, int, int, int, int]]) -> None:
    """Device nodes (path, mode with type, major, minor, uid, gid; -1 for the container's root) and the usual links in
    /dev."""
    previous = os.umask(0)
    for path, mode, major, minor, uid, gid in devices:
        head, _, name = path.rpartition("/")
        parent = open_destination(root_fd, os.fsencode(head), directory=True)
        try:
            os.mknod(name, mode, os.makedev(major, minor), dir_fd=parent)
        except FileExistsError:
            os.unlink(name, dir_fd=parent)
            os.mknod(name, mode, os.makedev(major, minor), dir_fd=parent)
        if uid >= 0:
            os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)
        os.close(parent)
    parent = open_destination(root_fd, b"/dev", directory=True)
    for text, link in DEVICE_LINKS:
        if link == b"core" and not os.path.exists(text):
            continue  # A kernel without CONFIG_PROC_KCORE. Source: runc libcontainer/rootfs_linux.go.
        try:
            os.symlink(text, link, dir_fd=parent)
        except FileExistsError:
            continue
    os.close(parent)
    os.umask(previous)


def enter(root: bytes, *, shared: bool) -> None:
    """Make `root` the root directory and let go of the host's tree."""
    old_root = os.open(b"/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    os.chdir(root)
    k.pivot_root(b".", b".")
    os.fchdir(old_root)
    os.close(old_root)
    if shared:
        # Otherwise unmounting the old tree would reach the host through its peer group.
        k.mount(None, b".", None, k.MS_SLAVE | k.MS_REC)
    k.umount(b".")
    os.chdir(b"/")


def mask(paths: list[str]) -> None:
    """Hide each path: an empty read-only tmpfs over a directory, /dev/null over a file. Missing ones are skipped."""
    root, null = os.open(b"/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), -1
    for path in paths:
        try:
            target = k.open_in_root(root, os.fsencode(path), os.O_PATH)
        except (FileNotFoundError, NotADirectoryError):
            continue
        if stat.S_ISDIR(os.fstat(target).st_mode):
            tree = k.make_filesystem(b"tmpfs", [(b"source", b"tmpfs"), (b"ro", b"")])
            k.set_mount_attributes(tree, b"", k.MOUNT_ATTR_RDONLY, recursive=False)
        else:
            null = null if null >= 0 else _open_null()
            tree = k.open_tree(b"", recursive=False, dir_fd=null)
        k.move_mount(tree, target)
        os.close(tree)
        os.close(target)
    for fd in (root, null):
        if fd >= 0:
            os.close(fd)


def _open_null() -> int:
    """The container's /dev/null, when it is one: a volume may lie on /dev, and in it something that pretends."""
    null = os.open(b"/dev/null", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    found = os.fstat(null)
    if not stat.S_ISCHR(found.st_mode) or found.st_rdev != NULL_DEVICE:
        raise MountError(errno.ENODEV, "/dev/null is not the null device")
    return null


def make_readonly(paths: list[str]) -> None:
    root = os.open(b"/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for path in paths:
        try:
            target = k.open_in_root(root, os.fsencode(path), os.O_PATH)
        except (FileNotFoundError, NotADirectoryError):
            continue
        tree = k.open_tree(b"", recursive=True, dir_fd=target)
        k.set_mount_attributes(tree, b"", k.MOUNT_ATTR_RDONLY, recursive=True)
        k.move_mount(tree, target)
        os.close(tree)
        os.close(target)
    os.close(root)


def make_parent_private(path: bytes) -> None:
    """Only for a root that shares its mounts with the host: the overlay itself must not appear there."""
    best = b"/"
    with open("/proc/self/mountinfo", "rb") as table:
        for line in table:
            point = line.split(b" ", 5)[4]
            if path == point or path.startswith(point.rstrip(b"/") + b"/"):
                best = max(best, point, key=len)
    k.mount(None, best, None, k.MS_PRIVATE)
