"""A request as routes see it, whoever read it from the socket.

Owns: headers, query and body of one request, what the engine knows of it (version, correlation), and what runs beside
it. Refuses to know: sockets, protocols, frameworks.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any, cast
from urllib.parse import parse_qsl

import trio

from engine.api.versions import ApiVersion

BODY_UNREAD_BYTES_MAX = 1 << 20


class Headers:
    """The header fields, by name in any letter case. Of a repeated one the first counts."""

    def __init__(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._values: dict[str, str] = {}
        for name, value in headers:
            self._values.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))

    def get(self, name: str, default: str = "") -> str:
        return self._values.get(name.lower(), default)

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._values

    def items(self) -> Iterator[tuple[str, str]]:
        """(name in lower case, value)."""
        return iter(self._values.items())


class Body:
    """The bytes of a request on their way to its route. They are read as pieces or as a whole, once."""

    def __init__(self, data: bytes | None = None) -> None:
        """data: all of it, when it has come already."""
        self._data = bytearray(data or b"")
        self._complete = data is not None
        self._arrived, self._drained = trio.Event(), trio.Event()
        self._wanted_whole = False

    @property
    def over(self) -> bool:
        """Whether all of it has come."""
        return self._complete

    # -- the side of the socket --------------------------------------------------------------------------------------

    def append(self, data: bytes) -> None:
        self._data += data
        self._arrived.set()

    def set_complete(self) -> None:
        self._complete = True
        self._arrived.set()

    async def room(self) -> None:
        """Hold the sender back while the route has more than 1 MiB unread."""
        while len(self._data) > BODY_UNREAD_BYTES_MAX and not self._wanted_whole:
            self._drained = trio.Event()
            await self._drained.wait()

    # -- the side of the route ---------------------------------------------------------------------------------------

    def __aiter__(self) -> Body:
        return self

    async def __anext__(self) -> bytes:
        """All that there is: archives of gigabytes come this way, and are not copied."""
        while not self._data and not self._complete:
            await self._more()
        if not self._data:
            raise StopAsyncIteration
        data, self._data = self._data, bytearray()
        self._drained.set()
        return cast(bytes, data)

    async def whole(self) -> bytes:
        self._wanted_whole = True
        self._drained.set()
        while not self._complete:
            await self._more()
        data, self._data = bytes(self._data), bytearray()
        return data

    async def _more(self) -> None:
        self._arrived = trio.Event()
        await self._arrived.wait()


class Request:
    """scope: as ASGI describes a request, with the engine's own `state` in it. nursery: lives at least as long."""

    def __init__(self, scope: Mapping[str, Any], body: Body, nursery: trio.Nursery) -> None:
        self.scope, self.body = scope, body
        self._nursery = nursery
        self._beside: list[trio.CancelScope] = []
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers = Headers(scope["headers"])

    def beside(self, work: Callable[[], Awaitable[None]], name: str) -> None:
        """Run something until it ends or the request does, whichever comes first."""
        scope = trio.CancelScope()
        self._beside.append(scope)

        async def run() -> None:
            with scope:
                await work()

        self._nursery.start_soon(run, name=name)

    def end(self) -> None:
        """It is answered, or will not be: nothing runs beside it any more."""
        for scope in self._beside:
            scope.cancel()

    @property
    def state(self) -> Mapping[str, Any]:
        """What the connection knows (peer, server) and the application has understood."""
        return cast(Mapping[str, Any], self.scope["state"])

    @property
    def http_version(self) -> str:
        return cast(str, self.scope["http_version"])

    @property
    def api_version(self) -> ApiVersion:
        return cast(ApiVersion, self.state["api_version"])

    @functools.cached_property
    def query(self) -> dict[str, list[str]]:
        """The values of each key, in order. What is no UTF-8 becomes U+FFFD."""
        values: dict[str, list[str]] = {}
        text = self.scope["query_string"].decode("latin-1")
        for key, value in parse_qsl(text, keep_blank_values=True, errors="replace"):
            values.setdefault(key, []).append(value)
        return values
