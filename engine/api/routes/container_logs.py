"""`docker logs` (CTR-27): history and following, framed or raw."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import aclosing

from engine.aggregates.container.lifecycle import Status
from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.values.log_files import LogFile
from engine.api.app import EngineApp
from engine.api.context import ApiContext
from engine.api.hijack import stream_content_type
from engine.api.params import Query
from engine.api.responses import Response
from engine.api.shapes.containers import readable_log
from engine.api.shapes.log_lines import LogRenderer
from engine.api.streams import current_request, raw_response
from engine.drivers.ports.logs import ALL_LINES, LogQuery


def register(app: EngineApp, context: ApiContext) -> None:
    @app.route("/containers/<name>/logs", methods=["GET"])
    async def logs(name: str) -> Response:
        request = current_request()
        state = context.views.containers.find(name)
        query = Query.of(request)
        wanted = log_query(query, context.clock.now_ns())
        if state.status is Status.REMOVING:
            raise Rejected(Reason.CONFLICT, "can not get logs from container which is dead or marked for removal")
        log = readable_log(state, context.ports.folders.path(state.container_id))
        if log is None:
            raise Rejected(Reason.NOT_IMPLEMENTED, "configured logging driver does not support reading")
        render = LogRenderer(
            multiplexed=not state.config.tty, timestamps=query.flag("timestamps"), details=query.flag("details")
        )
        chunks = reading(context, state, log, wanted, render)
        await anext(chunks)  # Whoever has the head may remove the container, and gets all the same what it wrote.
        content_type = stream_content_type(request.api_version, multiplexed=not state.config.tty)
        return raw_response(chunks, content_type)


def log_query(query: Query, now_ns: int) -> LogQuery:
    """The query of a logs request. Raises Rejected(INVALID) when neither stream is chosen, or for a bad number."""
    stdout, stderr = query.flag("stdout"), query.flag("stderr")
    if not (stdout or stderr):
        raise Rejected(Reason.INVALID, "Bad parameters: you must choose at least one stream")
    tail = query.text("tail")
    # moby reads anything that is not a number as "all".
    lines = int(tail) if re.fullmatch(r"[0-9]{1,18}", tail) else ALL_LINES
    until_ns = query.moment("until", now_ns=now_ns) or 0
    return LogQuery(
        stdout=stdout,
        stderr=stderr,
        tail=lines,
        since_ns=query.moment("since", now_ns=now_ns) or 0,
        until_ns=until_ns,
        follow=query.flag("follow") and not (0 < until_ns <= now_ns),
    )


async def reading(
    context: ApiContext, state: ContainerState, log: LogFile, query: LogQuery, render: LogRenderer
) -> AsyncIterator[bytes]:
    """The lines as bytes, until there is no more and nobody writes any more; first nothing, when the log is open."""

    async def ended() -> None:
        def over(now: ContainerState) -> bool:
            return not (now.alive or now.starting or now.status is Status.RESTARTING)

        await context.pump.until(f"container:{state.container_id}", over)

    batches = context.ports.logs.read(log, query, render=render, ended=ended)
    async with aclosing(batches):
        await anext(batches, None)
        yield b""
        async for chunk in batches:
            if chunk:
                yield chunk


async def backlog(
    context: ApiContext, state: ContainerState, *, stdout: bool, stderr: bool, multiplexed: bool
) -> AsyncIterator[bytes]:
    """Everything written so far, as `attach?logs=1` repeats it."""
    log = readable_log(state, context.ports.folders.path(state.container_id))
    if log is None:
        return
    render = LogRenderer(multiplexed=multiplexed)
    async for chunk in reading(context, state, log, LogQuery(stdout=stdout, stderr=stderr), render):
        if chunk:
            yield chunk
