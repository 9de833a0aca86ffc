"""System calls the standard library lacks: openat2, mount, unshare, setns, syncfs.

Owns the numbers and the calling conventions. Stdlib only: workers import it. Every wrapper raises OSError.
"""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import os

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_SYNCHRONOUS = 16
MS_REMOUNT = 32
MS_MANDLOCK = 64
MS_DIRSYNC = 128
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_RELATIME = 1 << 21
MS_STRICTATIME = 1 << 24

MNT_DETACH = 2

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

_FS_IOC_GETFLAGS = 0x80086601
_FS_IOC_SETFLAGS = 0x40086602
_EXT4_TOPDIR = 0x20000
_SYS_OPENAT2 = 437
_SYS_FSOPEN = 430
_SYS_FSCONFIG = 431
_SYS_FSMOUNT = 432
_SYS_MOVE_MOUNT = 429
_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_CREATE = 6
_MOVE_MOUNT_F_EMPTY_PATH = 4
_AT_FDCWD = -100
_OPENAT2_TRIES = 64

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def openat2(dir_fd: int, path: bytes, flags: int, *, mode: int = 0, resolve: int = RESOLVE_IN_ROOT) -> int:
    """Open below `dir_fd` by the given resolution rules; the fd is close-on-exec.

    The kernel answers EAGAIN when something was renamed while it resolved `..`; that is tried again.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve | RESOLVE_NO_MAGICLINKS)
    for _ in range(_OPENAT2_TRIES):
        fd = int(_libc.syscall(_SYS_OPENAT2, dir_fd, path, ctypes.byref(how), ctypes.sizeof(how)))
        if fd >= 0:
            return fd
        if ctypes.get_errno() not in (errno.EAGAIN, errno.EINTR):
            break
    return _check(-1, os.fsdecode(path))


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    result = _libc.mount(
        os.fsencode(source), os.fsencode(target), os.fsencode(kind), ctypes.c_ulong(flags), os.fsencode(data) or None
    )
    _check(result, target)


def umount(target: str, flags: int = 0) -> None:
    _check(_libc.umount2(os.fsencode(target), flags), target)


def unshare(flags: int) -> None:
    _check(_libc.unshare(flags), "unshare")


def setns(fd: int, kind: int) -> None:
    _check(_libc.setns(fd, kind), "setns")


def syncfs(fd: int) -> None:
    _check(_libc.syncfs(fd), "syncfs")


def mark_top_directory(path: str) -> None:
    """Tell ext4 that what is made in this directory has nothing to do with each other (`chattr +T`), so that it spreads
    over the disk's block groups. Layers made near freshly deleted ones cost up to twenty times as much: without a
    journal, ext4 steps over every inode deleted in the last minutes. Other file systems have no such flag: no error."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags = array.array("l", [0])
        fcntl.ioctl(fd, _FS_IOC_GETFLAGS, flags, True)
        flags[0] |= _EXT4_TOPDIR
        fcntl.ioctl(fd, _FS_IOC_SETFLAGS, flags)
    except OSError:
        pass
    finally:
        os.close(fd)


def mount_overlay(target: str, lowers: tuple[str, ...], upper: str, work: str, *, volatile: bool) -> None:
    """Mount an overlay, lowers topmost first; an empty `upper` makes it read-only.

    fsopen with one `lowerdir+` a layer (Linux 6.7): mount(2)'s option page holds about thirty layers. Older kernels get
    the option string.
    """
    options = [("lowerdir+", lower) for lower in lowers]
    if upper:
        options += [("upperdir", upper), ("workdir", work)]
    fs = _check(int(_libc.syscall(_SYS_FSOPEN, b"overlay", 1)), "fsopen overlay")
    try:
        for name, value in options:
            _fsconfig(fs, name, value)
        if volatile:
            _check(int(_libc.syscall(_SYS_FSCONFIG, fs, 0, b"volatile", None, 0)), "volatile")
        _check(int(_libc.syscall(_SYS_FSCONFIG, fs, _FSCONFIG_CMD_CREATE, None, None, 0)), target)
        tree = _check(int(_libc.syscall(_SYS_FSMOUNT, fs, 1, 0)), target)
    except OSError as error:
        if error.errno != errno.EINVAL or error.filename != "lowerdir+":
            raise
        _mount_overlay_by_string(target, lowers, upper, work, volatile=volatile)
        return
    finally:
        os.close(fs)
    try:
        move = _libc.syscall(_SYS_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH)
        _check(int(move), target)
    finally:
        os.close(tree)


def _fsconfig(fs: int, name: str, value: str) -> None:
    result = _libc.syscall(_SYS_FSCONFIG, fs, _FSCONFIG_SET_STRING, name.encode(), os.fsencode(value), 0)
    _check(int(result), name)


def _mount_overlay_by_string(target: str, lowers: tuple[str, ...], upper: str, work: str, *, volatile: bool) -> None:
    options = "lowerdir=" + ":".join(lower.replace("\\", "\\\\").replace(":", "\\:") for lower in lowers)
    if upper:
        options += f",upperdir={upper},workdir={work}"
    mount("overlay", target, "overlay", 0, options + (",volatile" if volatile else ""))
