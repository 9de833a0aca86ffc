"""`/images/...`: list, inspect, history, pull, push, import, load, save, tag, delete, prune (IMG-01 to IMG-18)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator

import msgspec
import trio
from msgspec.structs import replace
from quart import Response

from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.image import ImageState, ImageStatus
from engine.aggregates.values import platform as platforms
from engine.aggregates.values.ids import SHA256_DIGEST
from engine.aggregates.values.platform import Platform
from engine.aggregates.values.reference import TAG, Reference, parse
from engine.api.app import EngineApp, not_implemented
from engine.api.context import ApiContext
from engine.api.filters import Filters
from engine.api.image_removal import ImageRemovals, Record
from engine.api.params import Query, cause_of, forgiven_credentials
from engine.api.pruning import PRUNE_FILTERS, alone, prune_label_match, prune_until, tell_pruned
from engine.api.responses import empty, json_response
from engine.api.shapes import images as shapes
from engine.api.streams import Emit, current_request, eager_raw_response, progress_stream, request
from engine.errors import PortError

LIST_FILTERS = frozenset({"dangling", "label", "label!", "before", "since", "reference", "until"})
TAR = "application/x-tar"
NO_CREDENTIALS = "no basic auth credentials"


def register(app: EngineApp, context: ApiContext) -> None:
    removals = ImageRemovals(context)
    pruning = trio.Lock()

    @app.route("/images/json", methods=["GET"])
    async def list_images() -> Response:
        query, version = Query.of(request), current_request().api_version
        for wanted, since in (("manifests", (1, 47)), ("identity", (1, 54))):
            if version >= since and query.flag(wanted):
                raise not_implemented(f"listing images with {wanted}")
        found = filtered(context, query.filters(), every=query.flag("all"))
        shared = shapes.layer_uses(context.views.images) if version >= (1, 42) and query.flag("shared-size") else None
        return json_response([summary_of(context, state, shared) for state in found])

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
        _no_platform_choice()

        async def produce(emit: Emit) -> None:
            await context.images.load(body, emit, cause, quiet=quiet)

        return await progress_stream(produce, always_ok=True)

    @app.route("/images/get", methods=["GET"])
    async def save_many() -> Response:
        _no_platform_choice()
        return await eager_raw_response(context.images.save(Query.of(request).all("names"), cause_of(request)), TAR)

    @app.route("/images/<path:name>/get", methods=["GET"])
    async def save(name: str) -> Response:
        _no_platform_choice()
        return await eager_raw_response(context.images.save((name,), cause_of(request)), TAR)

    @app.route("/images/<path:name>/json", methods=["GET"])
    async def inspect(name: str) -> Response:
        query, version = Query.of(request), current_request().api_version
        manifests = version >= (1, 48) and query.flag("manifests")
        asked = query.text("platform") if version >= (1, 49) else ""
        if manifests and asked:
            raise Rejected(Reason.INVALID, "conflicting options: manifests and platform options cannot both be set")
        state = find(context, name)
        if asked:
            check_platform(state, name, decode_platform(asked))
        config = await context.images.config_of(state)
        return json_response(shapes.inspect(state, config, context.config.data_root, version))

    @app.route("/images/<path:name>/history", methods=["GET"])
    async def history(name: str) -> Response:
        state = find(context, name)
        asked = Query.of(request).text("platform")
        if asked and current_request().api_version >= (1, 48):
            check_platform(state, name, decode_platform(asked))
        return json_response(shapes.history(state, await context.images.config_of(state)))

    @app.route("/images/<path:name>/tag", methods=["POST"])
    async def tag(name: str) -> Response:
        query = Query.of(request)
        reference = tag_reference(query.text("repo"), query.text("tag"))
        if reference is None:
            raise Rejected(Reason.INVALID, "invalid reference format")
        if reference.familiar_name == "sha256":
            raise Rejected(Reason.INVALID, "refusing to create an ambiguous tag using digest algorithm as name")
        await context.images.tag(find(context, name).image_id, reference, cause_of(request))
        return empty(201)

    @app.route("/images/<path:name>/push", methods=["POST"])
    async def push(name: str) -> Response:
        query = Query.of(request)
        reference = push_reference(name, query.text("tag"))
        asked = query.text("platform")
        if asked and current_request().api_version >= (1, 46):
            check_platform(find(context, reference.familiar), reference.familiar, decode_platform(asked))
        credentials, cause = forgiven_credentials(request), cause_of(request)

        async def produce(emit: Emit) -> None:
            await context.images.push(reference, credentials, emit, cause)

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
        if current_request().api_version >= (1, 50) and query.all("platforms"):
            raise not_implemented("removing single platforms of an image")
        records = await removals.remove(
            name, force=query.flag("force"), prune=not query.flag("noprune"), cause=cause_of(request)
        )
        return json_response(records)


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
    if source != "-":
        raise not_implemented("importing an image from a URL")
    body, cause = _body(), cause_of(request)
    message = query.text("message") or f"Imported from {source}"
    changes = query.all("changes")

    async def produce(emit: Emit) -> None:
        image_id = await context.images.import_image(
            body, reference, platform or context.images.host_platform, message, changes, cause
        )
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


def platform_of(context: ApiContext, text: str) -> Platform | None:
    return platforms.parse(text, context.images.host_platform) if text else None


class _PlatformParameter(msgspec.Struct, frozen=True):
    os: str = ""
    architecture: str = ""
    variant: str = ""


def decode_platform(text: str) -> Platform:
    """The JSON form that inspect and history take: `{"os":"linux","architecture":"arm64"}`."""
    try:
        wanted = msgspec.json.decode(text, type=_PlatformParameter)
    except msgspec.MsgspecError as error:
        raise Rejected(Reason.INVALID, f"failed to parse platform: {error}") from error
    if not wanted.os or not wanted.architecture:
        raise Rejected(Reason.INVALID, "both OS and Architecture must be provided")
    return Platform(os=wanted.os, architecture=wanted.architecture, variant=wanted.variant).normalized


def check_platform(state: ImageState, name: str, wanted: Platform) -> None:
    if state.platform is not None and state.platform.normalized not in platforms.fallbacks(wanted):
        raise Rejected(
            Reason.NOT_FOUND,
            f"image with reference {name} was found but its platform ({state.platform}) does not match the specified "
            f"platform ({wanted})",
        )


def _no_platform_choice() -> None:
    """save and load of single platforms: an image here has one."""
    version = current_request().api_version
    asked = Query.of(request).all("platform") if version >= (1, 48) else ()
    if len(asked) > 1 and version < (1, 52):
        raise Rejected(
            Reason.INVALID,
            "multiple platform parameters are not supported in this API version; use API version 1.52 or later",
        )
    if any(asked):
        raise not_implemented("choosing a platform of an archive")


def _body() -> AsyncIterator[bytes]:
    """The request's body as it flows in. Taken here, because a stream is produced outside the request's context."""
    body = current_request().body

    async def chunks() -> AsyncIterator[bytes]:
        async for chunk in body:
            yield chunk

    return chunks()


# -- list --------------------------------------------------------------------------------------------------------------


def find(context: ApiContext, name: str) -> ImageState:
    state = context.views.images.find(name)
    assert isinstance(state, ImageState)
    return state


def summary_of(context: ApiContext, state: ImageState, shared: Counter[str] | None) -> dict[str, object]:
    users = len(context.views.containers.using_image(state.image_id))
    facts = shapes.ListFacts(containers=users, shared=shared)
    return shapes.summary(state, facts, current_request().api_version)


def filtered(context: ApiContext, filters: Filters, *, every: bool) -> list[ImageState]:
    """IMG-08, newest first."""
    filters.validate(LIST_FILTERS)
    dangling = filters.boolean("dangling", default=False) if "dangling" in filters else None
    before = _limit(context, filters, "before")
    since = _limit(context, filters, "since")
    until = prune_until(filters, context.clock.now_ns())
    parents = {state.parent for state in context.views.images}
    found = [
        state
        for state in context.views.images
        if state.status is ImageStatus.READY
        and (before is None or state.created_at < before)
        and (since is None or state.created_at > since)
        and (until is None or state.created_at <= until)
        and prune_label_match(filters, state.labels)
        and ("reference" not in filters or _named(_narrowed(filters, state)))
        and (dangling is None or dangling == (not state.references))
        and (every or _named(state) or state.image_id not in parents)
    ]
    if "reference" in filters:
        found = [_narrowed(filters, state) for state in found]
    return sorted(found, key=lambda state: (state.created_at, state.added_at), reverse=True)


def _named(state: ImageState) -> bool:
    return bool(state.references or state.repository_digests)


def _limit(context: ApiContext, filters: Filters, key: str) -> int | None:
    """The creation of the image a filter names; of the last one, as in moby."""
    moments = [find(context, name).created_at for name in filters.get(key)]
    return moments[-1] if moments else None


def _narrowed(filters: Filters, state: ImageState) -> ImageState:
    """With those of its names alone that fit one of the patterns, as `name` or as `name:tag`; `*` stays within a
    component. Source: moby daemon/images/images.go."""
    expressions = [_glob(pattern) for pattern in filters.get("reference")]

    def fits(name: str) -> bool:
        reference = parse(name)
        return any(e.fullmatch(reference.familiar) or e.fullmatch(reference.familiar_name) for e in expressions)

    return replace(
        state,
        references=frozenset(filter(fits, state.references)),
        repository_digests=frozenset(filter(fits, state.repository_digests)),
    )


def _glob(pattern: str) -> re.Pattern[str]:
    """Go's path.Match as a regular expression. Raises Rejected(INVALID) for one that does not compile."""
    translated = ""
    for part in re.findall(r"\\.|\[\^?[^\]]*\]|.", pattern):
        if part == "*":
            translated += "[^/]*"
        elif part == "?":
            translated += "[^/]"
        elif part.startswith("[") and len(part) > 1:
            translated += part
        else:
            translated += re.escape(part[-1])
    try:
        return re.compile(translated)
    except re.error as error:
        raise Rejected(Reason.INVALID, "syntax error in pattern") from error


# -- prune -------------------------------------------------------------------------------------------------------------


async def _prune(context: ApiContext, removals: ImageRemovals, filters: Filters) -> dict[str, object]:
    """IMG-18: with dangling (the default) those without a tag, else all that no container uses."""
    dangling = filters.boolean("dangling", default=True)
    until = prune_until(filters, context.clock.now_ns())
    deleted: list[Record] = []
    reclaimed = 0
    for state in context.views.images:
        if state.status is not ImageStatus.READY or (dangling and state.references):
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
