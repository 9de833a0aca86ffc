"""`/images/...` that moves images in and out: pull, import, load, save, push (IMG-01 to IMG-07, IMG-14 to IMG-16)."""

from __future__ import annotations

from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.values.platform import Platform
from engine.api.app import EngineApp
from engine.api.context import ApiContext
from engine.api.image_names import pull_reference, push_reference, tag_reference
from engine.api.image_platforms import decode_platform, platform_of
from engine.api.params import Query, cause_of, forgiven_credentials
from engine.api.responses import Response
from engine.api.streams import Emit, current_request, eager_raw_response, progress_stream, request
from engine.errors import PortError

TAR = "application/x-tar"
NO_CREDENTIALS = "no basic auth credentials"


def register(app: EngineApp, context: ApiContext) -> None:
    @app.route("/images/create", methods=["POST"])
    async def create() -> Response:
        query = Query.of(request)
        wanted = platform_of(context, query.text("platform")) if current_request().api_version >= (1, 32) else None
        if query.text("fromImage"):
            return await _pull(context, query, wanted)
        return await _import(context, query, wanted)

    @app.route("/images/load", methods=["POST"])
    async def load() -> Response:
        cause, body = cause_of(request), current_request().body
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
    body, cause = current_request().body, cause_of(request)
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
