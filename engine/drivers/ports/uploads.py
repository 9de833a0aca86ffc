"""Bytes that a client sends, which another process may read from its socket: archives of gigabytes need not pass
through the engine's event loop."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol, runtime_checkable

import msgspec


class Loan(msgspec.Struct, kw_only=True):
    """A client's socket, to be duplicated and read for the length of a block. It is non-blocking.

    early: what was read from it already. length: of the whole body, `early` included; None: in chunks, as
    engine/framing.py reads them. behind: set by the borrower when the body is over, to what it read too far; a loan
    without it costs the connection."""

    socket: int
    early: bytes
    length: int | None
    behind: bytes | None = None


@runtime_checkable
class Upload(Protocol):
    """To be iterated, or lent, once."""

    def __aiter__(self) -> Upload: ...

    async def __anext__(self) -> bytes: ...

    def lend(self) -> AbstractAsyncContextManager[Loan]: ...
