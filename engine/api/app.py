"""The quart application: from a request to a route and back, in Docker's manner.

Owns the pipeline of one request (version, route, errors, headers) and the flow of its body. Refuses to know what any
route does. Quart's hooks, sessions and signals are left out: one method below shows all that happens.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, cast

import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, HTTPScope
from quart.routing import QuartRule
from quart.utils import encode_headers
from quart.wrappers import Request
from quart.wrappers import Response as QuartResponse
from quart.wrappers.response import DataBody
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection
from quart_trio.wrappers.request import TrioBody, TrioRequest
from werkzeug.routing import MapAdapter

from engine.aggregates.decider import Reason, Rejected
from engine.api import errors, plain, versions
from engine.api.context import ApiContext
from engine.api.responses import empty
from engine.api.server import correlation_of
from engine.api.streams import serving

BODY_UNREAD_BYTES_MAX = 1 << 20
EARLY_PATHS = frozenset({"/_ping", "/version"})
"""Answered while the start-up still recovers."""


class FlowingBody(TrioBody):
    """A request's body that holds its sender back while the route has more than 1 MiB unread."""

    def __init__(self, expected_content_length: int | None, max_content_length: int | None) -> None:
        super().__init__(expected_content_length, max_content_length)
        self._drained = trio.Event()
        self._collecting = False

    async def room(self) -> None:
        """Wait until the route has read what there is, if that is much."""
        while len(self._data) > BODY_UNREAD_BYTES_MAX and not self._collecting:
            self._drained = trio.Event()
            await self._drained.wait()

    async def __anext__(self) -> bytes:
        """All there is, without quart's copy: archives of gigabytes come this way."""
        if not self._complete.is_set():
            await self._has_data.wait()
        if not self._data:
            raise StopAsyncIteration
        data, self._data = self._data, bytearray()
        self._has_data.clear()
        self._drained.set()
        return cast(bytes, data)

    def __await__(self) -> Any:
        self._collecting = True  # the route wants the whole body at once: let it come
        self._drained.set()
        return super().__await__()


class EngineRequest(TrioRequest):
    """A request with what the engine adds: `api_version`, and the `nursery` its work runs in."""

    body_class = FlowingBody
    nursery: trio.Nursery

    @property
    def api_version(self) -> versions.ApiVersion:
        return cast(versions.ApiVersion, self.scope["state"]["api_version"])

    @property
    def correlation(self) -> str:
        return cast(str, self.scope["state"]["correlation"])


class EngineConnection(TrioASGIHTTPConnection):
    """One request: its messages beside its route, in a nursery that ends with either."""

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        request = cast(EngineRequest, self._create_request_from_scope(send))
        async with trio.open_nursery() as nursery:
            request.nursery = nursery
            nursery.start_soon(self.handle_messages, nursery, request, receive)
            response = await cast(EngineApp, self.app).handle_request(request)
            await self._send_response(send, response)
            nursery.cancel_scope.cancel()

    async def _send_response(self, send: ASGISendCallable, response: Any) -> None:
        """A body that is all there leaves in one message."""
        if not (isinstance(response, QuartResponse) and isinstance(response.response, DataBody)):
            await super()._send_response(send, response)
            return
        headers = encode_headers(response.headers)
        await send(cast(Any, {"type": "http.response.start", "status": response.status_code, "headers": headers}))
        await send(cast(Any, {"type": "http.response.body", "body": response.response.data, "more_body": False}))

    async def handle_messages(  # type: ignore[override]  # quart-trio adds the nursery in front
        self, nursery: trio.Nursery, request: Request, receive: ASGIReceiveCallable
    ) -> None:
        body = cast(FlowingBody, request.body)
        while (message := await receive())["type"] == "http.request":
            body.append(cast(dict[str, Any], message).get("body", b""))
            if not cast(dict[str, Any], message).get("more_body", False):
                body.set_complete()
            else:
                await body.room()
        nursery.cancel_scope.cancel()


def _understand(scope: Any) -> None:
    """The version goes from the path into the state, with what names the request in the log."""
    text, scope["path"] = versions.split(scope["path"])
    scope["state"] = {
        **scope.get("state", {}),
        "version": text,
        "api_version": versions.API_VERSION_MAX,
        "correlation": correlation_of(scope["headers"]),
    }


async def _unused(message: Any) -> None:
    """Where an HTTP/2 push would go."""


DirectRoute = Callable[[], tuple[int, Sequence[tuple[str, str]], bytes]]
"""Status, headers and body; the common headers included."""


