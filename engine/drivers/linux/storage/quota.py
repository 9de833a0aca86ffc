"""Limits of directory trees by the file system's project quotas (xfs mounted with `pquota`; ext4 with `prjquota`).

Owns the choice of project numbers: each limited directory has one of its own, among all below one data root. A
directory is limited while it is empty: what is made in it inherits its project. Sources: linux/dqblk_xfs.h, linux/fs.h;
moby daemon/internal/quota/projectquota.go.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterator

_HOMES = ("rootfs", "volumes", "tmp", "trash")
"""Where limited directories are: what is thrown away counts for its project until it is deleted."""
_SYS_QUOTACTL_FD = 443
_SET_LIMIT = (ord("X") << 8 | 4) << 8 | 2
"""Q_XSETQLIM of project quotas."""
_DISK_QUOTA = struct.Struct("=bbHI6Q2i2H4bQQQiHh8s")
_VERSION, _PROJECT, _SOFT_AND_HARD_BLOCKS = 1, 2, 0b1100
_BLOCK_BYTES = 512
_GET_ATTRIBUTES, _SET_ATTRIBUTES = 0x801C581F, 0x401C5820
_ATTRIBUTES = struct.Struct("=5I8s")
_INHERITED = 0x200

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def supported(data_root: str) -> bool:
    """Whether trees below the data root can be limited: tried on a project that has no files."""
    try:
        with _free_project(data_root) as project:
            _set_limit(data_root, project, 0)
    except OSError:
        return False
    return True


def limit(directory: str, data_root: str, limit_bytes: int) -> None:
    """Limit what an empty directory somewhere in one of the `_HOMES` will hold. Raises OSError."""
    with _free_project(data_root) as project:
        _set_limit(directory, project, limit_bytes)
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            flags, extent, extents, _, cow, rest = _attributes(fd)
            fcntl.ioctl(fd, _SET_ATTRIBUTES, _ATTRIBUTES.pack(flags | _INHERITED, extent, extents, project, cow, rest))
        finally:
            os.close(fd)


@contextlib.contextmanager
def _free_project(data_root: str) -> Iterator[int]:
    """A number that nobody has or takes meanwhile: one more than the data root's own, which an administrator may have
    set, and than those of all trees that may be limited. Layers are made side by side, so choosing is locked."""
    fd = os.open(data_root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        homes = [f"{data_root}/{home}" for home in _HOMES]
        trees = [tree for home in homes if os.path.isdir(home) for tree in os.scandir(home)]
        found = [_project_of(tree.path) for tree in trees if tree.is_dir(follow_symlinks=False)]
        yield max([_project_of(data_root), *map(_project_of, homes), *found]) + 1
    finally:
        os.close(fd)


def _project_of(path: str) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        return int(_attributes(fd)[3])
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EOPNOTSUPP):
            return 0  # a file system without projects.
        raise
    finally:
        os.close(fd)


def _attributes(fd: int) -> tuple[int, int, int, int, int, bytes]:
    """struct fsxattr: flags, extent size, extents, project, extent size of copies, padding."""
    buffer = bytearray(_ATTRIBUTES.size)
    fcntl.ioctl(fd, _GET_ATTRIBUTES, buffer)
    flags, extent, extents, project, cow, rest = _ATTRIBUTES.unpack(buffer)
    return flags, extent, extents, project, cow, rest


def _set_limit(directory: str, project: int, limit_bytes: int) -> None:
    blocks = limit_bytes // _BLOCK_BYTES
    quota = _DISK_QUOTA.pack(
        _VERSION, _PROJECT, _SOFT_AND_HARD_BLOCKS, project, blocks, blocks, *([0] * 18), bytes(8)
    )  # fmt: skip
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syscall(_SYS_QUOTACTL_FD, fd, _SET_LIMIT, project, quota) < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), directory)
    finally:
        os.close(fd)
