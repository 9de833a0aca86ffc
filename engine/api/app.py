"""The application: from a request to a route and back, in Docker's manner.

Owns the pipeline of one request (version, route, errors, headers). Refuses to know what any route does, and who read
the request: plain ones come from lane.py, the others through hypercorn and quart (framework.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

import trio

from engine.aggregates.decider import Reason, Rejected
from engine.api import errors, plain, versions
from engine.api.context import ApiContext
from engine.api.peer import correlation_of
from engine.api.request import Body, Request
from engine.api.responses import Response, empty
from engine.api.routing import Routes, View
from engine.api.streams import serving

EARLY_PATHS = frozenset({"/_ping", "/version"})
"""Answered while the start-up still recovers."""

DirectRoute = Callable[[], tuple[int, Sequence[tuple[str, str]], bytes]]
"""Status, headers and body; the common headers included."""
ViewT = TypeVar("ViewT", bound=View)


def understood(scope: Mapping[str, Any]) -> dict[str, Any]:
    """The scope with the version moved from the path into the state, beside what names the request in the log."""
    text, path = versions.split(scope["path"])
    state = {
        **scope.get("state", {}),
        "version": text,
        "api_version": versions.API_VERSION_MAX,
        "correlation": correlation_of(scope["headers"]),
    }
    return {**scope, "path": path, "state": state}


class EngineApp:
    """See the module. `create_app` makes it. ready: whether the start is over."""

    def __init__(self, ready: Callable[[], bool]) -> None:
        self.ready = ready
        self.routes = Routes()
        self.direct_routes: dict[tuple[str, str], DirectRoute] = {}
        """(method, path) -> answers to plain requests that need nothing but a version we know (`_ping`)."""
        self.past: Callable[[Request], Awaitable[Response]] | None = None
        """What answers requests with `at` among their parameters (past.py)."""
        self.refusal = ""
        """Why nothing may be changed; "" when everything may."""

    def route(self, pattern: str, *, methods: Iterable[str]) -> Callable[[ViewT], ViewT]:
        """Decorator: what answers a pattern (routing.py) and these methods. A GET also answers HEAD."""

        def added(view: ViewT) -> ViewT:
            self.routes.add(pattern, view, methods)
            return view

        return added

    async def serve_plain(
        self, scope: Mapping[str, Any], body: Body, nursery: trio.Nursery, write: Callable[[bytes], Awaitable[None]]
    ) -> None:
        """A request as plain.py reads it: its answer is written as it leaves the route. nursery: its connection's."""
        scope = understood(scope)
        direct = self.direct_routes.get((scope["method"], scope["path"]))
        if direct is not None and not scope["query_string"] and self._is_known(scope["state"]["version"]):
            status, headers, answer = direct()
            await write(plain.head(status, headers) + answer)
            return
        request = Request(scope, body, nursery)
        try:
            response = await self.answer(request)
            if not body.over:
                response.headers["Connection"] = "close"  # where the next request would begin nobody knows
            if isinstance(response.body, bytes):
                await write(plain.whole(request.method, response, response.body))
                return
            async with aclosing(plain.pieces(request.method, response, response.body)) as pieces:
                async for piece in pieces:
                    await write(piece)
        finally:
            request.end()

    @staticmethod
    def _is_known(version: str) -> bool:
        try:
            versions.check(version)
        except Rejected:
            return False
        return True

    async def answer(self, request: Request) -> Response:
        """The whole pipeline. Cancelled passes through: the client has gone, nobody is there to be answered."""
        serving.set(request)
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
        state = request.scope["state"]
        state["api_version"] = versions.check(state["version"])
        if not self.ready() and request.path not in EARLY_PATHS:
            raise Rejected(Reason.UNAVAILABLE, "the engine is starting: it recovers what ran before")

    async def _dispatch(self, request: Request) -> Response:
        if request.method == "OPTIONS":
            return empty(200)  # any path (API-16)
        if self.refusal and request.method not in ("GET", "HEAD"):
            raise Rejected(Reason.UNAVAILABLE, self.refusal)
        if self.past is not None and b"at=" in request.scope["query_string"] and "at" in request.query:
            return await self.past(request)
        view, arguments = self.routes.match(request.method, request.path)
        return await view(**arguments)


def create_app(context: ApiContext) -> EngineApp:
    """The application with the routes of this package; others add theirs with their own `register(app, context)`."""
    from engine.api.routes import absent, events, system  # here: routes import this module's types

    app = EngineApp(context.ready)
    system.register(app, context)
    events.register(app, context)
    absent.register(app)
    return app


def not_implemented(what: str) -> Rejected:
    """What a route raises for a part of the API that is not there."""
    return Rejected(Reason.NOT_IMPLEMENTED, f"{what} is not implemented")
