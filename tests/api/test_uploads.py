"""Bodies of archives: where they end, who reads them, and what becomes of their connection."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import zlib
from collections.abc import Callable
from typing import cast

import h11
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from engine.aggregates.decider import Reason, Rejected
from engine.api import plain
from engine.api.app import EngineApp
from engine.api.responses import Response, json_response
from engine.api.streams import current_request
from engine.drivers.ports.uploads import Loan, Upload
from engine.framing import Framing, FramingError
from tests.api.harness import Served, connected, in_thread, served
from tests.api.test_server import read_all

PING = b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n"


def head(*fields: bytes) -> bytes:
    return b"\r\n".join([b"POST /v1.41/images/load?quiet=1 HTTP/1.1", b"Host: d", *fields, b"", b""])


def in_chunks(body: bytes, size: int) -> bytes:
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def framed(body: bytes, *, chunked: bool) -> bytes:
    if chunked:
        return head(b"Transfer-Encoding: chunked") + in_chunks(body, 7001)
    return head(b"Content-Length: %d" % len(body)) + body


# -- where a body ends ------------------------------------------------------------------------------------------------


def read(framing: Framing, parts: list[bytes]) -> tuple[bytes, bytes]:
    """The body, and what came behind it."""
    body = b""
    for number, part in enumerate(parts):
        body += framing.feed(part)
        if framing.over:
            return body, framing.behind + b"".join(parts[number + 1 :])
    return body, b""


@given(st.binary(max_size=300), st.integers(1, 90), st.integers(1, 40), st.booleans())
def test_a_body_ends_where_it_says_however_it_is_cut(body: bytes, chunk: int, cut: int, chunked: bool) -> None:
    data = (in_chunks(body, chunk) if chunked else body) + PING
    framing = Framing(None if chunked else len(body))
    if framing.over:
        return
    assert read(framing, [data[at : at + cut] for at in range(0, len(data), cut)]) == (body, PING)
    assert framing.over


def by_h11(data: bytes) -> tuple[bytes, bytes] | None:
    """The same by h11; None for what it refuses or finds unfinished."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(head(b"Transfer-Encoding: chunked") + data)
    body = b""
    try:
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                return None
            body += event.data if isinstance(event, h11.Data) else b""
    except h11.RemoteProtocolError:
        return None
    return body, connection.trailing_data[0]


PIECES = st.sampled_from(
    [b"3\r\nabc\r\n", b"3;x=y\r\nabc\r\n", b"0\r\n\r\n", b"0\r\n", b"\r\n", b"A: b\r\n", b"3\r\n", b"abc", b"\n",
     b"-3\r\n", b"0x3\r\n", b"3 \r\n", b"+3\r\n", b"g\r\n", b"003\r\nabc\r\n", b"ffffffffffffffffff\r\n"]
)  # fmt: skip


@given(st.lists(PIECES, max_size=8))
def test_what_is_taken_for_a_body_in_chunks_is_one_to_h11_too(pieces: list[bytes]) -> None:
    framing, data = Framing(None), b"".join(pieces)
    try:
        found = read(framing, [data])
    except FramingError:
        return
    if framing.over:
        assert found == by_h11(data)


# -- who reads it -----------------------------------------------------------------------------------------------------


def borrow(loan: Loan) -> bytes:
    """What a worker does with a loan: all of the body."""
    framing, body, data = Framing(loan.length), b"", loan.early
    while not framing.over:
        if data:
            body += framing.feed(data)
        if not framing.over:
            select.select([loan.socket], [], [])
            data = os.read(loan.socket, 4096)
            assert data, "cut off"
    loan.behind = framing.behind
    return body


def route(*, lending: bool, lent: list[Loan] | None = None) -> Callable[[EngineApp], None]:
    """A load that answers with the checksum of what it was sent. lent: where loans are noted."""

    def register(app: EngineApp) -> None:
        @app.route("/images/load", methods=["POST"])
        async def load() -> Response:
            if "X-Refuse" in current_request().headers:
                raise Rejected(Reason.CONFLICT, "not now")
            body = current_request().body
            if not lending or not isinstance(body, Upload):
                return json_response(zlib.crc32(await body.whole()))
            async with body.lend() as loan:
                if lent is not None:
                    lent.append(loan)
                taken = await trio.to_thread.run_sync(borrow, loan)
            return json_response(zlib.crc32(taken))

    return register


