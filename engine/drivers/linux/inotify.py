"""inotify under trio: one descriptor for the whole engine, one watch per directory, any number of waiters.

One instance is shared because the kernel allows a user 128 of them by default, and an engine may have more people
following logs than that. Source: inotify(7).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
from collections.abc import AsyncIterator, Iterator

import trio

IN_MODIFY = 0x2
IN_MOVED_FROM = 0x40
IN_CREATE = 0x100
IN_DELETE_SELF = 0x400
IN_Q_OVERFLOW = 0x4000
MASK = IN_MODIFY | IN_MOVED_FROM | IN_CREATE | IN_DELETE_SELF
READ_BYTES = 1 << 16

_EVENT = struct.Struct("iIII")


class Watch:
    """One waiter's view of a directory: `changed` says whether anything happened since it was last asked to wait."""

    def __init__(self) -> None:
        self._event = trio.Event()

    async def changed(self) -> None:
        """Return once something has happened since the last return; at once when it has already. Cancel-safe."""
        await self._event.wait()
        self._event = trio.Event()

    def notify(self) -> None:
        self._event.set()


class Watches:
    """All watches of the engine. `watches()` makes one."""

    def __init__(self, fd: int, libc: ctypes.CDLL) -> None:
        self._fd = fd
        self._libc = libc
        self._waiters: dict[int, list[Watch]] = {}

    @contextlib.contextmanager
    def watch(self, directory: str) -> Iterator[Watch]:
        """Watch a directory while the block runs. Raises OSError (ENOENT; ENOSPC when the user has no watch left)."""
        number = self._libc.inotify_add_watch(self._fd, os.fsencode(directory), MASK)
        if number < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), directory)
        watch = Watch()
        waiters = self._waiters.setdefault(number, [])
        waiters.append(watch)
        try:
            yield watch
        finally:
            waiters.remove(watch)
            if not waiters and self._waiters.get(number) is waiters:
                del self._waiters[number]
                self._libc.inotify_rm_watch(self._fd, number)  # fails when the directory has gone: as good

    async def run(self) -> None:
        """Wake waiters for ever."""
        while True:
            await trio.lowlevel.wait_readable(self._fd)
            try:
                data = os.read(self._fd, READ_BYTES)
            except OSError as error:
                if error.errno == errno.EAGAIN:
                    continue
                raise
            self._dispatch(data)

    def _dispatch(self, data: bytes) -> None:
        numbers: set[int] = set()
        position = 0
        while position < len(data):
            number, mask, _, length = _EVENT.unpack_from(data, position)
            numbers |= set(self._waiters) if mask & IN_Q_OVERFLOW else {number}
            position += _EVENT.size + length
        for number in numbers:
            for watch in self._waiters.get(number, ()):
                watch.notify()


@contextlib.asynccontextmanager
async def watches() -> AsyncIterator[Watches]:
    """The engine's inotify instance, while the block runs. Raises OSError (EMFILE)."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), "inotify_init1")
    instance = Watches(fd, libc)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(instance.run, name="inotify")
            try:
                yield instance
            finally:
                nursery.cancel_scope.cancel()
    finally:
        os.close(fd)
