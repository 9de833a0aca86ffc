"""`/auth`, `/distribution/...`, `/images/search`: what is asked of a registry itself (IMG-17, IMG-19, IMG-20)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast

import msgspec
from msgspec.structs import replace

from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.values.descriptor import Descriptor
from engine.aggregates.values.manifest import ImageIndex, parse_manifest
from engine.aggregates.values.reference import (
    DEFAULT_DOMAIN,
    LEGACY_DEFAULT_DOMAIN,
    OFFICIAL_REPOSITORY_PREFIX,
    Reference,
    parse,
)
from engine.api.app import EngineApp
from engine.api.bodies import decode_body
from engine.api.context import ApiContext
from engine.api.filters import Filters
from engine.api.params import Query, forgiven_credentials
from engine.api.responses import Response, json_response
from engine.api.shapes import distribution as shapes
from engine.api.streams import request
from engine.drivers.ports.registry import Credentials, Registry
from engine.errors import PortError

SEARCH_FILTERS = frozenset({"is-automated", "is-official", "stars"})
SEARCH_LIMIT_DEFAULT, SEARCH_LIMIT_MAX = 25, 100
CONFIG_BYTES_MAX = 8 << 20


class AuthBody(msgspec.Struct, frozen=True, kw_only=True):
    """Docker's AuthConfig, whose keys are all in small letters."""

    username: str = ""
    password: str = ""
    serveraddress: str = ""
    identitytoken: str = ""
    registrytoken: str = ""

    def __repr__(self) -> str:
        return "AuthBody(***)"


def register(app: EngineApp, context: ApiContext) -> None:
    @app.route("/auth", methods=["POST"])
    async def auth() -> Response:
        body = await decode_body(request, AuthBody)
        credentials = Credentials(
            username=body.username,
            password=body.password,
            identity_token=body.identitytoken,
            registry_token=body.registrytoken,
        )
        token = await context.ports.registry.login(body.serveraddress, credentials)
        return json_response({"Status": "Login Succeeded", "IdentityToken": token})

    @app.route("/distribution/<path:name>/json", methods=["GET"])
    async def distribution(name: str) -> Response:
        reference, credentials = parse(name).with_default_tag(), forgiven_credentials(request)
        registry: Registry = context.ports.registry
        found = await registry.manifest(reference, credentials, to_pull=False)
        parsed = parse_manifest(found.body, found.descriptor.media_type)
        if isinstance(parsed, ImageIndex):
            platforms = shapes.index_platforms(found.body)
        else:
            platforms = shapes.config_platforms(await _config(registry, reference, parsed.config, credentials))
        return json_response(shapes.inspect(found.descriptor, parsed.media_type, platforms))

    @app.route("/images/search", methods=["GET"])
    async def search() -> Response:
        query, credentials = Query.of(request), forgiven_credentials(request)
        filters = query.filters().validate(SEARCH_FILTERS)
        official, stars = filters.boolean("is-official", default=False), _stars(filters)
        if filters.boolean("is-automated", default=False):
            return json_response([])  # there are no automated builds any more, says moby.
        domain, term = search_place(query.text("term"))
        limit = _limit(query.text("limit"))
        registry: Registry = context.ports.registry
        found = await registry.search(domain, term, limit, credentials)
        return json_response(
            [
                replace(result, is_automated=False)
                for result in found
                if ("is-official" not in filters or result.is_official == official) and result.star_count >= stars
            ]
        )


async def _config(
    registry: Registry, reference: Reference, descriptor: Descriptor, credentials: Credentials | None
) -> bytes:
    """The configuration of an image that is not here, verified; b"" for one that is none's or is not there."""
    body = b""
    try:
        blob = cast("AsyncGenerator[bytes]", registry.blob(reference, descriptor.digest, credentials))
        async with aclosing(blob):
            async for part in blob:
                body += part
                if len(body) > CONFIG_BYTES_MAX:
                    return b""
    except PortError:
        return b""
    return body if descriptor.digest == "sha256:" + hashlib.sha256(body).hexdigest() else b""


def search_place(text: str) -> tuple[str, str]:
    """(registry, term) of what a user searches: `ubuntu`, `registry.example.com/team/app`. Raises Rejected(INVALID)."""
    if "://" in text:
        words = f"invalid repository name: repository name ({text}) should not have a scheme"
        raise Rejected(Reason.INVALID, words)
    head, slash, rest = text.partition("/")
    if not slash or ("." not in head and ":" not in head and head != "localhost"):
        head, rest = DEFAULT_DOMAIN, text
    if head in (DEFAULT_DOMAIN, LEGACY_DEFAULT_DOMAIN):
        return DEFAULT_DOMAIN, rest.removeprefix(OFFICIAL_REPOSITORY_PREFIX)
    return parse(f"{head}/any").domain, rest  # refused when it is no host.


def _limit(text: str) -> int:
    """0 and nothing mean moby's default. Raises Rejected(INVALID)."""
    limit = _number(text, "invalid limit specified") if text else 0
    if limit and not 1 <= limit <= SEARCH_LIMIT_MAX:
        raise Rejected(Reason.INVALID, f"limit {limit} is outside the range of [1, {SEARCH_LIMIT_MAX}]")
    return limit or SEARCH_LIMIT_DEFAULT


def _stars(filters: Filters) -> int:
    return max((_number(text, f"invalid filter 'stars={text}'") for text in filters.get("stars")), default=0)


def _number(text: str, refusal: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        raise Rejected(Reason.INVALID, f'{refusal}: strconv.Atoi: parsing "{text}": invalid syntax')
    return int(text)
