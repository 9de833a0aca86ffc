"""The worker process: one storage task, away from the engine's event loop.

Owns the protocol: the task's name in argv[2], its fields as JSON in argv[3]; data on stdin and stdout; on stderr JSON
lines, of which the last is {"result": ...} or {"error": {...}} and earlier ones {"progress": n}, {"ready": ...} or
{"found": {...}}.
Anything else on stderr is a crash's traceback. Refuses to know: the engine. Started with `python -I -S`, so imports
stay few; a task imports its own module.

A worker whose task is `serve` stays for more: each packet on the socket it was given is one task as JSON, with its data
as a descriptor that becomes stdin. It ends with the socket, or with the first task that fails: that may have left
anything behind.
"""

from __future__ import annotations

import _socket  # not socket: that imports selectors and enum, and half of a small task's time is imports
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
    "copy_root": "copying_root.copy_root",
    "probe_overlay": "probing.probe_overlay",
    "empty_trash": "sweeping.empty_trash",
    "measure": "measuring.measure",
    "receive_archive": "receiving.receive_archive",
    "receive_layer": "receiving.receive_layer",
    "compress_layer": "receiving.compress_layer",
}

TASK_BYTES_MAX = 1 << 16
"""Of one task given to a worker that serves."""
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
    if not (_serve(fields["control"]) if name == "serve" else _perform(name, fields)):
        sys.exit(1)


def _serve(control: int) -> bool:
    """Tasks one after the other, until there are no more or one has failed."""
    packets = _socket.socket(fileno=control)
    while True:
        packet, ancillary, _, _ = packets.recvmsg(TASK_BYTES_MAX, _socket.CMSG_SPACE(4))
        if not packet:
            return True
        data = int.from_bytes(ancillary[0][2], sys.byteorder)
        os.dup2(data, 0)
        os.close(data)
        if not _perform(*json.loads(packet)):
            return False


def _perform(name: str, fields: dict[str, Any]) -> bool:
    """One task, with its result or error reported; whether it went well."""
    try:
        report(result=_task(name)(fields))
    except TaskError as error:
        report(error={"fault": error.fault, "message": error.message, "errno": error.number})
        return False
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        report(error={"fault": "disk full" if full else "system", "message": _words(error), "errno": error.errno or 0})
        return False
    return True


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
