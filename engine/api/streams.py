"""Answers that take time: progress and events as JSON messages, frames of output, archives.

Every yielded piece leaves as one chunk, at once. The work behind an answer runs beside the request: when the client
goes away it is cancelled. What must be finished regardless says so with `outlasting` or `unaborted`.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, aclosing
from contextvars import ContextVar
from typing import Any, TypeVar, cast

import msgspec
import trio

from engine.api.errors import is_bug, status_and_message
from engine.api.request import Request
from engine.api.responses import JSON, Response
from engine.api.responses import empty as empty  # one import for routes that answer both ways
from engine.api.responses import json_response as json_response
from engine.errors import Fault, PortError

log = logging.getLogger(__name__)

JSON_LINES = "application/jsonl"
NDJSON = "application/x-ndjson"
JSON_SEQUENCE = "application/json-seq"
EVENT_STREAM = "text/event-stream"
RECORD_SEPARATOR = b"\x1e"

STDIN, STDOUT, STDERR = 0, 1, 2

_FRAME_HEAD = struct.Struct(">BxxxL")

serving: ContextVar[Request] = ContextVar("request")
"""Which request a task works for. Set by the application."""


class _Current:
    def __getattr__(self, name: str) -> Any:
        return getattr(serving.get(), name)


request = cast(Request, _Current())
"""The same, for routes: stands for whatever request their task has."""

T = TypeVar("T")
Emit = Callable[[object], Awaitable[None]]
"""Sends one message; waits while the client is slow."""


def frame(stream: int, data: bytes) -> bytes:
    """One frame of a multiplexed stream (EXE-02): stream number, three zeros, big-endian length, data."""
    return _FRAME_HEAD.pack(stream, len(data)) + data


def raw_response(chunks: AsyncIterator[bytes], content_type: str) -> Response:
    """Bytes as they come (archives, frames). An error behind the first chunk breaks the connection off, so that no
    client takes half an archive for a whole one."""
    return Response(chunks, content_type=content_type)


async def eager_raw_response(chunks: AsyncIterator[bytes], content_type: str) -> Response:
    """As `raw_response`, but an error before the first chunk is still an HTTP error."""
    first = await anext(chunks, None)

    async def all_chunks() -> AsyncIterator[bytes]:
        if first is not None:
            yield first
            async with aclosing(cast(Any, chunks)) as rest:
                async for chunk in rest:
                    yield chunk

    return raw_response(all_chunks(), content_type)


def json_stream(messages: AsyncIterator[object], content_type: str = JSON) -> Response:
    """One JSON document per line (per record for json-seq). The head is sent before the first message."""
    prefix = RECORD_SEPARATOR if content_type == JSON_SEQUENCE else b""

    async def lines() -> AsyncIterator[bytes]:
        encode = msgspec.json.Encoder().encode
        async with aclosing(cast(Any, messages)) as source:
            async for message in source:
                yield prefix + encode(message) + b"\n"

    return Response(lines(), content_type=content_type)


async def progress_stream(
    produce: Callable[[Emit], Awaitable[None]], content_type: str = JSON, *, always_ok: bool = False
) -> Response:
    """What pull, push, load and build answer with: `produce(emit)` runs beside the request.

    An exception before the first message is raised here, and so becomes a status; a later one becomes Docker's last
    line `{"errorDetail":{"message":...},"error":...}` (the status has left already). always_ok: so becomes every one;
    clients of load read the stream only."""
    outgoing, incoming = trio.open_memory_channel[object](0)
    failure: list[Exception] = []

    async def run() -> None:
        async with outgoing:
            try:
                await produce(outgoing.send)
            except Exception as error:
                failure.append(error)

    current_request().beside(run, name="progress")
    first = await _next(incoming)
    if first is None and failure and not always_ok:
        raise failure[0]

    async def messages() -> AsyncIterator[object]:
        async with incoming:
            if first is not None:
                yield first
                async for message in incoming:
                    yield message
        if failure:
            yield error_line(failure[0])

    return json_stream(messages(), content_type)


def error_line(error: Exception) -> dict[str, object]:
    """The message of a failure in the middle of a JSON stream."""
    message = status_and_message(error)[1]
    if is_bug(error):
        log.error("a stream failed unexpectedly: %s", message, exc_info=error)
    return {"errorDetail": {"message": message}, "error": message}


async def outlasting(engine: trio.Nursery, work: Callable[[], Awaitable[T]]) -> T:
    """The result of work that goes on when its client leaves: it runs in the engine's nursery, and ends with that."""
    results: list[T] = []
    failures: list[Exception] = []
    done = trio.Event()

    async def run() -> None:
        try:
            results.append(await work())
        except Exception as error:
            if is_bug(error):
                log.exception("what goes on without a client failed unexpectedly")
            failures.append(error)
        finally:
            done.set()

    engine.start_soon(run, name="outlasting")
    await done.wait()
    for failure in failures:
        raise failure
    if not results:
        raise PortError("engine", "the engine is stopping", fault=Fault.UNAVAILABLE, retriable=True)
    return results[0]


def unaborted() -> AbstractContextManager[object]:
    """For a single commit that somebody else counts on, also when its client has left. It holds up the engine's end."""
    return trio.CancelScope(shield=True)


def current_request() -> Request:
    """The request of this task, itself: to be kept by what outlives the route."""
    return serving.get()


async def _next(incoming: trio.MemoryReceiveChannel[object]) -> object | None:
    try:
        return await incoming.receive()
    except trio.EndOfChannel:
        return None
