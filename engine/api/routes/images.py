"""`/images/...`: list, inspect, history, pull, push, import, load, save, tag, delete, prune (IMG-01 to IMG-18)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import trio

from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.image import ImageStatus
from engine.aggregates.values.ids import SHA256_DIGEST
from engine.aggregates.values.platform import Platform
from engine.aggregates.values.reference import TAG, Reference, parse
from engine.api.app import EngineApp, not_implemented
from engine.api.context import ApiContext
from engine.api.filters import Filters
from engine.api.image_lists import filtered, summary_of, target_of
from engine.api.image_platforms import decode_platform, find, platform_of
from engine.api.image_removal import ImageRemovals, Record
from engine.api.params import Query, cause_of, forgiven_credentials
from engine.api.pruning import PRUNE_FILTERS, alone, prune_label_match, prune_until, tell_pruned
from engine.api.responses import Response, empty, json_response
from engine.api.shapes import images as shapes
from engine.api.streams import Emit, current_request, eager_raw_response, progress_stream, request
from engine.errors import PortError

TAR = "application/x-tar"
NO_CREDENTIALS = "no basic auth credentials"


def register(app: EngineApp, context: ApiContext) -> None:
    removals = ImageRemovals(context)
    pruning = trio.Lock()

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

    @app.route("/images/create", methods=["POST"])
    async def create() -> Response:
        query = Query.of(request)
        wanted = platform_of(context, query.text("platform")) if current_request().api_version >= (1, 32) else None
        if query.text("fromImage"):
            return await _pull(context, query, wanted)
        return await _import(context, query, wanted)

    @app.route("/images/load", methods=["POST"])
    async def load() -> Response:
        cause, body = cause_of(request), _body()
        quiet = Query.of(request).flag("quiet", default=True)
        platforms = _platforms()

        async def produce(emit: Emit) -> None:
            await context.images.load(body, emit, cause, quiet=quiet, platforms=platforms)

        return await progress_stream(produce, always_ok=True)

    @app.route("/images/get", methods=["GET"])
    async def save_many() -> Response:
        names = Query.of(request).all("names")
        return await eager_raw_response(context.images.save(names, cause_of(request), _platforms()), TAR)

    @app.route("/images/<path:name>/get", methods=["GET"])
    async def save(name: str) -> Response:
        return await eager_raw_response(context.images.save((name,), cause_of(request), _platforms()), TAR)

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

    @app.route("/images/<path:name>/push", methods=["POST"])
    async def push(name: str) -> Response:
        query = Query.of(request)
        reference = push_reference(name, query.text("tag"))
        asked = query.text("platform") if current_request().api_version >= (1, 46) else ""
        platform = decode_platform(asked) if asked else None
        credentials, cause = forgiven_credentials(request), cause_of(request)

        async def produce(emit: Emit) -> None:
            await context.images.push(reference, credentials, emit, cause, platform)

        return await progress_stream(produce)

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


# -- pull and import ---------------------------------------------------------------------------------------------------


async def _pull(context: ApiContext, query: Query, platform: Platform | None) -> Response:
    reference, all_tags = pull_reference(query.text("fromImage"), query.text("tag"))
    if reference.familiar_name == "scratch":
        raise Rejected(Reason.FORBIDDEN, "'scratch' is a reserved name")
    credentials, cause = forgiven_credentials(request), cause_of(request)

    async def produce(emit: Emit) -> None:
        try:
            await context.images.pull(reference, platform, credentials, emit, cause, all_tags=all_tags)
        except PortError as error:
            if NO_CREDENTIALS not in error.message:
                raise
            # dockerd says this with a 500: on a 401 the CLI would ask for a password, also where nobody can answer.
            raise PortError(error.operation, error.message) from error

    return await progress_stream(produce)


async def _import(context: ApiContext, query: Query, platform: Platform | None) -> Response:
    source = query.text("fromSrc")
    reference = tag_reference(query.text("repo"), query.text("tag"))
    body, cause = _body(), cause_of(request)
    message = query.text("message") or f"Imported from {source}"
    made = (reference, platform or context.images.host_platform, message, query.all("changes"), cause)
    url = source if "://" in source else f"http://{source}"

    async def produce(emit: Emit) -> None:
        if source == "-":
            image_id = await context.images.import_image(body, *made)
        else:
            image_id = await context.images.import_url(url, emit, *made)
        await emit({"status": image_id})

    return await progress_stream(produce)


def pull_reference(image: str, tag: str) -> tuple[Reference, bool]:
    """(reference, all tags): `tag` may be a digest; without any tag, all of them are meant (the CLI always sends one,
    and `-a` sends none). Raises Rejected(INVALID)."""
    reference = parse(image.removesuffix(":"))
    if tag:
        fields = {"domain": reference.domain, "path": reference.path}
        if SHA256_DIGEST.fullmatch(tag):
            return Reference(**fields, digest=tag), False
        if not TAG.fullmatch(tag):
            raise Rejected(Reason.INVALID, "invalid tag format")
        return Reference(**fields, tag=tag), False
    if reference.digest:
        return Reference(domain=reference.domain, path=reference.path, digest=reference.digest), False
    return reference, not reference.tag


def push_reference(image: str, tag: str) -> Reference:
    """Without any tag, all of the repository's are meant. Raises Rejected(INVALID)."""
    reference = parse(image)
    if not tag:
        return reference
    if not TAG.fullmatch(tag):
        raise Rejected(Reason.INVALID, "invalid tag format")
    return Reference(domain=reference.domain, path=reference.path, tag=tag)


def tag_reference(repository: str, tag: str) -> Reference | None:
    """A name to give; None without a repository. Raises Rejected(INVALID)."""
    if not repository:
        return None
    reference = parse(repository)
    if reference.digest:
        raise Rejected(Reason.INVALID, "cannot import digest reference")
    if tag:
        if not TAG.fullmatch(tag):
            raise Rejected(Reason.INVALID, "invalid tag format")
        return Reference(domain=reference.domain, path=reference.path, tag=tag)
    return reference.with_default_tag()


def _platforms() -> tuple[Platform, ...]:
    """Of which platforms an archive is. Raises Rejected(INVALID)."""
    version = current_request().api_version
    asked = Query.of(request).all("platform") if version >= (1, 48) else ()
    if len(asked) > 1 and version < (1, 52):
        raise Rejected(
            Reason.INVALID,
            "multiple platform parameters are not supported in this API version; use API version 1.52 or later",
        )
    return tuple(decode_platform(text) for text in asked if text)


def _body() -> AsyncIterator[bytes]:
    """The request's body as it flows in. Taken here, because a stream is produced outside the request's context."""
    body = current_request().body

    async def chunks() -> AsyncIterator[bytes]:
        async for chunk in body:
            yield chunk

    return chunks()


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
