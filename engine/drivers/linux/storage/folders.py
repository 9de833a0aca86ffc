"""Containers' folders: small generated files that are bind-mounted into them, and their logs.

Files are rewritten in place and never replaced: a bind mount holds the inode it was made from.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Mapping

import trio

from engine.aggregates.values.ids import ContainerID
from engine.drivers.linux.storage.errors import as_port_error
from engine.drivers.linux.storage.places import DIRECTORY_MODE, Places

FILE_MODE = 0o644
EDIT_BYTES_MAX = 1 << 20


class LinuxContainerFolders:
    """The ContainerFolders port. owner: uid and gid of the containers' root."""

    def __init__(self, places: Places, owner: tuple[int, int] = (0, 0)) -> None:
        self._places = places
        self._owner = owner
        self._root = f"{places.data_root}/containers"

    def path(self, container_id: ContainerID) -> str:
        return f"{self._root}/{container_id}"

    async def write(self, container_id: ContainerID, files: Mapping[str, str]) -> str:
        # A few hundred bytes into the page cache: a thread would cost more than the writes.
        folder = self.path(container_id)
        os.makedirs(folder, DIRECTORY_MODE, exist_ok=True)
        for name, content in files.items():
            fd = os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE)
            try:
                os.write(fd, content.encode())
                if self._owner != (0, 0):
                    os.fchown(fd, *self._owner)
            finally:
                os.close(fd)
        return folder

    async def edit(self, container_id: ContainerID, name: str, change: Callable[[str], str]) -> None:
        with as_port_error(f"edit {name}"), contextlib.suppress(FileNotFoundError):
            fd = os.open(f"{self.path(container_id)}/{name}", os.O_RDWR | os.O_CLOEXEC)
            try:
                _edit(fd, change)
            finally:
                os.close(fd)

    async def discard(self, container_id: ContainerID) -> None:
        self._places.discard(self.path(container_id))

    async def list_folders(self) -> tuple[ContainerID, ...]:
        try:
            names = await trio.to_thread.run_sync(os.listdir, self._root)
        except FileNotFoundError:
            return ()
        return tuple(ContainerID(name) for name in names)


def _edit(fd: int, change: Callable[[str], str]) -> None:
    """The container writes this file too: bytes that are no text stay the bytes they are."""
    before = os.read(fd, EDIT_BYTES_MAX + 1)
    if len(before) > EDIT_BYTES_MAX:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    after = change(before.decode(errors="surrogateescape")).encode(errors="surrogateescape")
    if after != before:
        os.pwrite(fd, after, 0)
        os.ftruncate(fd, len(after))
