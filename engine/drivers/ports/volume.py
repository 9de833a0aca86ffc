"""Port: volumes of one driver, and the mount sources of containers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from engine.aggregates.values.ids import VolumeName


class Volumes(Protocol):
    """The local driver: `<root>/volumes/<name>/_data`."""

    async def create(
        self, name: VolumeName, options: Mapping[str, str], *, unless: Callable[[], bool] = lambda: False
    ) -> str:
        """Make it (or find it); its mountpoint. unless: asked in the moment that would make it; nothing is made if it
        holds."""
        ...

    async def remove(self, name: VolumeName) -> None: ...

    async def mount(self, name: VolumeName, options: Mapping[str, str]) -> str:
        """Make the source ready (a `type=nfs` is mounted on first use); the path to bind. Idempotent."""
        ...

    async def unmount(
        self, name: VolumeName, options: Mapping[str, str], *, unless: Callable[[], bool] = lambda: False
    ) -> None:
        """Undo `mount`. Idempotent. unless: asked when nobody else works on the volume; nothing happens if it holds."""
        ...

    async def usages(self, names: Sequence[VolumeName]) -> Mapping[VolumeName, int]:
        """Bytes in volumes; what cannot be measured is left out. It takes as long as a walk over them."""
        ...

    async def list(self) -> tuple[VolumeName, ...]: ...

    async def fill(self, name: VolumeName, lowers: tuple[str, ...], path: str) -> None:
        """Copy-up: copy `path` of an image (layer directories, topmost first, merged) into the volume when the volume
        is empty, with ownership, modes and xattrs. Nothing happens when the image has no such directory."""
        ...


class HostPaths(Protocol):
    """Sources of bind mounts, which belong to the user."""

    async def ensure(self, path: str, *, create: bool) -> None:
        """See that a bind's source is there; create: make a missing directory, as `-v` promises. Raises
        PortError(INVALID) `bind source path does not exist: ...`."""
        ...
