"""Sizes of directory trees, walked by a worker: all that are asked for at once in one task."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TypeVar

from engine.drivers.linux.storage.errors import as_port_error
from engine.drivers.linux.storage.workers import Workers

Name = TypeVar("Name")


async def tree_sizes(workers: Workers, trees: Mapping[Name, str]) -> dict[Name, int]:
    """Bytes of files by name; a tree that cannot be read is left out, one that is not there has none. One walk at a
    time, whoever asks. Raises PortError."""
    return await _measured(workers, trees)


async def changed_sizes(workers: Workers, trees: Mapping[Name, Mapping[str, object]]) -> dict[Name, int]:
    """The same of the files that have changed, in trees described by the fields of tree_comparison.py."""
    return await _measured(workers, trees)


async def _measured(workers: Workers, trees: Mapping[Name, object]) -> dict[Name, int]:
    if not trees:
        return {}
    with as_port_error("measure"):
        paths = _as_data(list(trees.values()))
    try:
        async with workers.walking:
            sizes = await workers.run_next("measure", {}, data=paths)
    finally:
        os.close(paths)
    return {name: size for name, size in zip(trees, sizes, strict=True) if size >= 0}


def _as_data(trees: list[object]) -> int:
    """The fd of a file in memory: there may be more of them than a task's fields hold."""
    fd = os.memfd_create("trees", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(json.dumps(trees).encode())
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
