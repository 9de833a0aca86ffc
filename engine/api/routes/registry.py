"""`/auth` and `/distribution/...`: what is asked of a registry itself (IMG-19, IMG-20)."""

from __future__ import annotations

import msgspec
from quart import Response

from engine.api.app import EngineApp, not_implemented
from engine.api.bodies import decode_body
from engine.api.context import ApiContext
from engine.api.responses import json_response
from engine.api.streams import request
from engine.drivers.ports.registry import Credentials


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
        raise not_implemented("asking a registry about an image")
