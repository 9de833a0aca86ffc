"""`/drift`: where log and world differ. Not Docker's: `ishmaeld doctor` asks for it (docs/design/drift.md)."""

from __future__ import annotations

from engine.api.app import EngineApp
from engine.api.context import ApiContext
from engine.api.responses import Response, json_response


def register(app: EngineApp, context: ApiContext) -> None:
    drift = context.drift
    if drift is None:
        return

    @app.route("/drift", methods=["GET"])
    async def look() -> Response:
        return json_response(await drift.look())

    @app.route("/drift/repair", methods=["POST"])
    async def repair() -> Response:
        return json_response(await drift.mend())
