"""Streams of one container: attach, wait, logs, resize, stats, top."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import trio
from quart import Response

from engine.aggregates.container.lifecycle import Status
from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Reason, Rejected
from engine.api.app import EngineApp
from engine.api.context import ApiContext
from engine.api.detach import detach_keys
from engine.api.hijack import HIJACKED, hijack
from engine.api.notes import note
from engine.api.params import Query, cause_of
from engine.api.responses import JSON
from engine.api.routes.container_logs import backlog
from engine.api.streams import current_request, empty, json_response, json_stream

EXIT_WAIT_S = 1.0
"""How long the end of the output waits for the exit, so that who asks for the code next finds it."""
CONDITIONS = frozenset({"", "not-running", "next-exit", "removed"})


def register(app: EngineApp, context: ApiContext) -> None:
    @app.route("/containers/<name>/wait", methods=["POST"])
    async def wait(name: str) -> Response:
        state = context.views.containers.find(name)
        condition = Query.of(current_request()).text("condition")
        if condition not in CONDITIONS:
            raise Rejected(Reason.INVALID, f'invalid condition: "{condition}"')
        return json_stream(waiting(context, state, condition))  # the head leaves at once (CTR-14)

    @app.route("/containers/<name>/resize", methods=["POST"])
    async def resize(name: str) -> Response:
        state = context.views.containers.find(name)
        query = Query.of(current_request())
        if not state.alive:
            raise Rejected(Reason.CONFLICT, f"container {state.container_id} is not running")
        height, width = dimension(query, "h"), dimension(query, "w")
        await context.ports.streams.resize(state.container_id, height, width)
        size = {"height": str(height), "width": str(width)}
        await note(context, state.container_id, cause_of(current_request()), "resize", **size)
        return empty(200)

    @app.route("/containers/<name>/attach", methods=["POST"])
    async def attach(name: str) -> Response:
        request = current_request()
        state = context.views.containers.find(name)
        query = Query.of(request)
        await request.get_data(cache=False)
        keys = detach_keys(query.text("detachKeys"))
        if state.status is Status.PAUSED:
            raise Rejected(Reason.CONFLICT, f"container {name} is paused, unpause the container before attach")
        if state.status is Status.RESTARTING:
            raise Rejected(Reason.CONFLICT, f"container {name} is restarting, wait until the container is running")
        tty, cause = state.config.tty, cause_of(request)
        async with trio.open_nursery() as nursery, hijack(request, multiplexed=not tty) as client:
            # Decided before the client has its answer, and so before any start it asks for; nobody waits for the disk.
            nursery.start_soon(note, context, state.container_id, cause, "attach")
            if query.flag("logs"):
                async for batch in backlog(context, state):
                    await client.send_all(batch)
            if not query.flag("stream"):
                return HIJACKED
            end = await context.ports.streams.attach(
                state.container_id,
                client.fd,
                stdin=query.flag("stdin") and state.config.open_stdin,
                stdout=query.flag("stdout"),
                stderr=query.flag("stderr"),
                multiplexed=not tty,
                detach_keys=keys if tty else b"",
                early_input=client.early_input,
            )
            if end.reason == "detached":
                await note(context, state.container_id, cause, "detach")
            if end.reason == "eof":
                with trio.move_on_after(EXIT_WAIT_S):
                    await context.pump.until(f"container:{state.container_id}", lambda now: not now.alive)
        return HIJACKED

    @app.route("/containers/<name>/top", methods=["GET"])
    async def top(name: str) -> Response:
        state = context.views.containers.find(name)
        if not state.alive:
            raise Rejected(Reason.CONFLICT, f"container {state.container_id} is not running")
        if state.status is Status.RESTARTING:
            raise Rejected(
                Reason.CONFLICT, f"container {state.container_id} is restarting, wait until the container is running"
            )
        arguments = Query.of(current_request()).text("ps_args") or "-ef"
        pids = await context.ports.meter.processes(state.container_id)
        found = await context.ports.process_table.rows(arguments, pids)
        await note(context, state.container_id, cause_of(current_request()), "top")
        return json_response(found)

    @app.route("/containers/<name>/stats", methods=["GET"])
    async def stats(name: str) -> Response:
        request = current_request()
        query = Query.of(request)
        state = context.views.containers.find(name)
        if query.flag("stream", default=True):
            return Response(context.sampling.stream(state), content_type=JSON)
        one_shot = query.flag("one-shot") and request.api_version >= (1, 41)
        return Response(await context.sampling.once(state, one_shot=one_shot), content_type=JSON)


async def waiting(context: ApiContext, state: ContainerState, condition: str) -> AsyncIterator[dict[str, Any]]:
    """`docker wait`, as a stream of one. The exit waited for is counted from the request on, so none is missed."""
    container_id, exits = state.container_id, state.exits
    match condition:
        case "next-exit":
            after = await context.pump.until(f"container:{container_id}", lambda now: now.exits > exits)
        case "removed":
            after = await context.pump.until(
                f"container:{container_id}", lambda now: now.status in (Status.REMOVED, Status.ABSENT)
            )
        case _:
            after = await context.pump.until(
                f"container:{container_id}",
                lambda now: not (now.alive or now.starting or now.status is Status.RESTARTING),
            )
    yield {"StatusCode": after.exit_code}


def dimension(query: Query, key: str) -> int:
    """Height or width of a terminal. Raises Rejected(INVALID)."""
    value = query.integer(key)
    if value is None:
        raise Rejected(Reason.INVALID, 'strconv.ParseUint: parsing "": invalid syntax')
    if value < 0 or value > 0xFFFF:
        raise Rejected(Reason.INVALID, f'strconv.ParseUint: parsing "{value}": value out of range')
    return value
