"""What a log server has not taken yet, kept where a next copier finds it: in a memory file that the supervisor holds.

Eight bytes say where the first entry begins that is still to be sent; each entry has its length in four bytes before
it. As long as the server keeps up nothing is ever written here. Entries are done with in the order they came.
"""

from __future__ import annotations

import collections
import os
import struct

_START = struct.Struct(">Q")
_LENGTH = struct.Struct(">I")
HEAD = _START.size
DEAD_SIZE_MAX = 1 << 20
"""How much that is done with may lie in front before the rest is moved there."""


class Spool:
    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._sizes: collections.deque[int] = collections.deque()
        self._start = self._end = HEAD

    def __len__(self) -> int:
        return len(self._sizes)

    def load(self) -> list[bytes]:
        """What an earlier copier left."""
        data = os.pread(self._fd, os.fstat(self._fd).st_size, 0)
        if len(data) < HEAD:
            return []
        position = self._start = max(HEAD, _START.unpack_from(data)[0])
        entries = []
        while position + _LENGTH.size <= len(data):
            (size,) = _LENGTH.unpack_from(data, position)
            entry = data[position + _LENGTH.size : position + _LENGTH.size + size]
            if len(entry) < size:
                break  # torn by the end of its writer
            entries.append(entry)
            self._sizes.append(_LENGTH.size + size)
            position += _LENGTH.size + size
        self._end = position
        return entries

    def keep(self, entries: list[bytes]) -> None:
        data = b"".join(_LENGTH.pack(len(entry)) + entry for entry in entries)
        os.pwrite(self._fd, data, self._end)
        self._sizes.extend(_LENGTH.size + len(entry) for entry in entries)
        self._end += len(data)
        self._say_start()

    def drop(self, count: int) -> None:
        """The oldest so many are done with, as far as they are here."""
        for _ in range(min(count, len(self._sizes))):
            self._start += self._sizes.popleft()
        if not self._sizes:
            os.ftruncate(self._fd, 0)
            self._start = self._end = HEAD
            return
        if self._start > DEAD_SIZE_MAX:
            rest = os.pread(self._fd, self._end - self._start, self._start)
            os.pwrite(self._fd, _START.pack(HEAD) + rest, 0)
            self._start, self._end = HEAD, HEAD + len(rest)
            os.ftruncate(self._fd, self._end)
            return
        self._say_start()

    def replace(self, entries: list[bytes]) -> None:
        self.drop(len(self._sizes))
        if entries:
            self.keep(entries)

    def _say_start(self) -> None:
        os.pwrite(self._fd, _START.pack(self._start), 0)

    def close(self) -> None:
        os.close(self._fd)
