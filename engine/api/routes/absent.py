"""What Docker's API has and this engine has not: 501 with the name of the missing part, never a silent success.

The table is the record. Whoever builds one of these removes its row; a test sees to it that no route is in both places.
The words `not supported` matter: `docker inspect` tries plugins last and goes on to "no such object" on reading them.
"""

from __future__ import annotations

from engine.aggregates.decider import Reason, Rejected
from engine.api.app import EngineApp
from engine.api.responses import Response
from engine.api.routing import View

ALL_METHODS = ("GET", "POST", "PUT", "DELETE")

EXPERIMENTAL = (
    "This experimental feature is disabled by default. "
    "Start the Docker daemon in experimental mode in order to enable it."
)
"""Docker's own words for checkpoints, which it has in experimental mode only. This engine has no such mode."""

ABSENT: tuple[tuple[str, str], ...] = (
    ("/swarm", "swarm mode"),
    ("/swarm/<path:rest>", "swarm mode"),
    ("/nodes", "swarm mode"),
    ("/nodes/<path:rest>", "swarm mode"),
    ("/services", "swarm mode"),
    ("/services/<path:rest>", "swarm mode"),
    ("/tasks", "swarm mode"),
    ("/tasks/<path:rest>", "swarm mode"),
    ("/secrets", "swarm mode"),
    ("/secrets/<path:rest>", "swarm mode"),
    ("/configs", "swarm mode"),
    ("/configs/<path:rest>", "swarm mode"),
    ("/plugins", "managed plugins"),
    ("/plugins/<path:rest>", "managed plugins"),
    ("/session", "BuildKit sessions"),
    ("/grpc", "BuildKit over gRPC"),
    ("/build", "building images"),
    ("/build/cancel", "building images"),
    ("/containers/<path:rest>/checkpoints", EXPERIMENTAL),
    ("/containers/<path:rest>/checkpoints/<checkpoint>", EXPERIMENTAL),
)


NO_SWARM = "This node is not part of a swarm"


def register(app: EngineApp) -> None:
    # No refusal but the truth, in moby's words: clients that tidy up (docker-py's suite among them) leave first and
    # take this for done.
    app.routes.add("/swarm/leave", _refusal(Reason.UNAVAILABLE, NO_SWARM), ["POST"])
    for path, what in ABSENT:
        words = what if what == EXPERIMENTAL else f"{what}: not supported by this engine (not implemented)"
        app.routes.add(path, _refusal(Reason.NOT_IMPLEMENTED, words), ALL_METHODS)


def _refusal(reason: Reason, words: str) -> View:
    async def refuse(**_path: str) -> Response:
        raise Rejected(reason, words)

    return refuse
