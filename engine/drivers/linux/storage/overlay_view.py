"""An overlay read without mounting it: which lower things lie under a directory of the upper layer.

Owns the merge rules (whiteouts, opaque directories). Source: Linux Documentation/filesystems/overlayfs.rst. Stdlib
only.
"""

from __future__ import annotations

import os
import stat

from engine.drivers.linux.storage.unpack import OPAQUE_XATTR

REDIRECT_XATTR = b"trusted.overlay.redirect"


def is_whiteout(found: os.stat_result) -> bool:
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def is_opaque(directory: bytes) -> bool:
    try:
        return os.getxattr(directory, OPAQUE_XATTR, follow_symlinks=False) == b"y"
    except OSError:
        return False


def is_redirected(directory: bytes) -> bool:
    """Whether the directory was renamed with redirect_dir on: its lower part lies elsewhere."""
    try:
        return bool(os.getxattr(directory, REDIRECT_XATTR, follow_symlinks=False))
    except OSError:
        return False


def lower_entry(directories: list[bytes], name: bytes) -> tuple[os.stat_result | None, list[bytes]]:
    """What lies under `name` in merged directories (topmost first): its stat or None, and where it is a directory the
    directories merged in it."""
    top: os.stat_result | None = None
    merged: list[bytes] = []
    for directory in directories:
        path = directory + b"/" + name
        try:
            found = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        if is_whiteout(found) or (top is not None and not stat.S_ISDIR(found.st_mode)):
            break
        top = top or found
        if not stat.S_ISDIR(found.st_mode):
            break
        merged.append(path)
        if is_opaque(path):
            break
    return top, merged


def names_below(directories: list[bytes]) -> list[bytes]:
    """The names visible in merged directories, sorted."""
    seen: dict[bytes, bool] = {}
    for directory in directories:
        for name in os.listdir(directory):
            if name not in seen:
                seen[name] = not is_whiteout(os.lstat(directory + b"/" + name))
    return sorted(name for name, visible in seen.items() if visible)
