"""The system calls that the standard library does not offer, as thin functions that raise OSError.

Owns: libc by ctypes, numbers of system calls and flags. Refuses to know what anybody mounts or forks.

`PyDLL` keeps the interpreter lock during a call: that makes clone3 safe in this single-threaded process, where the
usual release and retake of the lock would run in the child as well.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC = 32, 4096, 16384
MS_PRIVATE, MS_SLAVE, MS_SHARED, MS_UNBINDABLE = 1 << 18, 1 << 19, 1 << 20, 1 << 17
MNT_DETACH = 2

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x02000000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
CLONE_INTO_CGROUP = 0x200000000
SIGCHLD = 17

RESOLVE_BENEATH = 0x08
RESOLVE_CACHED = 0x20
RESOLVE_IN_ROOT = 0x10
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_NO_XDEV = 0x01
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 4
MOVE_MOUNT_T_EMPTY_PATH = 0x40
MOUNT_ATTR_RDONLY, MOUNT_ATTR_IDMAP = 1, 0x00100000
NS_GET_USERNS = 0xB701
CLONE_PARENT = 0x8000

PR_SET_NAME, PR_SET_CHILD_SUBREAPER, PR_CAPBSET_DROP = 15, 36, 24
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 1, 4, 8, 38, 47
PR_CAP_AMBIENT_RAISE, PR_CAP_AMBIENT_CLEAR_ALL = 2, 4
SECCOMP_SET_MODE_FILTER = 1

IN_MODIFY = 2

PROC_MAGIC, DEVPTS_MAGIC = 0x9FA0, 0x1CD1
"""Of statfs(2): what kind of file system something lies on."""
_KEYCTL_JOIN_SESSION_KEYRING, _KEYCTL_SETPERM = 1, 5
_KEYRING_PERMISSIONS = 0x3F1B0000
"""The kernel's own for a session keyring, and search by its owner: that is how an exec finds it. As runc."""

# Calls younger than 5.2 have one number on every architecture; these four have not.
_PIVOT_ROOT, _CAPSET, _SECCOMP, _KEYCTL = {"x86_64": (155, 126, 317, 250), "aarch64": (41, 91, 277, 219)}[
    os.uname().machine
]
_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT = 428, 429, 430, 431, 432
_PIDFD_OPEN, _CLONE3, _CLOSE_RANGE, _OPENAT2, _MOUNT_SETATTR = 434, 435, 436, 437, 442

_libc = ctypes.PyDLL(None, use_errno=True)
_libc.mount.argtypes = [ctypes.c_char_p] * 3 + [ctypes.c_ulong, ctypes.c_char_p]
_libc.syscall.restype = ctypes.c_long
_libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _call(number: int, *arguments: int | bytes | None) -> int:
    # ctypes passes a bare int as C int, which would cut addresses and 64-bit flags.
    converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return _checked(_libc.syscall(ctypes.c_long(number), *converted))


def mount(source: bytes | None, target: bytes, fstype: bytes | None, flags: int, data: bytes | None = None) -> None:
    _checked(_libc.mount(source, target, fstype, flags, data))


def umount(target: bytes, flags: int = MNT_DETACH) -> None:
    _checked(_libc.umount2(target, flags))


def unshare(flags: int) -> None:
    _checked(_libc.unshare(flags))


def setns(fd: int, flags: int) -> None:
    _checked(_libc.setns(fd, flags))


def prctl(option: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0) -> int:
    return _checked(_libc.prctl(option, a, b, c, d))


def pivot_root(new_root: bytes, put_old: bytes) -> None:
    _call(_PIVOT_ROOT, new_root, put_old)


def pidfd_open(pid: int) -> int:
    return _call(_PIDFD_OPEN, pid, 0)


def clone3(flags: int, cgroup_fd: int = -1) -> int:
    """Fork: 0 in the child. With `cgroup_fd` the child is born in that v2 cgroup, which spares the wait for an RCU
    grace period that writing cgroup.procs costs. With CLONE_PARENT it is a sibling, and ends as its elder does."""
    if cgroup_fd >= 0:
        flags |= CLONE_INTO_CGROUP
    exit_signal = 0 if flags & CLONE_PARENT else SIGCHLD
    arguments = struct.pack("11Q", flags, 0, 0, 0, exit_signal, 0, 0, 0, 0, 0, max(cgroup_fd, 0))
    return _call(_CLONE3, arguments, len(arguments))


def inotify() -> int:
    return _checked(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))


def inotify_add(fd: int, path: bytes, mask: int) -> int:
    return _checked(_libc.inotify_add_watch(fd, path, mask))


def inotify_remove(fd: int, watch: int) -> None:
    """One that went with its file is no error."""
    _libc.inotify_rm_watch(fd, watch)


def close_all_but(kept: set[int]) -> None:
    """Close every descriptor that is not among `kept`."""
    first = 0
    for fd in sorted(kept):
        if fd > first:
            _call(_CLOSE_RANGE, first, fd - 1, 0)
        first = fd + 1
    _call(_CLOSE_RANGE, first, 0xFFFFFFFF, 0)


