"""Ports: who a process runs as, and which devices the host has. Both are look-ups that change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from engine.drivers.ports.runtime import RootFilesystem
from engine.oci.resources import DeviceNode
from engine.oci.spec import Identity


class Identities(Protocol):
    """Users and groups by the container's own files."""

    async def resolve(self, user: str, groups: Sequence[str], rootfs: RootFilesystem, *, pid: int = 0) -> Identity:
        """Docker's `user[:group]`, by name or number, and additional groups. pid: look in that process's root instead
        (a running container). Raises PortError(INVALID) `unable to find user x: no matching entries in passwd file`."""
        ...


class HostDevices(Protocol):
    """Devices under the host's /dev."""

    async def find(self, path_on_host: str, path_in_container: str, access: str) -> tuple[DeviceNode, ...]:
        """The device at a path, or all below a directory. Raises PortError(INVALID) for what is no device."""
        ...

    async def all(self) -> tuple[DeviceNode, ...]:
        """Everything, for the privileged."""
        ...

    async def numbers(self, path: str) -> tuple[int, int]:
        """(major, minor) of a path. Raises PortError when there is none."""
        ...
