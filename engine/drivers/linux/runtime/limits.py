"""New limits for a living cgroup: all of them, or none (CTR-28).

Owns: the order that a kernel accepts, the way back when it refuses one, and room for a memory limit below the usage on
version 2, where the kernel would end the container rather than refuse. Refuses to know: what limits mean.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence

from engine.drivers.linux.runtime.cgroup_plan import Write

HIGHEST = "max"


def apply(writes: Sequence[Write]) -> list[Write]:
    """What takes it all back again, when applied. Raises OSError with `filename` and words; every limit is what it was
    then.

    A write that is refused is tried once more after the others: memory and swap, period and quota are only accepted in
    one order, and which one depends on what is set now."""
    done: list[Write] = []
    try:
        refused = [write for write in writes if not _tried(write, done)]
        for path, data in refused:
            before = _read(path)
            _write(path, data)
            done.append((path, before))
    except OSError:
        for path, data in reversed(done):
            with contextlib.suppress(OSError):
                _write(path, data)
        for path, data in done:  # and again forwards: the way back has an order, too
            with contextlib.suppress(OSError):
                _write(path, data)
        raise
    return done[::-1]


def _tried(write: Write, done: list[Write]) -> bool:
    path, data = write
    before = _read(path)
    try:
        _write(path, data)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBUSY):
            raise
        return False
    done.append((path, before))
    return True


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read().strip() or b"\n"  # an empty list of CPUs is written as an empty line


def _write(path: str, data: bytes) -> None:
    if path.endswith("/memory.max"):
        make_room(path.removesuffix("/memory.max"), data.decode())
    try:
        with open(path, "wb", buffering=0) as file:
            file.write(data)
    except OSError as error:
        words = (error.strerror or "").lower()
        if error.errno == errno.EBUSY and path.endswith("/memory.limit_in_bytes"):
            raise _too_small(path.rpartition("/")[0], data.decode(), "usage_in_bytes", "max_usage_in_bytes") from error
        raise OSError(error.errno, f"failed to write {data.decode()!r}: {words}", path) from error


def make_room(group: str, limit: str) -> None:
    """Version 2: have the kernel take back what is over a lower limit, and refuse the limit when it cannot. Raises
    OSError(EBUSY)."""
    usage = int(_read(f"{group}/memory.current"))
    if limit == HIGHEST or usage <= int(limit):
        return
    with contextlib.suppress(OSError), open(f"{group}/memory.reclaim", "w") as file:
        file.write(str(usage - int(limit)))  # EAGAIN: not all of it; how much, the usage tells
    if int(_read(f"{group}/memory.current")) > int(limit):
        raise _too_small(group, limit, "current", "peak")


def _too_small(group: str, limit: str, usage: str, peak: str) -> OSError:
    """In runc's words."""
    numbers = f"current usage: {_read(f'{group}/memory.{usage}').decode()}"
    if os.path.exists(f"{group}/memory.{peak}"):
        numbers += f", peak usage: {_read(f'{group}/memory.{peak}').decode()}"
    return OSError(errno.EBUSY, f"unable to set memory limit to {limit} ({numbers})", "")
