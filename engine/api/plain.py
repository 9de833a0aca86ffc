"""The short way: a request that has come whole, without an HTTP state machine around it.

Nine of ten requests are a head of a dozen lines and a small body or none. They are read here by two regular expressions
and answered by one write; hypercorn and h11 cost four times as much for the same bytes. What is anything but plain
(chunked bodies, uploads, `Expect`, websockets, HTTP/1.0 and 2, noise) is left to them: `read` says None, and they see
every byte. An image archive is plain, too, once its head is there, whatever its size: its body is read by whoever gets
it (upload.py). Refuses to know: sockets, routes. Source: RFC 9110 and 9112.
"""

from __future__ import annotations

import http.client
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from email.utils import formatdate
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from engine.api.responses import WITHOUT_BODY, Piece, Response, closing

HEAD_BYTES_MAX = 16 << 10
BODY_BYTES_MAX = 64 << 10
"""One read of a socket. What is larger has its own flow, and its own way."""

_LINE = re.compile(rb"(GET|HEAD|POST|PUT|DELETE|OPTIONS) (/[!-~]*) HTTP/1\.1")
_FIELD = re.compile(rb"\r\n([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*((?:[!-~\x80-\xff]+(?:[ \t]+[!-~\x80-\xff]+)*)?)[ \t]*")
_UPLOADS = re.compile(rb"(?:/v[0-9]+\.[0-9]+)?/images/load(?:\?[!-~]*)?")
"""Targets whose body is somebody else's to read."""
_END: Final = b"\r\n\r\n"

Fields = list[tuple[bytes, bytes]]


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """How a body comes behind its head. length: None in chunks. awaited: its client waits to be told to send it."""

    length: int | None
    awaited: bool


class Plain(msgspec.Struct, frozen=True, kw_only=True):
    """A request. target: as sent, with its query. fields: names in lower case. size: how many bytes it was. flow: None
    when `body` is all of its body."""

    method: str
    target: bytes
    fields: Fields
    body: bytes
    size: int
    flow: Flow | None = None

    def scope(self, state: dict[str, Any]) -> dict[str, Any]:
        """What ASGI calls a request."""
        path, _, query = self.target.partition(b"?")
        return {
            "type": "http",
            "http_version": "1.1",
            "asgi": {"spec_version": "2.1", "version": "3.0"},
            "method": self.method,
            "scheme": "http",
            "path": unquote(path.decode("ascii")),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": self.fields,
            "state": state,
            "extensions": {},
        }


class _Unfinished:
    """The type of UNFINISHED."""


UNFINISHED: Final = _Unfinished()
"""Plain as far as it has come; the rest of its body is on the way."""


def read(data: bytes) -> Plain | _Unfinished | None:
    """The first request of what came from a client. None: not for here."""
    end = data.find(_END, 0, HEAD_BYTES_MAX)
    line = _LINE.match(data)
    if end < 0 or line is None:
        return None
    fields: Fields = []
    at = line.end()
    while at < end:
        field = _FIELD.match(data, at, end)
        if field is None:
            return None
        fields.append((field[1].lower(), field[2]))
        at = field.end()
    if at != end:
        return None
    if line[1] == b"POST" and _UPLOADS.fullmatch(line[2]) and (flow := _flow(fields)) is not None:
        return Plain(method="POST", target=line[2], fields=fields, body=b"", size=end + len(_END), flow=flow)
    length = _body_length(fields)
    size = end + len(_END) + length
    if length < 0:
        return None
    if len(data) < size:
        return UNFINISHED
    body = data[size - length : size]
    return Plain(method=line[1].decode(), target=line[2], fields=fields, body=body, size=size)


def _body_length(fields: Fields) -> int:
    """How many bytes follow the head; -1 for what is not plain."""
    length, lengths, hosts = 0, 0, 0
    for name, value in fields:
        match name:
            case b"host":
                hosts += 1
            case b"content-length":
                lengths += 1
                length = int(value) if value.isdigit() and len(value) < 6 else -1
            case b"connection":
                words = {word.strip().lower() for word in value.split(b",")}
                if not words <= {b"keep-alive", b"upgrade"}:
                    return -1
            case b"upgrade":
                if value != b"tcp":
                    return -1
            case b"transfer-encoding" | b"expect" | b"te" | b"trailer":
                return -1
            case _:
                pass
    return length if hosts == 1 and lengths <= 1 and length <= BODY_BYTES_MAX else -1


def _flow(fields: Fields) -> Flow | None:
    """How the body comes; None for what is not plain."""
    hosts, awaited = 0, False
    lengths: list[int | None] = []
    for name, value in fields:
        match name, value.lower():
            case b"host", _:
                hosts += 1
            case b"content-length", digits if digits.isdigit() and len(digits) < 19:
                lengths.append(int(digits))
            case b"transfer-encoding", b"chunked":
                lengths.append(None)
            case b"expect", b"100-continue":
                awaited = True
            case b"connection", b"keep-alive":
                pass
            case (b"content-length" | b"transfer-encoding" | b"expect" | b"connection" | b"upgrade" | b"te"), _:
                return None
            case b"trailer", _:
                return None
            case _:
                pass
    if hosts != 1 or len(lengths) > 1:
        return None
    return Flow(length=lengths[0] if lengths else 0, awaited=awaited)


class _Date:
    """The time as the `date` field has it, made once a second."""

    def __init__(self) -> None:
        self._second, self._text = 0, b""

    def __call__(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second, self._text = second, formatdate(second, usegmt=True).encode()
        return self._text


_date = _Date()


def head(status: int, fields: Iterable[tuple[str, str]]) -> bytes:
    """Status line and fields, with the date; the fields are ours and hold no line breaks."""
    lines = [f"HTTP/1.1 {status} {http.client.responses.get(status, '')}\r\n"]
    lines += [f"{name}: {value}\r\n" for name, value in fields]
    return "".join(lines).encode("latin-1") + b"Date: " + _date() + _END


def _bare(method: str, response: Response) -> bool:
    """Whether the answer ends with its head."""
    return method == "HEAD" or response.status in WITHOUT_BODY


def whole(method: str, response: Response, body: bytes) -> bytes:
    """A response that is all there."""
    sized = {} if response.status in WITHOUT_BODY else {"Content-Length": str(len(body))}
    written = head(response.status, {**sized, **response.headers}.items())
    return written if _bare(method, response) else written + body


async def pieces(method: str, response: Response, body: AsyncIterator[Piece]) -> AsyncGenerator[bytes, None]:
    """A response that flows, in the pieces it is written in: each part of it as a chunk."""
    fields, bare = response.headers, _bare(method, response)
    chunked = "Content-Length" not in fields and not bare
    yield head(response.status, {**fields, **({"Transfer-Encoding": "chunked"} if chunked else {})}.items())
    async with closing(body):
        async for piece in body:
            parts = (piece,) if isinstance(piece, bytes) else piece
            framed = [b"%x\r\n%b\r\n" % (len(part), part) if chunked else part for part in parts if part]
            if framed and not bare:
                yield b"".join(framed)
    if chunked:
        yield b"0\r\n\r\n"
