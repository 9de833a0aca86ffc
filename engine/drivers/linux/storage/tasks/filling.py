"""Worker task: fill an empty volume with what an image has at its mount point (copy-up).

The image is read through an overlay of its layers in the worker's own mount namespace, so merged is what the kernel
says is merged, and links resolve inside the image. Copied are content, owner, modes, times, xattrs and hard links.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Any

from engine.drivers.linux.storage import kernel
from engine.drivers.linux.storage.worker import shifted

_COPY_BYTES = 1 << 26


def fill(fields: dict[str, Any]) -> dict[str, bool]:
    """fields: lowers (topmost first), path, target (the volume's directory), place (an empty directory to mount on),
    id_map (of the containers whose volume it will be, or None: a volume's owners are the host's, an image's are not).
    Returns filled: False where the image has no such directory."""
    lowers = fields["lowers"]
    if len(lowers) > 1:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount("", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount_overlay(fields["place"], tuple(lowers), "", "", volatile=False)
    # Opened only now: an fd from before belongs to a mount of the old namespace, and hard links do not cross mounts.
    target = os.open(fields["target"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    root = os.open(fields["place"] if len(lowers) > 1 else lowers[0], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        path = os.fsencode(fields["path"].strip("/")) or b"."
        source = kernel.openat2(root, path, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return {"filled": False}
    _copy_directory(source, target, _Copy(fields["id_map"]))
    return {"filled": True}


class _Copy:
    """links: places of files with several names, by inode."""

    def __init__(self, id_map: dict[str, list[tuple[int, int, int]]] | None) -> None:
        self.links: dict[tuple[int, int], str] = {}
        self._id_map = id_map

    def owner(self, found: os.stat_result) -> tuple[int, int]:
        if self._id_map is None:
            return found.st_uid, found.st_gid
        return shifted(self._id_map["uids"], found.st_uid), shifted(self._id_map["gids"], found.st_gid)


def _copy_directory(source: int, target: int, copy: _Copy) -> None:
    """Copy what is below one directory fd to another, then its own attributes."""
    for name in sorted(os.listdir(source)):
        found = os.stat(name, dir_fd=source, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            os.mkdir(name, 0o700, dir_fd=target)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            below, there = os.open(name, flags, dir_fd=source), os.open(name, flags, dir_fd=target)
            try:
                _copy_directory(below, there, copy)
            finally:
                os.close(below)
                os.close(there)
        else:
            _copy_one(source, target, name, found, copy)
    _copy_attributes(f"/proc/self/fd/{source}", f"/proc/self/fd/{target}", os.fstat(source), copy, follow=True)


def _copy_one(source: int, target: int, name: str, found: os.stat_result, copy: _Copy) -> None:
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


def _copy_attributes(source: str, target: str, found: os.stat_result, copy: _Copy, *, follow: bool) -> None:
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
