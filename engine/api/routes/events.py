"""`/events`: the history and the future of the feed, filtered, one message per chunk; a burst leaves in one write.

An extension for those who must not miss anything: `after=CURSOR` (or the header `Last-Event-ID`) goes on behind a
message, and each message then tells its own `cursor`; `Accept: text/event-stream` makes them server-sent events."""

from __future__ import annotations

import math
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, cast

import msgspec
import trio

from engine.aggregates.decider import Reason, Rejected
from engine.api.app import EngineApp
from engine.api.context import ApiContext
from engine.api.filters import Filters
from engine.api.params import Query
from engine.api.request import Request
from engine.api.responses import JSON, Response
from engine.api.shapes import events as shapes
from engine.api.streams import (
    EVENT_STREAM,
    JSON_LINES,
    JSON_SEQUENCE,
    NDJSON,
    RECORD_SEPARATOR,
    current_request,
)
from engine.api.versions import ApiVersion
from engine.projections.events_feed import Feed
from engine.projections.feed_messages import FeedMessage

NEGOTIATED_SINCE = (1, 52)
WRITTEN_KEPT = 4096


class EventsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Times in UTC ns, None when not given; both inclusive. after: the cursor to go on behind, None when not given."""

    since_ns: int | None
    until_ns: int | None
    after: int | None
    filters: Filters
    api_version: ApiVersion

    @property
    def wants_past(self) -> bool:
        """As moby: nothing of the past unless one of the times is given."""
        return self.after is None and (self.since_ns is not None or self.until_ns is not None)

    def wants(self, message: FeedMessage) -> bool:
        """Whether the answer has it."""
        in_time = self.until_ns is None or message.time_ns <= self.until_ns
        return in_time and shapes.wanted(message, self.filters, self.api_version)


def register(app: EngineApp, context: ApiContext) -> None:
    written = Written()

    @app.route("/events", methods=["GET"])
    async def events() -> Response:
        feed: Feed = context.views.events
        request = current_request()
        now_ns = context.clock.now_ns()
        wanted = parse(request, now_ns)
        cursor = feed.cursor if wanted.after is None else wanted.after
        if cursor > feed.cursor:
            raise Rejected(Reason.INVALID, f"no message has the cursor {cursor} yet: the newest is {feed.cursor}")
        pages = told(feed, wanted, now_ns, cursor, written)
        if EVENT_STREAM in request.headers.get("Accept", ""):
            return Response(server_sent(pages), content_type=EVENT_STREAM)
        kind = content_type(request)
        return Response(documents(pages, RECORD_SEPARATOR if kind == JSON_SEQUENCE else b""), content_type=kind)


def parse(request: Request, now_ns: int) -> EventsQuery:
    query = Query.of(request)
    since_ns, until_ns = query.moment("since", now_ns=now_ns), query.moment("until", now_ns=now_ns)
    if until_ns is not None and until_ns < (since_ns or 0):
        raise Rejected(
            Reason.INVALID,
            f"`since` time ({query.text('since')}) cannot be after `until` time ({query.text('until')})",
        )
    after = cursor_of(query.text("after") or request.headers.get("Last-Event-ID", ""))
    if after is not None and since_ns is not None:
        raise Rejected(Reason.INVALID, "`since` and a cursor to go on behind exclude each other")
    return EventsQuery(
        since_ns=since_ns,
        until_ns=until_ns,
        after=after,
        filters=query.filters(),
        api_version=request.api_version,
    )


def cursor_of(text: str) -> int | None:
    """None when there is none. Raises Rejected for what is no cursor."""
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,19}", text, re.ASCII):
        raise Rejected(Reason.INVALID, f"invalid cursor {text!r}: a message's number is wanted")
    return int(text)


def content_type(request: Request) -> str:
    """JSON before 1.52; then what the client accepts of json lines, ndjson and json-seq."""
    if request.api_version < NEGOTIATED_SINCE:
        return JSON
    offered = (JSON_LINES, NDJSON, JSON_SEQUENCE)
    accepted = request.headers.get("Accept")
    if accepted in ("", "*/*"):
        return JSON_LINES
    from werkzeug.datastructures import MIMEAccept  # here: few say what they accept, and every start would load it
    from werkzeug.http import parse_accept_header

    return parse_accept_header(accepted, MIMEAccept).best_match(offered, JSON_LINES) or JSON_LINES


Page = list[tuple[int, bytes]]
"""Messages that are there together, in order: cursor and JSON of each."""


class Written:
    """Messages as JSON: those who follow together get the same bytes, and each message is written once for all."""

    def __init__(self) -> None:
        self._encode = msgspec.json.Encoder().encode
        self._kept: dict[tuple[int, bool, bool], bytes] = {}

    def __call__(self, message: FeedMessage, query: EventsQuery) -> bytes:
        key = (message.cursor, query.api_version < NEGOTIATED_SINCE, query.after is None)
        found = self._kept.get(key)
        if found is None:
            if len(self._kept) >= WRITTEN_KEPT:
                self._kept.clear()
            found = self._kept[key] = self._encode(shape(message, query))
        return found


async def told(
    feed: Feed, query: EventsQuery, now_ns: int, cursor: int, written: Written
) -> AsyncGenerator[Page, None]:
    """The messages of an answer: the past that is asked for, then what comes behind `cursor`, until `until`."""
    if query.wants_past:
        async with aclosing(cast(Any, feed.past(since_ns=query.since_ns or 0))) as past:
            async for message in past:
                cursor = max(cursor, message.cursor)
                if query.wants(message):
                    yield [(message.cursor, written(message, query))]
    deadline = math.inf if query.until_ns is None else trio.current_time() + (query.until_ns - now_ns) / 1e9
    while page := await _next_before(feed, cursor, deadline):
        cursor = page[-1].cursor
        if found := [(message.cursor, written(message, query)) for message in page if query.wants(message)]:
            yield found


async def documents(pages: AsyncGenerator[Page, None], prefix: bytes) -> AsyncGenerator[tuple[bytes, ...], None]:
    """A line each, without the cursors."""
    async with aclosing(pages):
        async for page in pages:
            yield tuple(b"%b%b\n" % (prefix, document) for _, document in page)


async def server_sent(pages: AsyncGenerator[Page, None]) -> AsyncGenerator[tuple[bytes, ...], None]:
    """As server-sent events. Source: the WHATWG HTML standard, 9.2."""
    async with aclosing(pages):
        async for page in pages:
            yield tuple(b"id: %d\ndata: %b\n\n" % entry for entry in page)


def shape(message: FeedMessage, query: EventsQuery) -> dict[str, Any]:
    document = shapes.message(message, query.api_version)
    return document if query.after is None else {**document, "cursor": message.cursor}


async def _next_before(feed: Feed, cursor: int, deadline: float) -> list[FeedMessage]:
    """Nothing once the deadline has passed. The scope closes before anything is yielded: a generator's scopes must not
    reach over its yields."""
    with trio.move_on_at(deadline):
        return await feed.next_messages(cursor)
    return []
