"""The feed behind `/events`: every message of the log's whole history, in order, and those to come.

Owns: the newest messages in memory, older ones in views-events.db, cursors over both. Refuses to know: what messages
say (feed_messages.py), filters, HTTP.

A reader is a cursor, not a queue: one that lags reads from the file, so nobody is ever skipped and nothing is kept per
reader (moby drops a subscriber's messages after 100 ms). `keep` moves messages from memory to the file; without it, or
without a store, everything stays in memory and all else is the same.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import AsyncIterator
from typing import Protocol

import msgspec
import trio

from engine.aggregates.decider import Recorded
from engine.projections.feed_messages import (
    MESSAGES_PER_EVENT_MAX,
    TELLERS,
    TOLD_KINDS,
    FeedMessage,
    Narrator,
    Subjects,
)
from engine.projections.feed_store import FeedStore

logger = logging.getLogger("ishmael.events")
RING_MESSAGES = 1024
PAGE_MESSAGES = 512
SPILL_MESSAGES = 16 * RING_MESSAGES
"""Gathered while history is folded anew: about 10 MB."""
FLUSH_AFTER_S = 0.5
FLUSH_AGAIN_S = 5.0


class Feed(Protocol):
    """What `/events` asks for."""

    def past(self, *, since_ns: int) -> AsyncIterator[FeedMessage]:
        """Messages from a time on, up to the newest at the time of the call."""
        ...

    async def next_messages(self, after: int) -> list[FeedMessage]:
        """Messages behind a cursor, in order, at least one: waits for it. Cancel-safe."""
        ...

    @property
    def cursor(self) -> int:
        """The newest message's place."""
        ...

    @property
    def listeners(self) -> int:
        """How many wait for the next message."""
        ...


class _Dump(msgspec.Struct, frozen=True, kw_only=True):
    """stored: the cursor up to which messages are in the file; `unstored` are those behind it."""

    subjects: Subjects
    cursor: int
    stored: int
    unstored: tuple[FeedMessage, ...]


class EventsFeed:
    """The projection. store: opened by whoever made it; None keeps everything in memory."""

    name = "events_feed"
    kinds = TOLD_KINDS
    chosen = TELLERS.keys()

    def __init__(self, store: FeedStore | None = None) -> None:
        self._store = store
        self._narrator = Narrator()
        self._recent: list[FeedMessage] = []
        self._stored = 0
        self.cursor = 0
        self.listeners = 0
        self._moved = trio.lowlevel.ParkingLot()
        self._limiter = trio.CapacityLimiter(1)

    # -- projection ----------------------------------------------------------------------------------------------------

    def apply(self, recorded: Recorded) -> None:
        messages = self._narrator.tell(recorded)
        if not messages:
            self.cursor = recorded.position * MESSAGES_PER_EVENT_MAX
            return
        self.cursor = messages[-1].cursor
        self._recent += messages
        if self._moved:
            self._moved.unpark_all()

    def dump(self) -> object:
        subjects = self._narrator.subjects
        copied = Subjects(**{name: dict(getattr(subjects, name)) for name in Subjects.__struct_fields__})
        unstored = tuple(message for message in self._recent if message.cursor > self._stored)
        return _Dump(subjects=copied, cursor=self.cursor, stored=self._stored, unstored=unstored)

    def restore(self, dumped: bytes) -> None:
        dump = msgspec.msgpack.decode(dumped, type=_Dump)
        if dump.stored and (self._store is None or self._store.head() < dump.stored):
            raise ValueError("the feed's file has lost messages: fold anew")
        self._narrator.subjects = dump.subjects
        self._recent = list(dump.unstored)
        self._stored, self.cursor = dump.stored, dump.cursor

    def reset(self) -> None:
        self._narrator = Narrator()
        self._recent = []
        self._stored = self.cursor = 0
        if self._store is not None:
            self._store.clear()

    # -- readers -------------------------------------------------------------------------------------------------------

    async def past(self, *, since_ns: int) -> AsyncIterator[FeedMessage]:
        """See Feed. Times follow the host's clock: a message is past by its own time, in the order of the log."""
        end = self.cursor
        cursor = await self._begin(since_ns)
        while cursor < end:
            page = await self._page(cursor)
            for message in page:
                if message.cursor <= end and message.time_ns >= since_ns:
                    yield message
            if not page:
                return
            cursor = page[-1].cursor

    async def next_messages(self, after: int) -> list[FeedMessage]:
        """See Feed."""
        while not (page := await self._page(after)):
            self.listeners += 1
            try:
                await self._moved.park()
            finally:
                self.listeners -= 1
        return page

    async def keep(self) -> None:
        """Move messages to the file, for ever; the last ones are moved when cancelled. Run it beside the log."""
        try:
            while self._store is not None:
                while not self._recent or self._recent[-1].cursor <= self._stored:
                    await self._moved.park()
                await trio.sleep(FLUSH_AFTER_S)  # a burst becomes one transaction
                if not await self._flush():
                    await trio.sleep(FLUSH_AGAIN_S)
        finally:
            with trio.CancelScope(shield=True):
                await self._flush()

    async def _flush(self) -> bool:
        """False when the file refuses (a full disk): the messages stay in memory, and the log has them anyway."""
        try:
            await self._move()
        except sqlite3.Error as error:
            logger.warning("messages of /events are not stored, they stay in memory: %s", error)
            return False
        return True

    async def _move(self) -> None:
        waiting = self._waiting()
        if self._store is None or not waiting:
            return
        await trio.to_thread.run_sync(self._store.append, waiting, limiter=self._limiter)
        self._forget_until(waiting[-1].cursor)

    def spill(self) -> None:
        """See Spilling. A file that refuses leaves the messages in memory, for `keep` to try again."""
        if self._store is not None and len(self._recent) >= SPILL_MESSAGES:
            waiting = self._waiting()
            with contextlib.suppress(sqlite3.Error):
                stored = self._store.append_packed(waiting)
                self._forget_until(waiting[stored - 1].cursor)

    def _waiting(self) -> list[FeedMessage]:
        return self._recent[_behind(self._recent, self._stored) :]

    def _forget_until(self, stored: int) -> None:
        self._stored = stored
        # Only what is in the file may leave memory; the newest stay for those who follow.
        surplus = len(self._recent) - RING_MESSAGES
        if surplus > 0:
            del self._recent[: min(surplus, _behind(self._recent, self._stored))]

    async def _begin(self, since_ns: int) -> int:
        """A cursor before the first message at or after a time."""
        first = self.cursor + 1
        if self._store is not None and self._stored:
            first = await trio.to_thread.run_sync(self._store.first_since, since_ns, limiter=self._limiter)
        return min([first, *(message.cursor for message in self._recent if message.time_ns >= since_ns)]) - 1

    async def _page(self, after: int) -> list[FeedMessage]:
        """Some messages behind a cursor: from the file when memory does not reach back so far."""
        page: list[FeedMessage] = []
        if self._store is not None and self._stored > after and not (self._recent and self._recent[0].cursor <= after):
            page = await trio.to_thread.run_sync(self._store.read, after, PAGE_MESSAGES, limiter=self._limiter)
        start = _behind(self._recent, after)
        return page or self._recent[start : start + PAGE_MESSAGES]


def _behind(messages: list[FeedMessage], cursor: int) -> int:
    """The index of the first message behind a cursor (binary search)."""
    low, high = 0, len(messages)
    while low < high:
        middle = (low + high) // 2
        if messages[middle].cursor > cursor:
            high = middle
        else:
            low = middle + 1
    return low
