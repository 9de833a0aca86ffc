"""The worker process: one storage task, away from the engine's event loop.

Owns the protocol: the task's name in argv[2], its fields as JSON in argv[3]; data on stdin and stdout; on stderr JSON
lines, of which the last is {"result": ...} or {"error": {...}} and earlier ones {"progress": n} or {"ready": ...}.
Anything else on stderr is a crash's traceback. Refuses to know: the engine. Started with `python -I -S`, so imports
stay few; a task imports its own module.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any

Task = Callable[[dict[str, Any]], Any]

_TASKS = {
    "unpack": "unpacking.unpack_layer",
    "changes": "diffing.changes",
    "diff_archive": "diffing.diff_archive",
    "stat": "inside.stat",
    "archive": "inside.archive",
    "extract": "inside.extract",
    "export": "inside.export",
    "fill": "filling.fill",
    "empty_trash": "sweeping.empty_trash",
    "receive_archive": "receiving.receive_archive",
    "receive_layer": "receiving.receive_layer",
    "compress_layer": "receiving.compress_layer",
}


_DEPTH_MAX = 10_000
"""A path of PATH_MAX bytes has two thousand directories; walking is recursive."""


class TaskError(Exception):
    """A refusal with a kind of engine.errors.Fault (by value) and the words for the client."""

    def __init__(self, fault: str, message: str, number: int = 0) -> None:
        super().__init__(message)
        self.fault = fault
        self.message = message
        self.number = number


def report(**fields: Any) -> None:
    os.write(2, json.dumps(fields).encode() + b"\n")


def main() -> None:
    name, fields = sys.argv[2], json.loads(sys.argv[3])
    os.umask(0)
    sys.setrecursionlimit(_DEPTH_MAX)
    try:
        report(result=_task(name)(fields))
    except TaskError as error:
        report(error={"fault": error.fault, "message": error.message, "errno": error.number})
        sys.exit(1)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        report(error={"fault": "disk full" if full else "system", "message": _words(error), "errno": error.errno or 0})
        sys.exit(1)


def _task(name: str) -> Task:
    """The function of a task. Its module is imported only now: a worker pays for one."""
    module, _, function = _TASKS[name].rpartition(".")
    task: Task = getattr(importlib.import_module(f"engine.drivers.linux.storage.tasks.{module}"), function)
    return task


def _words(error: OSError) -> str:
    place = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    words = (error.strerror or str(error)).lower()
    return f"{place}: {words}" if place else words


def shifted(ranges: list[tuple[int, int, int]], inside: int) -> int:
    """The host's id for one of a container. Raises TaskError for one that has none."""
    for first, outside, size in ranges:
        if first <= inside < first + size:
            return outside + inside - first
    raise TaskError("invalid", f"Container ID {inside} cannot be mapped to a host ID")
