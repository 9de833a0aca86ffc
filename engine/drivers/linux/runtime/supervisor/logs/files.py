"""Log files with their rotation, of any format: `max-size`, `max-file`, `compress`.

Owns: the current file's descriptor and size. Refuses to know: what an entry looks like; the format says where one ends.
"""

from __future__ import annotations

import os
import zlib

from ..beside import beside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..loop import Loop

FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
MODE = 0o640


def open_log(path: str) -> int:
    """The current file, made with its directory where need be. Raises OSError."""
    try:
        return os.open(path, FLAGS, MODE)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        return os.open(path, FLAGS, MODE)


class LogFile:
    """The current file, opened before the start (so that failing to open it fails the start).

    boundary(entries, at_least): where the first entry ends that reaches so far. on_room: see `full`."""

    def __init__(
        self,
        fd: int,
        spec: dict[str, Any],
        loop: Loop,
        boundary: Callable[[bytes, int], int],
        on_room: Callable[[], None],
    ) -> None:
        self._fd, self._loop, self._boundary, self._on_room = fd, loop, boundary, on_room
        self._path = spec["path"]
        self._max_size = spec["max_size"]
        self._max_files = spec["max_files"]
        self._compress = spec["compress"]
        self._size = os.fstat(fd).st_size
        self._packing = False
        self.lost = 0
        """Bytes dropped because the disk was full: the container goes on, as under moby."""

    @property
    def full(self) -> bool:
        """Whether it is time to rotate and the last rotation is still being compressed: reading should wait, since
        another rotation now would put a new file where the compressor is about to remove the old one."""
        return self._packing and self._size >= self._max_size

    def write(self, entries: bytes) -> None:
        while self._max_size > 0 and self._size + len(entries) > self._max_size and not self._packing:
            if self._size < self._max_size:
                # moby rotates before the first entry that finds the file full.
                cut = self._boundary(entries, self._max_size - self._size)
                self._append(entries[:cut])
                entries = entries[cut:]
            if not entries:
                return
            if self._size >= self._max_size:
                self._rotate()
        self._append(entries)

    def _append(self, entries: bytes) -> None:
        view = memoryview(entries)
        try:
            while view:
                written = os.write(self._fd, view)
                self._size += written
                view = view[written:]
        except OSError:
            self.lost += len(view)

    def _rotate(self) -> None:
        if self._max_files < 2:
            os.ftruncate(self._fd, 0)
            self._size = 0
            return
        suffix = ".gz" if self._compress else ""
        for number in range(self._max_files - 1, 1, -1):
            try:
                os.rename(f"{self._path}.{number - 1}{suffix}", f"{self._path}.{number}{suffix}")
            except FileNotFoundError:
                continue
        rotated = f"{self._path}.1"
        try:
            os.rename(self._path, rotated)
            fd = os.open(self._path, FLAGS, MODE)
        except OSError:
            self._size = 0  # try again a file's length later rather than at every line
            return
        os.close(self._fd)
        self._fd, self._size = fd, 0
        if self._compress:
            self._packing = True
            beside(self._loop, lambda: compress(rotated), self._packed)

    def _packed(self, answer: object, fds: list[int]) -> None:
        waited = self.full
        self._packing = False
        if waited:
            self._on_room()

    def close(self) -> None:
        os.close(self._fd)


def compress(path: str) -> tuple[bool, tuple[int, ...]]:
    packer = zlib.compressobj(wbits=31)
    with open(path, "rb") as source, open(path + ".gz.new", "wb") as target:
        while chunk := source.read(1 << 18):
            target.write(packer.compress(chunk))
        target.write(packer.flush())
    os.rename(path + ".gz.new", path + ".gz")
    os.unlink(path)
    return True, ()
