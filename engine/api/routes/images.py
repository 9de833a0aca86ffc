"""`/images/...` that looks at what is here, names it, removes it (IMG-08 to IMG-13, IMG-18).

What moves images in and out is in image_transfers.py."""

from __future__ import annotations

import trio

from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.image import ImageStatus
from engine.api.app import EngineApp, not_implemented
from engine.api.context import ApiContext
from engine.api.filters import Filters
from engine.api.image_lists import filtered, summary_of, target_of
from engine.api.image_names import tag_reference
from engine.api.image_platforms import decode_platform, find
from engine.api.image_removal import ImageRemovals, Record
from engine.api.params import Query, cause_of
from engine.api.pruning import PRUNE_FILTERS, alone, prune_label_match, prune_until, tell_pruned
from engine.api.responses import Response, empty, json_response
from engine.api.shapes import images as shapes
from engine.api.streams import current_request, request


def register(app: EngineApp, context: ApiContext) -> None:
    _register_looks(app, context)
    _register_changes(app, context)


def _register_looks(app: EngineApp, context: ApiContext) -> None:
    @app.route("/images/json", methods=["GET"])
    async def list_images() -> Response:
        query, version = Query.of(request), current_request().api_version
        if version >= (1, 54) and query.flag("identity"):
            raise not_implemented("listing images with identity")
        found = filtered(context, query.filters(), every=query.flag("all"))
        shared = shapes.layer_uses(context.views.images) if version >= (1, 42) and query.flag("shared-size") else None
        manifests = version >= (1, 47) and query.flag("manifests")
        told = [await summary_of(context, state, version, shared, manifests=manifests) for state in found]
        return json_response(told)

    @app.route("/images/<path:name>/json", methods=["GET"])
    async def inspect(name: str) -> Response:
        query, version = Query.of(request), current_request().api_version
        manifests = version >= (1, 48) and query.flag("manifests")
        asked = query.text("platform") if version >= (1, 49) else ""
        if manifests and asked:
            raise Rejected(Reason.INVALID, "conflicting options: manifests and platform options cannot both be set")
        state = find(context, name, decode_platform(asked) if asked else None)
        config = await context.images.config_of(state)
        shape = shapes.inspect(state, config, context.config, version)
        return json_response(shape | await target_of(context, state, version, manifests=manifests))

    @app.route("/images/<path:name>/history", methods=["GET"])
    async def history(name: str) -> Response:
        asked = Query.of(request).text("platform") if current_request().api_version >= (1, 48) else ""
        state = find(context, name, decode_platform(asked) if asked else None)
        return json_response(shapes.history(state, await context.images.config_of(state)))


def _register_changes(app: EngineApp, context: ApiContext) -> None:
    removals = ImageRemovals(context)
    pruning = trio.Lock()

    @app.route("/images/<path:name>/tag", methods=["POST"])
    async def tag(name: str) -> Response:
        query = Query.of(request)
        reference = tag_reference(query.text("repo"), query.text("tag"))
        if reference is None:
            raise Rejected(Reason.INVALID, "invalid reference format")
        if reference.familiar_name == "sha256":
            raise Rejected(Reason.INVALID, "refusing to create an ambiguous tag using digest algorithm as name")
        state = find(context, name)
        index = context.views.images.index_of(state, name)
        await context.images.tag(state.image_id, reference, cause_of(request), index)
        return empty(201)

    @app.route("/images/prune", methods=["POST"])
    async def prune() -> Response:
        filters = Query.of(request).filters().validate(PRUNE_FILTERS | {"dangling"})
        with alone(pruning):
            return json_response(await _prune(context, removals, filters))

    @app.route("/images/<path:name>", methods=["DELETE"])
    async def delete(name: str) -> Response:
        query = Query.of(request)
        if not name.strip():
            raise Rejected(Reason.INVALID, "image name cannot be blank")
        force, cause = query.flag("force"), cause_of(request)
        if current_request().api_version >= (1, 50) and (asked := query.all("platforms")):
            platforms = [decode_platform(text) for text in asked]
            return json_response(await removals.remove_platforms(name, platforms, force=force, cause=cause))
        return json_response(await removals.remove(name, force=force, prune=not query.flag("noprune"), cause=cause))


# -- prune -------------------------------------------------------------------------------------------------------------


async def _prune(context: ApiContext, removals: ImageRemovals, filters: Filters) -> dict[str, object]:
    """IMG-18: with dangling (the default) those without a tag, else all that no container uses."""
    dangling = filters.boolean("dangling", default=True)
    until = prune_until(filters, context.clock.now_ns())
    deleted: list[Record] = []
    reclaimed = 0
    for state in context.views.images:
        named = state.references or context.views.images.is_part(state)
        if state.status is not ImageStatus.READY or (dangling and named):
            continue
        if (until is not None and state.created_at > until) or not prune_label_match(filters, state.labels):
            continue
        sizes = {str(layer.chain_id): layer.size for layer in state.layers}
        try:
            records = await removals.remove_unused(state, cause_of(request))
        except Rejected:
            continue  # somebody else was quicker
        deleted += records
        reclaimed += sum(sizes.get(record.get("Deleted", ""), 0) for record in records)
    await context.images.collect()  # parts of pulls that failed belong to no image, and are nobody's any more
    await tell_pruned(context, "image", reclaimed, cause_of(request))
    return {"ImagesDeleted": deleted or None, "SpaceReclaimed": reclaimed}
