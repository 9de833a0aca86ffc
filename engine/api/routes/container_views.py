"""`/containers/json` and `/containers/{id}/json`: what `docker ps` and `docker inspect` show, now and in the past."""

from __future__ import annotations

from typing import Any

from msgspec.json import encode as json_encode

from engine.aggregates.container.state import ContainerState
from engine.api.app import EngineApp
from engine.api.context import ApiContext
from engine.api.creation import env_of
from engine.api.params import Query
from engine.api.responses import Response
from engine.api.shapes import containers as shapes
from engine.api.shapes.container_filters import ContainerFilter
from engine.api.shapes.container_rows import ContainerRows
from engine.api.streams import current_request, json_response


def register(app: EngineApp, context: ApiContext) -> None:
    reads = _Reads(context)

    @app.route("/containers/json", methods=["GET"])
    async def listing() -> Response:
        request = current_request()
        body = await reads.listing(Query.of(request), request.api_version)
        return Response(body, content_type="application/json")

    @app.route("/containers/<path:name>/json", methods=["GET"])
    async def inspect(name: str) -> Response:
        request = current_request()
        return json_response(await reads.inspect(name, Query.of(request), request.api_version))


class _Reads:
    """What the routes answer, free of HTTP."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._rows = ContainerRows(context.views)

    async def listing(self, query: Query, api_version: tuple[int, int]) -> bytes:
        """`docker ps` as JSON: newest first; `limit` counts containers of any state."""
        views = self._context.views
        limit = query.integer("limit") or 0
        wanted = ContainerFilter(query.filters(), views)
        everything = query.flag("all") or limit > 0 or wanted.names_states
        now_ns = self._context.clock.now_ns()
        sized = query.flag("size")
        if wanted.empty and not sized and limit <= 0:
            return self._rows.listing(now_ns, api_version, everything=everything)
        rows: list[bytes] = []
        for state in views.containers.newest_first():
            if not (everything or shapes.counts_as_running(state)) or not wanted.accepts(state):
                continue
            row = self._rows.row(state, now_ns, api_version)
            if sized:
                row = row[:-1] + b"," + json_encode(await self._sizes(state))[1:]
            rows.append(row)
            if 0 < limit <= len(rows):
                break
        self._rows.keep_only(len(views.containers))
        return b"[" + b",".join(rows) + b"]\n"

    async def inspect(self, name: str, query: Query, api_version: tuple[int, int]) -> dict[str, Any]:
        context = self._context
        state = context.views.containers.find(name)
        document = shapes.inspection(
            state,
            env=env_of(context, state),
            probes=context.recent_health(state),
            networks=context.views.networks,
            exec_ids=[exec_.exec_id for exec_ in context.views.execs.of(state.container_id) if exec_.pid],
            folder=context.ports.folders.path(state.container_id),
            storage_driver=context.config.storage_driver,
            graph=context.ports.rootfs.describe(state.container_id, state.layers),
            default_runtime=context.config.default_runtime,
            links=self._links(state),
            apparmor="apparmor" in context.host.security,
            api_version=api_version,
        )
        if query.flag("size"):
            document |= await self._sizes(state)
        return document

    def _links(self, state: ContainerState) -> list[str]:
        """`/db:/web/database` of each legacy link; one that leads nowhere any more by the name the other had."""
        containers = self._context.views.containers
        others = ((containers.get(link.container_id) or link, link.alias) for link in state.links)
        return [f"/{other.name}:/{state.name}/{alias}" for other, alias in others]

    async def _sizes(self, state: ContainerState) -> dict[str, int]:
        sizes = self._context.sizes
        written = await sizes.written(state)
        return {"SizeRw": written, "SizeRootFs": written + await sizes.below(state)}