class EngineRule(QuartRule):
    """A route that is only matched. werkzeug also compiles two functions for each that build URLs from arguments, which
    nobody here does and every start would wait for (0.1 s for 170)."""

    def _compile_builder(self, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:
        return _no_url


def _no_url(*_: object, **__: object) -> tuple[str, str]:
    raise NotImplementedError("this application builds no URLs")


class EngineApp(QuartTrio):
    """See the module. `create_app` makes it."""

    asgi_http_class = EngineConnection
    url_rule_class = EngineRule  # type: ignore[assignment]  # as quart itself does with its own
    request_class = EngineRequest
    ready: Callable[[], bool] = staticmethod(lambda: True)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.direct_routes: dict[tuple[str, str], DirectRoute] = {}
        """(method, path) -> answers to plain requests that need nothing but a version we know (`_ping`)."""

    def add_url_rule(self, rule: str, endpoint: str | None = None, *rest: Any, **options: Any) -> None:
        """Views are named by their module, too: `create` is a fine name in several of them."""
        view = rest[0] if rest else options.get("view_func")
        if endpoint is None and view is not None:
            endpoint = f"{view.__module__}:{view.__name__}"
        super().add_url_rule(rule, endpoint, *rest, **options)

    async def asgi_app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] in ("http", "websocket"):
            _understand(scope)
        await super().asgi_app(scope, receive, send)

    async def serve_plain(self, scope: Any, body: bytes, write: Callable[[bytes], Awaitable[None]]) -> None:
        """A request that has come whole (plain.py): its answer is written as it leaves the route."""
        _understand(scope)
        direct = self.direct_routes.get((scope["method"], scope["path"]))
        if direct is not None and self._is_known(scope["state"]["version"]):
            status, headers, answer = direct()
            await write(plain.head(status, headers) + answer)
            return
        request = cast(EngineRequest, EngineConnection(self, scope)._create_request_from_scope(_unused))
        request.body.append(body)
        request.body.set_complete()
        async with trio.open_nursery() as nursery:
            request.nursery = nursery
            response = await self.handle_request(request)
            async with aclosing(plain.pieces(request.method, response)) as pieces:
                async for piece in pieces:
                    await write(piece)
            nursery.cancel_scope.cancel()

    @staticmethod
    def _is_known(version: str) -> bool:
        try:
            versions.check(version)
        except Rejected:
            return False
        return True

    async def handle_request(self, request: Request) -> Any:
        """The whole pipeline. Cancelled passes through: the client has gone, nobody is there to be answered."""
        serving.set(cast(EngineRequest, request))
        try:
            self._admit(request)
            response = await self._dispatch(request)
        except Exception as error:
            response = errors.render(error)
        for name, value in versions.COMMON_HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    def _admit(self, request: Request) -> None:
        """Raises Rejected for a version out of range, and for all but a few paths while the engine starts."""
        state = cast(HTTPScope, request.scope)["state"]
        state["api_version"] = versions.check(cast(str, state["version"]))
        if not self.ready() and request.path not in EARLY_PATHS:
            raise Rejected(Reason.UNAVAILABLE, "the engine is starting: it recovers what ran before")

    async def _dispatch(self, request: Request) -> QuartResponse:
        """Quart's contexts, which this replaces, cost as much as a small route: nothing here has a session, a flash
        message or a handler to be told of it."""
        if request.method == "OPTIONS":
            return empty(200)  # any path (API-16)
        endpoint, arguments = self._adapter.match(request.path, request.method)
        view = cast(Callable[..., Awaitable[QuartResponse]], self.view_functions[endpoint])
        return await view(**arguments)

    @functools.cached_property
    def _adapter(self) -> MapAdapter:
        return self.url_map.bind("")


def create_app(context: ApiContext) -> EngineApp:
    """The application with the routes of this package; others add theirs with their own `register(app, context)`."""
    from engine.api.routes import absent, events, system  # here: routes import this module's types

    app = EngineApp("engine", static_folder=None, root_path="/")  # there are no files to serve
    app.ready = context.ready
    app.config.update(MAX_CONTENT_LENGTH=None, BODY_TIMEOUT=None, RESPONSE_TIMEOUT=None)
    app.url_map.merge_slashes = False  # a redirect is nothing a Docker client follows
    system.register(app, context)
    events.register(app, context)
    absent.register(app)
    return app


def not_implemented(what: str) -> Rejected:
    """What a route raises for a part of the API that is not there."""
    return Rejected(Reason.NOT_IMPLEMENTED, f"{what} is not implemented")
