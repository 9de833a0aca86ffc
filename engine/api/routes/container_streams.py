"""What streams or is asked again and again of one container: wait, resize, stats, top."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from engine.aggregates.container.lifecycle import Status
from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.values.console import CELLS_MAX
from engine.api.app import EngineApp
from engine.api.context import ApiContext
from engine.api.notes import note
from engine.api.params import Query, cause_of
from engine.api.responses import JSON, Response
from engine.api.streams import current_request, empty, json_response, json_stream

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
        query = Query.of(current_request())
        height, width = dimension(query, "h"), dimension(query, "w")
        state = context.views.containers.find(name)
        if not state.alive:
            raise Rejected(Reason.CONFLICT, f"container {state.container_id} is not running")
        await context.ports.streams.resize(state.container_id, height, width)
        size = {"height": str(height), "width": str(width)}
        await note(context, state.container_id, cause_of(current_request()), "resize", **size)
        return empty(200)

    @app.route("/containers/<name>/top", methods=["GET"])
    async def top(name: str) -> Response:
        state = context.views.containers.find(name)
        if state.status is Status.RESTARTING:
            raise Rejected(
                Reason.CONFLICT, f"Container {state.container_id} is restarting, wait until the container is running"
            )
        if not state.alive:
            raise Rejected(Reason.CONFLICT, f"container {state.container_id} is not running")
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
    """Height or width of a terminal. Raises Rejected(INVALID) in the words of moby's httputils.Uint32Value."""
    text, name = query.text(key), {"h": "height", "w": "width"}[key]
    digits = text.removeprefix("-")
    if not digits.isascii() or not digits.isdecimal():
        raise Rejected(Reason.INVALID, f'invalid resize {name} "{text}": invalid syntax')
    if text != digits or len(digits.lstrip("0")) > 5 or int(digits) > CELLS_MAX:
        raise Rejected(Reason.INVALID, f'invalid resize {name} "{text}": value out of range')
    return int(digits)
