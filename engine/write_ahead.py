"""Room in a write-ahead log before it is needed.

A commit that makes its file longer waits for the file system's journal as well: on ext4 that is most of what an fsync
costs (0.7 ms against 0.2 where blocks are written again). SQLite writes a log again from its beginning once it has been
copied; so only its first round is slow, and this spares it that one, too.
Refuses to know: what is logged.
"""

from __future__ import annotations

import os

_PIECE = bytes(1 << 20)


def make_room(database: str | os.PathLike[str], size: int) -> None:
    """Lengthen the write-ahead log beside a database to `size` bytes with zeros, which SQLite takes for the end of it.

    Only for whoever is the file's one writer, and before it writes: frames go where the zeros go. Without room on the
    disk it leaves the file as it was. Blocking."""
    try:
        fd = os.open(f"{os.fspath(database)}-wal", os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        length = os.fstat(fd).st_size
        try:
            for offset in range(length, size, len(_PIECE)):
                os.pwrite(fd, _PIECE[: size - offset], offset)
            os.fdatasync(fd)
        except OSError:
            os.ftruncate(fd, length)
    finally:
        os.close(fd)