async def answers(engine: Served, *sent: bytes) -> list[bytes]:
    """What the engine has to say to all of it, sent on one connection in these parts."""

    def run() -> list[bytes]:
        with contextlib.closing(connected(engine.path)) as sock:
            for part in sent:
                with contextlib.suppress(BrokenPipeError):
                    sock.sendall(part)
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)
            return read_all(sock).split(b"HTTP/1.1 ")[1:]

    return cast("list[bytes]", await in_thread(run))


BODY = os.urandom(500_000)


@pytest.mark.parametrize("lending", [True, False])
@pytest.mark.parametrize("chunked", [True, False])
async def test_requests_behind_a_body_are_answered_on_its_connection(*, lending: bool, chunked: bool) -> None:
    """However the body came, and whoever read it."""
    upload, lent = framed(BODY, chunked=chunked), list[Loan]()
    async with served(route(lending=lending, lent=lent)) as engine:
        for cut in (len(upload), 10, 70_000):
            told = await answers(engine, upload[:cut], upload[cut:] + PING + upload, PING)
            assert [one[:3] for one in told] == [b"200"] * 4
            assert [int(one.rpartition(b"\r\n\r\n")[2]) for one in told[::2]] == [zlib.crc32(BODY)] * 2
            assert [one.endswith(b"\r\n\r\nOK") for one in told[1::2]] == [True, True]
        assert bool(lent) == lending


@pytest.mark.parametrize("lending", [True, False])
async def test_who_waits_to_be_told_to_send_is_told(*, lending: bool) -> None:
    def talk(path: str) -> bytes:
        with contextlib.closing(connected(path)) as sock:
            sock.sendall(head(b"Content-Length: %d" % len(BODY), b"Expect: 100-continue"))
            assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
            sock.sendall(BODY)
            return sock.recv(65536)

    async with served(route(lending=lending)) as engine:
        told = await in_thread(lambda: talk(engine.path))
        assert int(told.rpartition(b"\r\n\r\n")[2]) == zlib.crc32(BODY)


@pytest.mark.parametrize("fields", [(), (b"Expect: 100-continue",)])
async def test_a_refused_body_is_not_asked_for_and_ends_its_connection(fields: tuple[bytes, ...]) -> None:
    upload = head(b"Content-Length: %d" % len(BODY), b"X-Refuse: 1", *fields)
    async with served(route(lending=True)) as engine:
        (told,) = await answers(engine, upload, BODY[:100_000], PING)
        assert told.startswith(b"409 ") and b"not now" in told
        assert b"connection: close\r\n" in told.lower()
        assert (await engine.ask("GET", "/_ping"))[0] == 200


@pytest.mark.parametrize(
    "cut", [framed(BODY, chunked=False)[:-1], framed(BODY, chunked=True)[:-1], framed(BODY, chunked=True)[:200_000]]
)
async def test_a_body_that_is_cut_off_is_an_error_and_nothing_else(cut: bytes) -> None:
    async with served(route(lending=False)) as engine:
        (told,) = await answers(engine, cut)
        assert told.startswith(b"400 ") and b"unexpected EOF" in told
        assert (await engine.ask("GET", "/_ping"))[0] == 200


async def test_what_is_no_chunk_is_told() -> None:
    async with served(route(lending=False)) as engine:
        (told,) = await answers(engine, head(b"Transfer-Encoding: chunked") + b"3\r\nabc\r\nxyz\r\n")
        assert told.startswith(b"400 ") and b"invalid byte in chunk length" in told


@pytest.mark.parametrize(
    "fields",
    [
        (b"Content-Length: 3", b"Transfer-Encoding: chunked"), (b"Content-Length: 3", b"Content-Length: 3"),
        (b"Transfer-Encoding: gzip, chunked",), (b"Content-Length: 3", b"Expect: 200-ok"), (b"Content-Length: +3",),
        (b"Content-Length: 3", b"Connection: close"), (b"Content-Length: 3", b"Host: d"),
    ],
)  # fmt: skip
def test_heads_of_which_there_is_doubt_are_left_to_a_protocol(fields: tuple[bytes, ...]) -> None:
    found = plain.read(head(*fields))
    assert not isinstance(found, plain.Plain) or found.flow is None
