"""OSError to PortError, once."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from engine.errors import Fault, PortError

_FAULTS = {
    errno.ENOSPC: Fault.DISK_FULL,
    errno.EDQUOT: Fault.DISK_FULL,
    errno.ENOENT: Fault.NOT_FOUND,
    errno.EACCES: Fault.FORBIDDEN,
    errno.EROFS: Fault.FORBIDDEN,
}


@contextmanager
def as_port_error(operation: str) -> Iterator[None]:
    """Raise PortError for an OSError in the block."""
    try:
        yield
    except OSError as error:
        number = error.errno or 0
        place = f" {error.filename}" if error.filename else ""
        words = f"{operation}{place}: {(error.strerror or str(error)).lower()}"
        retriable = number in (errno.ENOSPC, errno.EDQUOT, errno.EINTR, errno.EAGAIN, errno.EBUSY)
        raise PortError(
            operation, words, fault=_FAULTS.get(number, Fault.SYSTEM), errno=number, retriable=retriable
        ) from error
