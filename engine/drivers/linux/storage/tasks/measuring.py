"""Worker task: how much lies in directory trees. A process of its own, because walking a tree of tens of thousands of
files would hold the engine's interpreter for as long."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from typing import Any

from engine.drivers.linux.storage.tree_comparison import changed_size


def measure(_fields: dict[str, Any]) -> list[int]:
    """stdin: a JSON list of trees, each a path, or the fields of tree_comparison.py where only what has changed counts.
    Returns the size of each; -1 for one that cannot be read."""
    with open(0, "rb", closefd=False) as file:
        trees: list[str | dict[str, Any]] = json.loads(file.read())
    return [_measured(tree) for tree in trees]


def _measured(tree: str | dict[str, Any]) -> int:
    try:
        return tree_size(tree) if isinstance(tree, str) else changed_size(tree)
    except OSError:
        return -1


def tree_size(path: str) -> int:
    """Bytes of files in a tree, hard links once; what vanishes meanwhile does not count, and a tree that is not there
    has none."""
    total = 0
    seen: set[tuple[int, int]] = set()
    waiting = [path]
    while waiting:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(waiting.pop()) as children:
            for child in children:
                with contextlib.suppress(FileNotFoundError):
                    found = child.stat(follow_symlinks=False)
                    if stat.S_ISDIR(found.st_mode):
                        waiting.append(child.path)
                    elif found.st_nlink == 1 or (found.st_dev, found.st_ino) not in seen:
                        if found.st_nlink > 1:
                            seen.add((found.st_dev, found.st_ino))
                        total += found.st_size
    return total
