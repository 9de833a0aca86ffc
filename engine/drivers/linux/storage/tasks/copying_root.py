"""Worker task: a container's root as a copy of its image (vfs)."""

from __future__ import annotations

import os
from typing import Any

from engine.drivers.linux.storage import kernel
from engine.drivers.linux.storage.copying import copy_tree


def copy_root(fields: dict[str, Any]) -> None:
    """fields: lowers (whole trees, the first has its way), target (exists, empty). Synced: unlike an overlay's upper
    layer it holds the image's files, too, and a power cut must not empty them."""
    first, *others = fields["lowers"]
    copy_tree(first, fields["target"])
    for other in others:
        copy_tree(other, fields["target"], missing=True)
    fd = os.open(fields["target"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        kernel.syncfs(fd)
    finally:
        os.close(fd)
