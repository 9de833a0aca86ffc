"""`/_ping`, `/version`, `/info`, `/events`: the engine about itself."""

from __future__ import annotations

from collections.abc import Iterable

import trio

from engine.aggregates.container.lifecycle import Status
from engine.aggregates.container.state import ContainerState
from engine.api import versions
from engine.api.app import EngineApp
from engine.api.context import ApiContext
from engine.api.responses import Response, json_response
from engine.api.shapes import system as shapes
from engine.api.streams import current_request, request

NO_CACHE = {"Cache-Control": "no-cache, no-store, must-revalidate", "Pragma": "no-cache"}
PING_HEADERS = {
    **versions.COMMON_HEADERS,
    **NO_CACHE,
    "Builder-Version": "1",  # 2 would make the CLI build through BuildKit, which is not there
    "Docker-Experimental": "false",
    "Swarm": "inactive",
}


def register(app: EngineApp, context: ApiContext) -> None:
    @app.route("/_ping", methods=["GET", "HEAD"])
    async def ping() -> Response:
        body = b"" if request.method == "HEAD" else b"OK"
        return Response(body, headers=PING_HEADERS, content_type="text/plain; charset=utf-8")

    # Every client asks this first, some before each command: it is answered without a route.
    direct = [*PING_HEADERS.items(), ("Content-Type", "text/plain; charset=utf-8")]
    app.direct_routes["GET", "/_ping"] = lambda: (200, [*direct, ("Content-Length", "2")], b"OK")
    app.direct_routes["HEAD", "/_ping"] = lambda: (200, [*direct, ("Content-Length", "0")], b"")

    @app.route("/version", methods=["GET"])
    async def version() -> Response:
        return json_response(shapes.version(context.host.facts()))

    @app.route("/info", methods=["GET"])
    async def info() -> Response:
        facts = shapes.InfoFacts(
            host=context.host.facts(),
            config=context.config,
            engine_id=context.engine_id,
            now_ns=context.clock.now_ns(),
            containers=count_containers(context.views.containers),
            images=len(context.views.images),
            file_system=context.host.file_system(context.config.data_root),
            tasks=trio.lowlevel.current_statistics().tasks_living,
            listeners=context.views.events.listeners,
            init_path=context.init_path,
            damage=tuple(context.damage()),
        )
        return json_response(shapes.info(facts, current_request().api_version))


def count_containers(containers: Iterable[ContainerState]) -> tuple[int, int, int]:
    """Running, paused, stopped; as Docker counts: what neither runs nor rests is stopped."""
    paused = sum(1 for state in containers if state.status is Status.PAUSED)
    alive = sum(1 for state in containers if state.alive)
    return alive - paused, paused, sum(1 for _ in containers) - alive
