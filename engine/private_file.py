"""Files that only their owner may read: the log and the keys."""

from __future__ import annotations

import os
from pathlib import Path


def create_private(path: Path) -> None:
    """Make the file with mode 0600, before SQLite would make it by the umask. Idempotent; makes directories too."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    # Without this the name itself could be lost with the power, and every acknowledged event with it.
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
