"""The plain requests of one connection, one after another (plain.py says what is plain).

Owns what a client has sent and nobody has taken yet: the rest of a body, a request behind the one that runs, the first
bytes of a stream to be. Everything else goes on to hypercorn, in order. While a request's body is read by others
(upload.py), nothing is taken here, and its client is not seen to leave. Refuses to know: sockets, routes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from engine.api import plain
from engine.api.plain import Plain

BEHIND_BYTES_MAX = 1 << 16
"""What may wait behind a request that runs before its client is not read any more."""


class Lane:
    """serve: answers one request; it is cancelled when the client leaves. rested: called when none is left. pass_on:
    takes what is not plain, until `reopen`."""

    def __init__(
        self,
        nursery: trio.Nursery,
        serve: Callable[[Plain], Awaitable[None]],
        rested: Callable[[], Awaitable[None]],
        pass_on: Callable[[bytes], Awaitable[None]],
    ) -> None:
        self._nursery = nursery
        self._serve = serve
        self._rested = rested
        self._pass_on = pass_on
        self._behind = bytearray()
        self._running: trio.CancelScope | None = None
        self._closed = False
        self._given_away = False
        self._drained = trio.Event()
        self._body_over = trio.Event()
        self._body_over.set()

    @property
    def idle(self) -> bool:
        """Nothing runs, and nothing has begun to come."""
        return self._running is None and not self._behind and not self._closed

    @property
    def running(self) -> bool:
        return self._running is not None

    async def take(self, data: bytes) -> None:
        """What the client has sent, in order. Holds it back while much waits behind a request that runs."""
        if self._running is None and self._closed:
            await self._pass_on(data)
            return
        self._behind += data
        if self._running is None:
            request = await self._next(uploads=True)
            if request is not None:
                self._running = trio.CancelScope()
                self._nursery.start_soon(self._run, request, self._running)
                if request.flow is not None:
                    self._body_over = trio.Event()
                    await self._body_over.wait()
            return
        while self._running is not None and len(self._behind) > BEHIND_BYTES_MAX:
            await self._drained.wait()

    async def end(self) -> None:
        """The client has said all. What it had begun to say is not plain."""
        if self._running is None:
            data, self._behind, self._closed = bytes(self._behind), bytearray(), True
            for part in (data, b"") if data else (b"",):
                await self._pass_on(part)

    def reopen(self) -> None:
        """What was not plain is over, down to its last byte."""
        self._closed = False

    def leave(self) -> None:
        """The client is gone: so is what runs for it, unless that has its socket."""
        if self._running is not None and not self._given_away:
            self._running.cancel()

    def give_away(self) -> bytes:
        """The running request takes the connection over; the result is what came behind it."""
        self._given_away = True
        early, self._behind = bytes(self._behind), bytearray()
        return early

    def early(self) -> bytes:
        """What came of the body of the running request. The rest is its own to read, until `body_is_over`."""
        early, self._behind = bytes(self._behind), bytearray()
        return early

    def body_is_over(self, behind: bytes) -> None:
        """behind: what was read of the next request."""
        self._behind += behind
        self._body_over.set()

    async def _run(self, first: Plain, scope: trio.CancelScope) -> None:
        request: Plain | None = first
        while request is not None:
            with scope:
                await self._serve(request)
            if scope.cancelled_caught or self._given_away or not self._body_over.is_set():
                self._body_over.set()
                return  # and running for good: nothing is served on this connection any more
            request = await self._next(uploads=False)
            if request is not None:
                self._running = scope = trio.CancelScope()
        self._running = None
        self._drained.set()
        await self._rested()

    async def _next(self, *, uploads: bool) -> Plain | None:
        """The request that is there; what is none is passed on, with all that comes meanwhile. uploads: whether its
        body may be read by others, which asks for a reader of the connection that is at rest."""
        while self._behind:
            found = None if self._closed else plain.read(bytes(self._behind))
            if isinstance(found, Plain) and found.flow is not None and not uploads:
                found = None
            if found is plain.UNFINISHED:
                break
            self._drained.set()
            self._drained = trio.Event()
            if isinstance(found, Plain):
                del self._behind[: found.size]
                return found
            self._closed = True
            data, self._behind = bytes(self._behind), bytearray()
            await self._pass_on(data)
        return None
