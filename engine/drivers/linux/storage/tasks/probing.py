"""Worker task: does the kernel mount an overlay here?"""

from __future__ import annotations

import os
from typing import Any

from engine.drivers.linux.storage import kernel


def probe_overlay(fields: dict[str, Any]) -> str:
    """fields: directory (exists, empty). Returns "", or what speaks against it. Tried as containers need it: mounted,
    and written to; the mount is this process's own."""
    lower, upper, work, merged = (f"{fields['directory']}/{name}" for name in ("lower", "upper", "work", "merged"))
    try:
        for path in (lower, upper, work, merged):
            os.mkdir(path)
        os.close(os.open(f"{lower}/hidden", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount("", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount_overlay(merged, (lower,), upper, work, volatile=False)
        os.unlink(f"{merged}/hidden")
        os.setxattr(upper, "trusted.overlay.opaque", b"y")
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return ""
