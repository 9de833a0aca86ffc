"""SIGUSR1: where every trio task and every thread of the engine is, as a file for whoever looks for what hangs.

Owns: walking the tree of tasks. It shows places in the code only, never values: those may be secrets.
Rough edge: a loop that a blocking call holds up writes nothing until that call returns.
Source: moby daemon/debugtrap_unix.go, which dumps goroutines into the exec root likewise.
"""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Iterator

import trio

MODE = 0o600


def dump(folder: str, now_ns: int) -> str:
    """Write the stacks into a new file in the folder; its path. Raises OSError."""
    path = f"{folder}/task-stacks-{now_ns}.log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
    with open(fd, "w", encoding="utf-8") as file:
        root = trio.lowlevel.current_root_task()
        if root is not None:
            file.writelines(_lines(root, 0))
        file.write("\n")
        file.flush()
        faulthandler.dump_traceback(file)
    return path


def _lines(task: trio.lowlevel.Task, depth: int) -> Iterator[str]:
    """A task and those below it, each deeper by one."""
    margin = "    " * depth
    yield f"{margin}task {task.name}\n"
    for frame, line in task.iter_await_frames():
        code = frame.f_code
        yield f'{margin}  File "{code.co_filename}", line {line}, in {code.co_qualname}\n'
    for nursery in task.child_nurseries:
        for child in sorted(nursery.child_tasks, key=lambda each: each.name):
            yield from _lines(child, depth + 1)
