"""Answers: a status, headers, and a body that is there or flows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import msgspec

JSON = "application/json"
WITHOUT_BODY = frozenset({204, 304})


Piece = bytes | tuple[bytes, ...]
"""Of a body that flows: a chunk, or several chunks that are there together and leave in one write."""


class Response:
    """body: all of it, or the pieces it will leave in, each at once. headers: names as they are sent.

    A body that is there has its length told by whoever writes it. An iterator with an `aclose` is closed, also when
    the client has gone before its end."""

    def __init__(
        self,
        body: bytes | AsyncIterator[Piece],
        status: int = 200,
        *,
        content_type: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.body, self.status = body, status
        self.headers: dict[str, str] = dict(headers or ())
        if content_type:
            self.headers["Content-Type"] = content_type


@asynccontextmanager
async def closing(body: AsyncIterator[Piece]) -> AsyncIterator[None]:
    """The pieces of a body end with the block."""
    try:
        yield
    finally:
        if (close := getattr(body, "aclose", None)) is not None:
            await close()


def json_response(value: object, status: int = 200) -> Response:
    """A typed value (or plain data) as Docker's JSON, with its newline."""
    return Response(msgspec.json.encode(value) + b"\n", status, content_type=JSON)


def empty(status: int = 204) -> Response:
    """An answer without a body, and without the headers that would describe one."""
    return Response(b"", status)
