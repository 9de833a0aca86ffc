"""The page of memory by which a test and the programs under test speak of points.

A program that comes by the wanted point stops there and waits: the test kills whom it wants from outside (what is being
set up in namespaces of its own can not), and lets what is left go on. Standard library only: the supervisor runs
without any other.
"""

from __future__ import annotations

import mmap
import os
import struct
import time

SIZE = 1 << 20
NAME_BYTES = 120
VARIABLE = "ISHMAEL_CRASH_POINTS"

_EPOCH, _HIT, _GO, _COUNT = 0, 8, 16, 24  # 64-bit numbers
_WANTED = 64
_NAMES = 4096
_LAST = (SIZE - _NAMES) // NAME_BYTES - 1


class Control:
    """The test's end makes the file; a program's end opens what the environment names."""

    def __init__(self, path: str) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, SIZE)
            self._page = mmap.mmap(fd, SIZE)
        finally:
            os.close(fd)
        self._epoch = 0
        self._met: dict[str, int] = {}

    def _get(self, at: int) -> int:
        return int(struct.unpack_from("Q", self._page, at)[0])

    def _set(self, at: int, value: int) -> None:
        struct.pack_into("Q", self._page, at, value)

    # -- the test's end ----------------------------------------------------------------------------------------------

    def arm(self, wanted: str = "") -> None:
        """From now on points are written down, and the wanted one stops who comes by."""
        for at in (_HIT, _GO, _COUNT):
            self._set(at, 0)
        self._page[_WANTED : _WANTED + NAME_BYTES] = wanted.encode().ljust(NAME_BYTES, b"\0")
        self._set(_EPOCH, time.monotonic_ns())

    def disarm(self) -> None:
        self._set(_EPOCH, 0)
        self._set(_GO, 1)

    @property
    def hit(self) -> bool:
        """Whether somebody stands at the wanted point."""
        return bool(self._get(_HIT))

    def release(self) -> None:
        self._set(_GO, 1)

    def names(self) -> list[str]:
        """Points that were passed since `arm`, each once. Two programs may have taken the same line: one is lost."""
        lines = range(min(self._get(_COUNT), _LAST))
        found = [bytes(self._page[_NAMES + n * NAME_BYTES : _NAMES + (n + 1) * NAME_BYTES]) for n in lines]
        return sorted({name.rstrip(b"\0").decode() for name in found} - {""})

    # -- a program's end ---------------------------------------------------------------------------------------------

    def point(self, what: str, times: int = 1) -> None:
        """Come by a point. times: how many of the same name are told apart; later ones are none."""
        epoch = self._get(_EPOCH)
        if not epoch:
            return
        if epoch != self._epoch:
            self._epoch, self._met = epoch, {}
        met = self._met[what] = self._met.get(what, 0) + 1
        if met > times:
            return
        name = (what if met == 1 else f"{what} ({met})").encode()[:NAME_BYTES]
        count = self._get(_COUNT)
        self._set(_COUNT, count + 1)
        line = _NAMES + min(count, _LAST) * NAME_BYTES
        self._page[line : line + NAME_BYTES] = name.ljust(NAME_BYTES, b"\0")
        if bytes(self._page[_WANTED : _WANTED + NAME_BYTES]).rstrip(b"\0") == name and not self._get(_HIT):
            self._set(_HIT, 1)
            while not self._get(_GO):
                time.sleep(0.001)
