"""`/events`: the history and the future of the feed, filtered, one message per chunk."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, cast

import msgspec
import trio
from quart import Response

from engine.aggregates.decider import Reason, Rejected
from engine.api.app import EngineApp, EngineRequest
from engine.api.context import ApiContext
from engine.api.filters import Filters
from engine.api.params import Query
from engine.api.responses import JSON
from engine.api.shapes import events as shapes
from engine.api.streams import JSON_LINES, JSON_SEQUENCE, NDJSON, current_request, json_stream
from engine.api.versions import ApiVersion
from engine.projections.events_feed import Feed
from engine.projections.feed_messages import FeedMessage

NEGOTIATED_SINCE = (1, 52)


class EventsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Times in UTC ns, None when not given; both inclusive."""

    since_ns: int | None
    until_ns: int | None
    filters: Filters
    api_version: ApiVersion

    @property
    def wants_past(self) -> bool:
        """As moby: nothing of the past unless one of the times is given."""
        return self.since_ns is not None or self.until_ns is not None


def register(app: EngineApp, context: ApiContext) -> None:
    @app.route("/events", methods=["GET"])
    async def events() -> Response:
        feed: Feed = context.views.events
        request = current_request()
        now_ns = context.clock.now_ns()
        wanted = parse(request, now_ns)
        return json_stream(told(feed, wanted, now_ns, feed.cursor), content_type(request))


def parse(request: EngineRequest, now_ns: int) -> EventsQuery:
    query = Query.of(request)
    since_ns, until_ns = query.moment("since", now_ns=now_ns), query.moment("until", now_ns=now_ns)
    if until_ns is not None and until_ns < (since_ns or 0):
        raise Rejected(
            Reason.INVALID,
            f"`since` time ({query.text('since')}) cannot be after `until` time ({query.text('until')})",
        )
    filters = query.filters()
    return EventsQuery(since_ns=since_ns, until_ns=until_ns, filters=filters, api_version=request.api_version)


def content_type(request: EngineRequest) -> str:
    """JSON before 1.52; then what the client accepts of json lines, ndjson and json-seq."""
    if request.api_version < NEGOTIATED_SINCE:
        return JSON
    offered = (JSON_LINES, NDJSON, JSON_SEQUENCE)
    return request.accept_mimetypes.best_match(offered, JSON_LINES) or JSON_LINES


async def told(feed: Feed, query: EventsQuery, now_ns: int, cursor: int) -> AsyncIterator[object]:
    """The messages of an answer: the past that is asked for, then what comes behind `cursor`, until `until`."""
    if query.wants_past:
        async with aclosing(cast(Any, feed.past(since_ns=query.since_ns or 0))) as past:
            async for message in past:
                cursor = max(cursor, message.cursor)
                in_time = query.until_ns is None or message.time_ns <= query.until_ns
                if in_time and shapes.wanted(message, query.filters, query.api_version):
                    yield shapes.message(message, query.api_version)
    deadline = math.inf if query.until_ns is None else trio.current_time() + (query.until_ns - now_ns) / 1e9
    while page := await _next_before(feed, cursor, deadline):
        cursor = page[-1].cursor
        for message in page:
            if shapes.wanted(message, query.filters, query.api_version):
                yield shapes.message(message, query.api_version)


async def _next_before(feed: Feed, cursor: int, deadline: float) -> list[FeedMessage]:
    """Nothing once the deadline has passed. The scope closes before anything is yielded: a generator's scopes must not
    reach over its yields."""
    with trio.move_on_at(deadline):
        return await feed.next_messages(cursor)
    return []
