"""`POST /commit`: an image of what a container wrote (CTR-34)."""

from __future__ import annotations

from engine.aggregates.container.lifecycle import Status
from engine.aggregates.values.commit import CommitWish
from engine.aggregates.values.config import ContainerConfig
from engine.api.app import EngineApp
from engine.api.bodies import decode_body
from engine.api.context import ApiContext
from engine.api.image_names import tag_reference
from engine.api.params import Query, cause_of
from engine.api.responses import Response
from engine.api.streams import current_request, json_response

UNSETTLED = frozenset({Status.STARTING, Status.STARTING_AGAIN, Status.PAUSING, Status.UNPAUSING})


def register(app: EngineApp, context: ApiContext) -> None:
    @app.route("/commit", methods=["POST"])
    async def commit() -> Response:
        request = current_request()
        query = Query.of(request)
        config = await decode_body(request, ContainerConfig, required=False)
        wish = CommitWish(
            reference=tag_reference(query.text("repo"), query.text("tag")),
            author=query.text("author"),
            comment=query.text("comment"),
            pause=query.flag("pause", default=True) if query.text("pause") else True,
            changes=query.all("changes"),
            config=config if config != ContainerConfig() else None,
        )
        state = context.views.containers.find(query.text("container"))
        # Behind moby's lock a commit waits for whatever moves the container at the moment.
        state = await context.pump.until(
            f"container:{state.container_id}", lambda now: now.status not in UNSETTLED or now.commits
        )
        image_id = await context.images.commit(state, wish, cause_of(request))
        return json_response({"Id": image_id}, 201)