def open_in_root(root_fd: int, path: bytes, flags: int, *, resolve: int = 0) -> int:
    """Open `path` as if `root_fd` were the root directory: neither `..` nor a symbolic link leads out of it."""
    how = struct.pack("3Q", flags | os.O_CLOEXEC, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | resolve)
    return _call(_OPENAT2, root_fd, path, how, len(how))


def open_beneath(base_fd: int, path: bytes) -> int:
    """An O_PATH descriptor of `path` below `base_fd`; what would lead out of it is refused with EXDEV."""
    how = struct.pack("3Q", os.O_PATH | os.O_CLOEXEC, 0, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)
    return _call(_OPENAT2, base_fd, path, how, len(how))


def filesystem_type(fd: int) -> int:
    """The magic number of the file system that a descriptor is on."""
    buffer = ctypes.create_string_buffer(256)
    _checked(_libc.fstatfs(fd, buffer))
    return int(struct.unpack_from("l", buffer.raw)[0])


def join_session_keyring(name: bytes) -> None:
    """Leave the session keyring of whoever started us for one of this name, made when missing. A kernel without keys
    has none to leave."""
    try:
        keyring = _call(_KEYCTL, _KEYCTL_JOIN_SESSION_KEYRING, name)
        _call(_KEYCTL, _KEYCTL_SETPERM, keyring, _KEYRING_PERMISSIONS)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise


def set_mount_attributes(fd: int, path: bytes, attributes: int, *, recursive: bool) -> None:
    attribute = struct.pack("4Q", attributes, 0, 0, 0)
    flags = (AT_RECURSIVE if recursive else 0) | (0 if path else AT_EMPTY_PATH)
    _call(_MOUNT_SETATTR, fd, path, flags, attribute, len(attribute))


def shift_owners(tree_fd: int, user_namespace: int, *, recursive: bool) -> None:
    """Show the files of a detached mount with the owners that the namespace maps theirs to."""
    attribute = struct.pack("4Q", MOUNT_ATTR_IDMAP, 0, 0, user_namespace)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    _call(_MOUNT_SETATTR, tree_fd, b"", flags, attribute, len(attribute))


def owner_of(namespace: int) -> int:
    """The user namespace that owns another namespace: its descriptor."""
    return fcntl.ioctl(namespace, NS_GET_USERNS)


def act_as(uid: int, gid: int) -> None:
    """Make files as this user of the host from now on, with every capability kept."""
    _libc.setfsgid(gid)
    _libc.setfsuid(uid)
    raise_capabilities()


def raise_capabilities() -> None:
    """What a change of user has taken away, as far as it may be taken back."""
    with open("/proc/self/status") as status:
        permitted = next(int(line[7:], 16) for line in status if line.startswith("CapPrm:"))
    capset(permitted, permitted, 0)


def open_tree(path: bytes, *, recursive: bool, dir_fd: int = -100) -> int:
    """A detached copy of the mount at `path`; of `dir_fd` itself when the path is empty."""
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (AT_RECURSIVE if recursive else 0) | (0 if path else AT_EMPTY_PATH)
    return _call(_OPEN_TREE, dir_fd, path, flags)


def move_mount(tree_fd: int, target_fd: int) -> None:
    _call(_MOVE_MOUNT, tree_fd, b"", target_fd, b"", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)


def make_filesystem(fstype: bytes, options: list[tuple[bytes, bytes]]) -> int:
    """A detached mount of a new filesystem instance, its options given one by one: no limit of one page in all."""
    context = _call(_FSOPEN, fstype, 1)
    try:
        for key, value in options:
            if value:
                _call(_FSCONFIG, context, 1, key, value, 0)
            else:
                _call(_FSCONFIG, context, 0, key, None, 0)
        _call(_FSCONFIG, context, 6, None, None, 0)
        return _call(_FSMOUNT, context, 1, 0)
    finally:
        os.close(context)


def capset(effective: int, permitted: int, inheritable: int) -> None:
    low, high = 0xFFFFFFFF, 32
    header = struct.pack("Ii", 0x20080522, 0)
    sets = (effective, permitted, inheritable)
    _call(_CAPSET, header, struct.pack("6I", *(s & low for s in sets), *(s >> high for s in sets)))


class _SockFprog(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def load_seccomp(program: bytes, flags: int) -> None:
    buffer = ctypes.create_string_buffer(program, len(program))
    fprog = _SockFprog(len(program) // 8, ctypes.addressof(buffer))
    _call(_SECCOMP, SECCOMP_SET_MODE_FILTER, flags, ctypes.addressof(fprog))


def keep_memory(size: int) -> None:
    """Let malloc serve and keep blocks up to `size` itself. By default those above 128 KiB are mapped and unmapped one
    by one, which halves the speed of a loop that makes and drops them."""
    _libc.mallopt(-3, size)
    _libc.mallopt(-1, 2 * size)


def bpf(number: int, command: int, attributes: bytes) -> int:
    return _call(number, command, attributes, len(attributes))
