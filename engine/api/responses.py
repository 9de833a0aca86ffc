"""Finished answers: a JSON value, or nothing at all."""

from __future__ import annotations

import msgspec
from quart import Response

JSON = "application/json"


def json_response(value: object, status: int = 200) -> Response:
    """A typed value (or plain data) as Docker's JSON, with its newline."""
    return Response(msgspec.json.encode(value) + b"\n", status=status, content_type=JSON)


def empty(status: int = 204) -> Response:
    """An answer without a body, and without the headers that would describe one."""
    response = Response(b"", status=status)
    response.headers.pop("Content-Type", None)
    if status in (204, 304):
        response.headers.pop("Content-Length", None)
    return response
