"""Worker task: delete what was thrown away. A process of its own, because a layer has tens of thousands of files and
the engine's event loop should not share an interpreter with that."""

from __future__ import annotations

import os
from typing import Any

from engine.drivers.linux.storage.spreading import Deletions
from engine.drivers.linux.storage.unpack import remove_tree

_NICENESS = 10
"""Nobody waits for it."""


def empty_trash(fields: dict[str, Any]) -> dict[str, Any]:
    """fields: trash. Returns gone: how many things went; deleted: inodes by region of the disk
    (spreading.py). What resists (a mount, an immutable file) stays."""
    os.nice(_NICENESS)
    fd = os.open(fields["trash"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    gone = 0
    deletions = Deletions()
    with os.scandir(fd) as found:
        children = [(os.fsencode(child.name), child.is_dir(follow_symlinks=False)) for child in found]
    for name, is_directory in children:
        try:
            if is_directory:
                remove_tree(fd, name, deletions.note)
            else:
                os.unlink(name, dir_fd=fd)
            gone += 1
        except OSError:
            continue  # the next round tries again.
    os.close(fd)
    return {"gone": gone, "deleted": deletions.counts}
