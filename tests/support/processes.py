"""One file of every process of the machine, quickly: audits look at a thousand processes several times a second."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

SIZE_MAX = 1 << 17


def everybody(name: str) -> Iterator[tuple[int, bytes]]:
    """Pid and content of `/proc/<pid>/<name>`; processes that go meanwhile are left out."""
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with contextlib.suppress(OSError):
                yield int(entry), content(int(entry), name)


def content(pid: int, name: str) -> bytes:
    """Raises OSError for a process that is gone."""
    fd = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, SIZE_MAX)
    finally:
        os.close(fd)
