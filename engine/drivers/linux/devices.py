"""The host's device nodes, read from /dev."""

from __future__ import annotations

import os
import stat

from engine.errors import Fault, PortError
from engine.oci.resources import DeviceNode

SKIPPED = frozenset({"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "hugepages"})
"""Below /dev, but no devices of the host's. Source: opencontainers/runc libcontainer/devices."""
SKIPPED_NODES = frozenset({"console", "ptmx", "tty", "null", "zero", "full", "random", "urandom"})
"""Every container has its own."""


class LinuxHostDevices:
    """The HostDevices port."""

    async def find(self, path_on_host: str, path_in_container: str, access: str) -> tuple[DeviceNode, ...]:
        inside = path_in_container or path_on_host
        try:
            found = os.stat(path_on_host)
        except OSError as error:
            raise PortError(
                "device",
                f'error gathering device information while adding custom device "{path_on_host}": '
                "no such file or directory",
                fault=Fault.INVALID,
                errno=error.errno or 0,
            ) from error
        if stat.S_ISDIR(found.st_mode):
            nodes = _walk(path_on_host)
            if not nodes:
                raise _not_a_device(path_on_host)
            return tuple(
                _node(node, inside + path[len(path_on_host) :], access) for path, node in nodes
            )
        if not _is_device(found.st_mode):
            raise _not_a_device(path_on_host)
        return (_node(found, inside, access),)

    async def numbers(self, path: str) -> tuple[int, int]:
        """(major, minor) of what a block I/O limit names. Raises PortError in the words of moby's stat."""
        try:
            found = os.stat(path)
        except OSError as error:
            words = f"stat {path}: {(error.strerror or '').lower()}"
            raise PortError("device", words, errno=error.errno or 0) from error
        return os.major(found.st_rdev), os.minor(found.st_rdev)

    async def all(self) -> tuple[DeviceNode, ...]:
        return tuple(_node(node, path, "rwm") for path, node in _walk("/dev"))


def _walk(folder: str) -> list[tuple[str, os.stat_result]]:
    found: list[tuple[str, os.stat_result]] = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_symlink():
            continue
        if entry.is_dir(follow_symlinks=False):
            if entry.name not in SKIPPED:
                found += _walk(entry.path)
            continue
        node = entry.stat(follow_symlinks=False)
        if _is_device(node.st_mode) and not (folder == "/dev" and entry.name in SKIPPED_NODES):
            found.append((entry.path, node))
    return found


def _is_device(mode: int) -> bool:
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)


def _node(node: os.stat_result, path: str, access: str) -> DeviceNode:
    return DeviceNode(
        path=path,
        kind="b" if stat.S_ISBLK(node.st_mode) else "c",
        major=os.major(node.st_rdev),
        minor=os.minor(node.st_rdev),
        mode=stat.S_IMODE(node.st_mode),
        uid=node.st_uid,
        gid=node.st_gid,
        access=access or "rwm",
    )


def _not_a_device(path: str) -> PortError:
    return PortError(
        "device",
        f'error gathering device information while adding custom device "{path}": not a device node',
        fault=Fault.INVALID,
    )
