"""`/events`: the history and the future of the feed, filtered, one message per chunk; a burst leaves in one write.

An extension for those who must not miss anything: `after=CURSOR` (or the header `Last-Event-ID`) goes on behind a
message, and each message then tells its own `cursor`; `Accept: text/event-stream` makes them server-sent events."""

from __future__ import annotations

import math
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, TypeVar, cast

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

T = TypeVar("T")
NEGOTIATED_SINCE = (1, 52)
DOCUMENTS_KEPT, PAGES_KEPT = 4096, 16
"""A page has up to 512 messages."""


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
        kind = EVENT_STREAM if EVENT_STREAM in request.headers.get("Accept", "") else content_type(request)
        render = RENDERED.get(kind, line)
        return Response(told(feed, wanted, now_ns, cursor, partial(written, render)), content_type=kind)


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


Render = Callable[[int, bytes], bytes]
"""A message in an answer, of its cursor and its JSON."""


def line(_cursor: int, document: bytes) -> bytes:
    return document + b"\n"


def record(_cursor: int, document: bytes) -> bytes:
    """Source: RFC 7464."""
    return RECORD_SEPARATOR + document + b"\n"


def server_sent(cursor: int, document: bytes) -> bytes:
    """Source: the WHATWG HTML standard, 9.2."""
    return b"id: %d\ndata: %b\n\n" % (cursor, document)


RENDERED: Mapping[str, Render] = {JSON_SEQUENCE: record, EVENT_STREAM: server_sent}
"""By content type; all others are lines."""

Page = tuple[bytes, ...]
"""Messages that are there together, in order, as they are sent."""


class Written:
    """Messages as bytes: each is written once for all, and who follows everything gets the page that was made for the
    first who did."""

    def __init__(self) -> None:
        self._encode = msgspec.json.Encoder().encode
        self._documents: dict[object, bytes] = {}
        self._pages: dict[object, Page] = {}

    def __call__(self, render: Render, messages: Sequence[FeedMessage], query: EventsQuery) -> Page:
        """Those of some adjoining messages, at least one, that the answer has."""
        if len(messages) == 1 or query.filters.values or query.until_ns is not None:
            return self._page(render, messages, query)
        key = (messages[0].cursor, messages[-1].cursor, render, query.api_version, query.after is None)
        page = self._pages.get(key)
        if page is None:
            page = _kept(self._pages, PAGES_KEPT, key, self._page(render, messages, query))
        return page

    def _page(self, render: Render, messages: Sequence[FeedMessage], query: EventsQuery) -> Page:
        return tuple(
            [render(message.cursor, self._document(message, query)) for message in messages if query.wants(message)]
        )

    def _document(self, message: FeedMessage, query: EventsQuery) -> bytes:
        key = (message.cursor, query.api_version < NEGOTIATED_SINCE, query.after is None)
        found = self._documents.get(key)
        if found is None:
            found = _kept(self._documents, DOCUMENTS_KEPT, key, self._encode(shape(message, query)))
        return found


def _kept(cache: dict[object, T], most: int, key: object, value: T) -> T:
    if len(cache) >= most:
        cache.clear()
    cache[key] = value
    return value


async def told(
    feed: Feed,
    query: EventsQuery,
    now_ns: int,
    cursor: int,
    written: Callable[[Sequence[FeedMessage], EventsQuery], Page],
) -> AsyncGenerator[Page, None]:
    """The messages of an answer: the past that is asked for, then what comes behind `cursor`, until `until`."""
    if query.wants_past:
        async with aclosing(cast(Any, feed.past(since_ns=query.since_ns or 0))) as past:
            async for message in past:
                cursor = max(cursor, message.cursor)
                if page := written([message], query):
                    yield page
    deadline = math.inf if query.until_ns is None else trio.current_time() + (query.until_ns - now_ns) / 1e9
    while messages := await _next_before(feed, cursor, deadline):
        cursor = messages[-1].cursor
        if page := written(messages, query):
            yield page


def shape(message: FeedMessage, query: EventsQuery) -> dict[str, Any]:
    document = shapes.message(message, query.api_version)
    return document if query.after is None else {**document, "cursor": message.cursor}


async def _next_before(feed: Feed, cursor: int, deadline: float) -> list[FeedMessage]:
    """Nothing once the deadline has passed. The scope closes before anything is yielded: a generator's scopes must not
    reach over its yields."""
    if deadline == math.inf:
        return await feed.next_messages(cursor)
    with trio.move_on_at(deadline):
        return await feed.next_messages(cursor)
    return []
