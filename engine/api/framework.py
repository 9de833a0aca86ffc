"""The application for a server that speaks ASGI: quart, around the same pipeline.

Owns the flow of a request's body, and an answer's way out. Quart's own routes, hooks, sessions and signals are left
out: app.py decides. Loaded when the first request comes that is not plain (machinery.py).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable
from quart import Request as QuartRequest
from quart import Response as QuartResponse
from quart.utils import encode_headers
from quart.wrappers.response import DataBody
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection
from quart_trio.wrappers.request import TrioRequest

from engine.api.app import EngineApp, understood
from engine.api.request import Body, Request
from engine.api.responses import WITHOUT_BODY, Piece, Response, closing


class FlowingBody(Body):
    """Made as quart makes bodies. There is no limit: archives of any size come this way."""

    def __init__(self, expected_content_length: int | None, max_content_length: int | None) -> None:
        super().__init__()


class FlowingRequest(TrioRequest):
    body_class = FlowingBody  # type: ignore[assignment]  # it has all that is used of quart's
    nursery: trio.Nursery


class Connection(TrioASGIHTTPConnection):
    """One request: its messages beside its route, in a nursery that ends with either."""

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        request = cast(FlowingRequest, self._create_request_from_scope(send))
        async with trio.open_nursery() as nursery:
            request.nursery = nursery
            nursery.start_soon(self.handle_messages, nursery, request, receive)
            response = await cast(Framework, self.app).handle_request(request)
            await self._send_response(send, response)
            nursery.cancel_scope.cancel()

    async def _send_response(self, send: ASGISendCallable, response: Any) -> None:
        """A body that is all there leaves in one message."""
        if not isinstance(response.response, DataBody):
            await super()._send_response(send, response)
            return
        headers = encode_headers(response.headers)
        await send(cast(Any, {"type": "http.response.start", "status": response.status_code, "headers": headers}))
        await send(cast(Any, {"type": "http.response.body", "body": response.response.data, "more_body": False}))

    async def handle_messages(  # type: ignore[override]  # quart-trio adds the nursery in front
        self, nursery: trio.Nursery, request: QuartRequest, receive: ASGIReceiveCallable
    ) -> None:
        body = cast(FlowingBody, request.body)
        while (message := await receive())["type"] == "http.request":
            body.append(cast(dict[str, Any], message).get("body", b""))
            if not cast(dict[str, Any], message).get("more_body", False):
                body.set_complete()
            else:
                await body.room()
        nursery.cancel_scope.cancel()


class Framework(QuartTrio):
    """Quart as the carrier of an EngineApp."""

    asgi_http_class = Connection
    request_class = FlowingRequest

    def __init__(self, app: EngineApp) -> None:
        super().__init__("engine", static_folder=None, root_path="/")  # there are no files to serve
        self._engine = app
        self.config.update(MAX_CONTENT_LENGTH=None, BODY_TIMEOUT=None, RESPONSE_TIMEOUT=None)

    async def asgi_app(self, scope: Any, receive: Any, send: Any) -> None:
        await super().asgi_app(cast(Any, understood(scope)) if scope["type"] == "http" else scope, receive, send)

    async def handle_request(self, request: QuartRequest) -> QuartResponse:
        flowing = cast(FlowingRequest, request)
        scope = cast(dict[str, Any], flowing.scope)
        return _as_quart(await self._engine.answer(Request(scope, cast(Body, flowing.body), flowing.nursery)))


def _as_quart(response: Response) -> QuartResponse:
    """Quart would add headers of its own choice."""
    body = response.body if isinstance(response.body, bytes) else _generated(response.body)
    made = QuartResponse(body, status=response.status)
    for name in ("Content-Type", *(("Content-Length",) if response.status in WITHOUT_BODY else ())):
        made.headers.pop(name, None)
    made.headers.update(response.headers)
    return made


async def _generated(body: AsyncIterator[Piece]) -> AsyncIterator[bytes]:
    """Quart takes generators for streams, and nothing else."""
    async with closing(body):
        async for piece in body:
            for part in (piece,) if isinstance(piece, bytes) else piece:
                yield part
