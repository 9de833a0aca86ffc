"""The body of an archive: read from the client's socket piece by piece, or by somebody else, to whom that is lent.

While such a request runs nobody but its body reads the connection (lane.py); when the body is over, what came behind it
goes back, and the connection is as before. A body that is not read to its end ends the connection.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from engine.aggregates.decider import Reason, Rejected
from engine.api.plain import Flow
from engine.api.request import Body
from engine.drivers.ports.uploads import Loan
from engine.framing import Framing, FramingError

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Connection(Protocol):
    """Of a client whose request has come down to the end of its head."""

    def socket(self) -> int: ...

    def early(self) -> bytes:
        """What came behind the head; it is nobody else's afterwards."""

    async def receive(self) -> bytes:
        """What comes next; b"" at the end of the client's input."""

    async def send(self, data: bytes) -> None: ...

    def body_is_over(self, behind: bytes) -> None:
        """Others may read again: first what came behind the body."""


class UploadedBody(Body):
    """See engine/drivers/ports/uploads.py, Upload."""

    def __init__(self, flow: Flow, connection: Connection) -> None:
        super().__init__()
        self._flow = flow
        self._connection = connection
        self._framing = Framing(flow.length)
        self._unread = b""
        self._begun = False

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[Loan]:
        await self._begin()
        loan = Loan(socket=self._connection.socket(), early=self._unread, length=self._flow.length)
        yield loan
        if loan.behind is not None:
            self._end(loan.behind)

    async def __anext__(self) -> bytes:
        """Raises Rejected(INVALID) where the body is cut off or damaged."""
        if not self._begun:
            await self._begin()
            if self._framing.over:
                self._end(self._unread)
        while not self._framing.over:
            data, self._unread = self._unread or await self._connection.receive(), b""
            if not data:
                raise Rejected(Reason.INVALID, "unexpected EOF")
            try:
                part = self._framing.feed(data)
            except FramingError as error:
                raise Rejected(Reason.INVALID, str(error)) from error
            if self._framing.over:
                self._end(self._framing.behind)
            if part:
                return part
        raise StopAsyncIteration

    async def whole(self) -> bytes:
        return b"".join([part async for part in self])

    async def _begin(self) -> None:
        assert not self._begun, "a body is read once"
        self._begun = True
        self._unread = self._connection.early()
        if self._flow.awaited and not self._unread:
            await self._connection.send(_CONTINUE)

    def _end(self, behind: bytes) -> None:
        self.set_complete()
        self._connection.body_is_over(behind)
