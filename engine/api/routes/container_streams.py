"""Streams of one container: attach, wait, logs, resize, stats, top."""

from __future__ import annotations

from typing import Any

from quart import Response

from engine.aggregates.container.lifecycle import Status
from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Reason, Rejected
from engine.api.app import EngineApp
from engine.api.context import ApiContext
from engine.api.detach import detach_keys
from engine.api.hijack import HIJACKED, hijack
from engine.api.params import Query
from engine.api.streams import current_request, empty, json_response

CONDITIONS = frozenset({"", "not-running", "next-exit", "removed"})


def register(app: EngineApp, context: ApiContext) -> None:
    @app.route("/containers/<name>/wait", methods=["POST"])
    async def wait(name: str) -> Response:
        state = context.views.containers.find(name)
        condition = Query.of(current_request()).text("condition")
        if condition not in CONDITIONS:
            raise Rejected(Reason.INVALID, f"invalid condition: {condition!r}".replace("'", '"'))
        return early_response(waiting(context, state, condition))

    @app.route("/containers/<name>/resize", methods=["POST"])
    async def resize(name: str) -> Response:
        state = context.views.containers.find(name)
        query = Query.of(current_request())
        if not state.alive:
            raise Rejected(Reason.CONFLICT, f"container {state.container_id} is not running")
        await context.ports.streams.resize(state.container_id, dimension(query, "h"), dimension(query, "w"))
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
        tty = state.config.tty
        async with hijack(request, multiplexed=not tty) as client:
            if query.flag("logs"):
                async for batch in context.logs.backlog(state, multiplexed=not tty):
                    await client.send_all(batch)
            if not query.flag("stream"):
                return HIJACKED
            await context.ports.streams.attach(
                state.container_id,
                client.fd,
                stdin=query.flag("stdin") and state.config.open_stdin,
                stdout=query.flag("stdout"),
                stderr=query.flag("stderr"),
                multiplexed=not tty,
                detach_keys=keys if tty else b"",
                early_input=client.early_input,
            )
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
        return json_response(await context.ports.process_table.rows(arguments, pids))

    @app.route("/containers/<name>/stats", methods=["GET"])
    async def stats(name: str) -> Response:
        request = current_request()
        query = Query.of(request)
        state = context.views.containers.find(name)
        stream = query.flag("stream", default=True)
        one_shot = query.flag("one-shot") and not stream
        samples = sampling(context, state, stream=stream, one_shot=one_shot)
        if not stream:
            return json_response(await anext(samples))
        return json_stream(samples)


async def waiting(context: ApiContext, state: ContainerState, condition: str) -> dict[str, Any]:
    """`docker wait`: registered by the time the head is sent, so no exit behind it is missed (CTR-14)."""
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
    answer: dict[str, Any] = {"StatusCode": after.exit_code}
    if after.error:
        answer["Error"] = {"Message": after.error}
    return answer
