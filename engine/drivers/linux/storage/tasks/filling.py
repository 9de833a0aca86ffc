"""Worker task: fill an empty volume with what an image has at its mount point (copy-up).

The image is read through an overlay of its layers in the worker's own mount namespace, so merged is what the kernel
says is merged, and links resolve inside the image. Copied are content, owner, modes, times, xattrs and hard links.
"""

from __future__ import annotations

import os
from typing import Any

from engine.drivers.linux.storage import kernel
from engine.drivers.linux.storage.copying import Copy, copy_directory


def fill(fields: dict[str, Any]) -> dict[str, bool]:
    """fields: lowers (topmost first), path, target (the volume's directory), place (an empty directory to mount on),
    id_map (of the containers whose volume it will be, or None: a volume's owners are the host's, an image's are not).
    Returns filled: False where the image has no such directory."""
    lowers = fields["lowers"]
    if len(lowers) > 1:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount("", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount_overlay(fields["place"], tuple(lowers), "", "", volatile=False)
    # Opened only now: an fd from before belongs to a mount of the old namespace, and hard links do not cross mounts.
    target = os.open(fields["target"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    root = os.open(fields["place"] if len(lowers) > 1 else lowers[0], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        path = os.fsencode(fields["path"].strip("/")) or b"."
        source = kernel.openat2(root, path, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return {"filled": False}
    copy_directory(source, target, Copy(fields["id_map"]))
    return {"filled": True}
