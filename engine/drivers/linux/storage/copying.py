"""Copying trees: content, owner, modes, times, xattrs, hard links. Stdlib only: workers import it.

By directory descriptors, so that no name is resolved twice; where the file system can, blocks are shared.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

from engine.drivers.linux.storage.worker import shifted

_COPY_BYTES = 1 << 26


class Copy:
    """links: places of files with several names, by inode. id_map: of whom the copy shall be the files, None: of the
    same."""

    def __init__(self, id_map: dict[str, list[tuple[int, int, int]]] | None = None) -> None:
        self.links: dict[tuple[int, int], str] = {}
        self._id_map = id_map

    def owner(self, found: os.stat_result) -> tuple[int, int]:
        if self._id_map is None:
            return found.st_uid, found.st_gid
        return shifted(self._id_map["uids"], found.st_uid), shifted(self._id_map["gids"], found.st_gid)


def copy_tree(source: str, target: str, *, missing: bool = False) -> None:
    """Copy what is in one directory into another, with its own attributes; missing: only what that has not got."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    source_fd, target_fd = os.open(source, flags), os.open(target, flags)
    try:
        (_copy_missing if missing else copy_directory)(source_fd, target_fd, Copy())
    finally:
        os.close(source_fd)
        os.close(target_fd)


def copy_directory(source: int, target: int, copy: Copy) -> None:
    """Copy what is below one directory fd to another, then its own attributes."""
    for name in sorted(os.listdir(source)):
        _copy_tree(source, target, name, os.stat(name, dir_fd=source, follow_symlinks=False), copy)
    _copy_attributes(f"/proc/self/fd/{source}", f"/proc/self/fd/{target}", os.fstat(source), copy, follow=True)


def _copy_missing(source: int, target: int, copy: Copy) -> None:
    """Copy what the target has not got, into the directories that both have; what is there stays as it is, times of
    directories included."""
    before = os.fstat(target)
    for name in sorted(os.listdir(source)):
        found = os.stat(name, dir_fd=source, follow_symlinks=False)
        try:
            there = os.stat(name, dir_fd=target, follow_symlinks=False)
        except FileNotFoundError:
            _copy_tree(source, target, name, found, copy)
            continue
        if stat.S_ISDIR(found.st_mode) and stat.S_ISDIR(there.st_mode):
            with _both(source, target, name) as (below, beside):
                _copy_missing(below, beside, copy)
    os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))


def _copy_tree(source: int, target: int, name: str, found: os.stat_result, copy: Copy) -> None:
    if stat.S_ISDIR(found.st_mode):
        os.mkdir(name, 0o700, dir_fd=target)
        with _both(source, target, name) as (below, there):
            copy_directory(below, there, copy)
    else:
        _copy_one(source, target, name, found, copy)


@contextlib.contextmanager
def _both(source: int, target: int, name: str) -> Iterator[tuple[int, int]]:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    below, there = os.open(name, flags, dir_fd=source), os.open(name, flags, dir_fd=target)
    try:
        yield below, there
    finally:
        os.close(below)
        os.close(there)


def _copy_one(source: int, target: int, name: str, found: os.stat_result, copy: Copy) -> None:
    here, there = f"/proc/self/fd/{source}/{name}", f"/proc/self/fd/{target}/{name}"
    first = copy.links.get((found.st_dev, found.st_ino)) if found.st_nlink > 1 else None
    if first is not None:
        os.link(first, there, follow_symlinks=False)
        return
    if stat.S_ISREG(found.st_mode):
        _copy_content(source, target, name)
    elif stat.S_ISLNK(found.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
    elif stat.S_ISSOCK(found.st_mode):
        return
    else:
        os.mknod(name, found.st_mode, found.st_rdev, dir_fd=target)
    _copy_attributes(here, there, found, copy, follow=False)
    if found.st_nlink > 1:
        # A directory fd's number may be another directory's later: keep the place itself.
        copy.links[found.st_dev, found.st_ino] = os.path.realpath(f"/proc/self/fd/{target}") + "/" + name


def _copy_content(source: int, target: int, name: str) -> None:
    reader = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
    try:
        writer = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
        try:
            while _copy_some(reader, writer):
                pass
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def _copy_some(reader: int, writer: int) -> int:
    try:
        return os.copy_file_range(reader, writer, _COPY_BYTES)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        return os.sendfile(writer, reader, None, _COPY_BYTES)


def _copy_attributes(source: str, target: str, found: os.stat_result, copy: Copy, *, follow: bool) -> None:
    os.chown(target, *copy.owner(found), follow_symlinks=follow)
    if not stat.S_ISLNK(found.st_mode):
        os.chmod(target, stat.S_IMODE(found.st_mode))
    for name in os.listxattr(source, follow_symlinks=follow):
        if not name.startswith("trusted.overlay."):
            try:
                os.setxattr(target, name, os.getxattr(source, name, follow_symlinks=follow), follow_symlinks=follow)
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.EPERM):
                    raise  # the volume's file system may know fewer xattrs than the image's.
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns), follow_symlinks=follow)
