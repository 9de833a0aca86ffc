"""Port: reading back what containers wrote. Writing is the copier's, in another process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Protocol, TypeVar

import msgspec

from engine.aggregates.values.log_files import LogFile

T = TypeVar("T")

ALL_LINES = -1


class LogEntry(msgspec.Struct, frozen=True, gc=False):
    """One line, with its newline; a partial one (longer than 16 KiB) has none and goes on in the next entry of its
    stream. time: RFC 3339 as stored."""

    log: str = ""
    stream: str = ""
    time: str = ""
    attrs: Mapping[str, str] | None = None


class LogQuery(msgspec.Struct, frozen=True, kw_only=True):
    """tail: the last so many lines, counted before since, until and the streams choose; ALL_LINES for all. since_ns and
    until_ns: UTC, inclusive, 0 for no bound. follow: go on with what is written until `ended` returns."""

    stdout: bool = True
    stderr: bool = True
    tail: int = ALL_LINES
    since_ns: int = 0
    until_ns: int = 0
    follow: bool = False


class Logs(Protocol):
    """Logs that lie in files of this host: of drivers that keep one, and caches of the others."""

    def read(
        self,
        log: LogFile,
        query: LogQuery,
        *,
        render: Callable[[list[LogEntry]], T],
        ended: Callable[[], Awaitable[object]] | None = None,
    ) -> AsyncIterator[T]:
        """Entries in the order written, in batches, each through `render` (called in a worker thread, batch after
        batch). The first is empty and comes when the files are open: a removal takes nothing away any more. A missing
        file is an empty log; lines that are no entries are skipped.

        ended: returns once nobody writes any more and all is written; asked for again after each wait, so it must be
        cancel-safe. Only used when following; without it following never ends. Raises PortError for unreadable files.
        Leave the loop through `contextlib.aclosing`, so that files are closed at once."""
        ...
