"""SQLite's refusals as port errors: one place for every database file of the engine."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator

from engine.errors import Fault, PortError

_FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_SHMOPEN})
"""No room for a page; no room for the index of the write-ahead log, whose file is made when a database is opened."""


@contextlib.contextmanager
def translated(operation: str) -> Iterator[None]:
    """SQLite's errors as PortError DISK_FULL (retriable) or SYSTEM."""
    try:
        yield
    except sqlite3.Error as error:
        full = getattr(error, "sqlite_errorcode", 0) in _FULL
        words = "no space left on device" if full else str(error)
        fault = Fault.DISK_FULL if full else Fault.SYSTEM
        raise PortError(operation, f"{operation}: {words}", fault=fault, retriable=full) from error
