"""Reading logs: history over all rotated files, then following the copier's appends.

Owns: choosing by time and stream, following across rotation and truncation, the table of formats that can be read.
Refuses to know: how files are found (files.py), what an entry looks like (json_file.py, local.py), how lines are shown
(api/shapes/log_lines.py), who writes.

A batch is read, decoded, chosen and rendered in one hop to a worker thread: a loop that serves others never sees a
line. Batches are small enough that the interpreter's lock is given back within milliseconds.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TypeVar

import trio

from engine.aggregates.values.log_files import LogFile
from engine.aggregates.values.rfc3339 import fixed_time, fixed_time_of
from engine.clock import Clock
from engine.drivers.linux.inotify import Watch, Watches
from engine.drivers.linux.logs.files import Format, LogSource, next_source, open_sources
from engine.drivers.linux.logs.json_file import JsonFileFormat
from engine.drivers.linux.logs.local import LocalFormat
from engine.drivers.ports.logs import ALL_LINES, LogEntry, LogQuery
from engine.errors import PortError

T = TypeVar("T")

BATCH_BYTES = 1 << 18
NS = 1_000_000_000

FORMATS: Mapping[str, Callable[[], Format]] = {"json-file": JsonFileFormat, "local": LocalFormat}
"""By LogFile.format: a log driver that can be read has a line here."""


class Chooser:
    """Which entries a query wants. `done` once an entry lies behind `until`: later ones lie there, too."""

    def __init__(self, query: LogQuery) -> None:
        self._streams = {name for name, wanted in (("stdout", query.stdout), ("stderr", query.stderr)) if wanted}
        self._since = fixed_time_of(query.since_ns) if query.since_ns else ""
        self._until = fixed_time_of(query.until_ns) if query.until_ns else "~"
        self._timed = bool(query.since_ns or query.until_ns)
        self._last = ("", "")
        self.done = False

    def choose(self, entries: list[LogEntry]) -> list[LogEntry]:
        if self._timed:
            entries = [entry for entry in entries if self._since <= self._fixed(entry.time) <= self._until]
        if len(self._streams) < 2:
            entries = [entry for entry in entries if entry.stream in self._streams]
        return entries

    def _fixed(self, text: str) -> str:
        """Thousands of lines share one time: they were read from the pipe at once."""
        if self._last[0] != text:
            self._last = (text, fixed_time(text))
            if self._last[1] > self._until:
                self.done = True
        return self._last[1]


class History:
    """The blocking half: the sources of one read."""

    def __init__(self, log: LogFile, query: LogQuery) -> None:
        self._path = log.path
        self._query = query
        self._format = FORMATS[log.format]()
        self._sources: list[LogSource] = []
        self.chooser = Chooser(query)

    def open(self) -> None:
        self._sources = open_sources(self._path, self._format, since_ns=self._query.since_ns)
        if self._query.tail != ALL_LINES:
            self._skip(self._query.tail)

    def _skip(self, wanted: int) -> None:
        """Drop the files before the last `wanted` lines, and stand in the one where they begin."""
        for index in range(len(self._sources) - 1, -1, -1):
            wanted -= self._sources[index].skip_all_but(wanted)
            if wanted == 0:
                for source in self._sources[:index]:
                    source.close()
                del self._sources[:index]
                return

    def batch(self, render: Callable[[list[LogEntry]], T]) -> tuple[bool, T | None]:
        """(more to be read now, the next batch rendered or None when nothing of it was wanted)."""
        while self._sources:
            data = self._sources[0].read(BATCH_BYTES)
            if data:
                entries = self.chooser.choose(self._format.entries(data))
                return True, render(entries) if entries else None
            if len(self._sources) == 1:
                return False, None
            self._sources.pop(0).close()
            self._format.begin()
        return False, None

    def advance(self) -> bool:
        """At the end of what there is: has a newer file been begun? Then it is read next, behind the last lines of this
        one, which were complete before the newer one was made."""
        if not self._sources:
            self._sources = open_sources(self._path, self._format, since_ns=0)
            return bool(self._sources)
        newer = next_source(self._path, self._format, self._sources[-1])
        if newer is None:
            return False
        self._sources.append(newer)
        return True

    def close(self) -> None:
        for source in self._sources:
            source.close()
        self._sources = []


class FileLogs:
    """The `Logs` port over files. limiter: of threads that read files."""

    def __init__(self, watches: Watches, *, clock: Clock, limiter: trio.CapacityLimiter) -> None:
        self._watches = watches
        self._clock = clock
        self._limiter = limiter

    async def read(
        self,
        log: LogFile,
        query: LogQuery,
        *,
        render: Callable[[list[LogEntry]], T],
        ended: Callable[[], Awaitable[object]] | None = None,
    ) -> AsyncIterator[T]:
        """See engine/drivers/ports/logs.py."""
        history = History(log, query)
        directory = os.path.dirname(log.path)
        try:
            # Where there is no directory, nothing was ever started that could write.
            if not query.follow or not os.path.isdir(directory):  # noqa: ASYNC240 - one stat
                async for batch in self._past(history, render):
                    yield batch
                return
            # The watch comes before the first read: what is written in between wakes us.
            with self._watches.watch(directory) as watch:
                async for batch in self._follow(history, query, render, watch, ended):
                    yield batch
        except OSError as error:
            raise PortError("read log", f"error reading logs: {error.strerror}", errno=error.errno or 0) from error
        finally:
            history.close()

    async def _past(self, history: History, render: Callable[[list[LogEntry]], T]) -> AsyncIterator[T]:
        await self._in_thread(history.open)
        yield render([])
        async for batch in self._available(history, render):
            yield batch

    async def _follow(
        self,
        history: History,
        query: LogQuery,
        render: Callable[[list[LogEntry]], T],
        watch: Watch,
        ended: Callable[[], Awaitable[object]] | None,
    ) -> AsyncIterator[T]:
        await self._in_thread(history.open)
        yield render([])
        over = False
        while True:
            async for batch in self._available(history, render):
                yield batch
            if history.chooser.done:
                return
            if await self._in_thread(history.advance):
                continue
            if over:
                return
            over = await self._wait(watch, query, ended)

    async def _available(self, history: History, render: Callable[[list[LogEntry]], T]) -> AsyncIterator[T]:
        more = True
        while more and not history.chooser.done:
            more, batch = await trio.to_thread.run_sync(history.batch, render, limiter=self._limiter)
            if batch is not None:
                yield batch

    async def _wait(self, watch: Watch, query: LogQuery, ended: Callable[[], Awaitable[object]] | None) -> bool:
        """Until something was written, or the writing has ended: then True, and one last look is due."""
        over = False

        async def first(wait: Callable[[], Awaitable[object]], *, ends: bool) -> None:
            nonlocal over
            await wait()
            over = over or ends
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            if query.until_ns:
                nursery.cancel_scope.deadline = trio.current_time() + (query.until_ns - self._clock.now_ns()) / NS
            nursery.start_soon(lambda: first(watch.changed, ends=False))
            if ended is not None:
                nursery.start_soon(lambda: first(ended, ends=True))
        return over or bool(query.until_ns and self._clock.now_ns() >= query.until_ns)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, limiter=self._limiter)
