"""The short way sees what h11 sees, or nothing; and behind it clients notice no difference."""

from __future__ import annotations

import socket

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.api import machinery, plain
from engine.api.app import EngineApp
from engine.api.bodies import decode_body
from engine.api.plain import Plain
from engine.api.responses import Response, json_response
from engine.api.streams import current_request
from tests.api.harness import connected, in_thread, served

PLAIN = b"POST /v1.41/containers/create?name=a%20b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}"

FRAGMENTS = st.sampled_from(
    [
        b"GET /a HTTP/1.1", b"POST /b?c=d HTTP/1.1", b"GET / HTTP/1.0", b"get / HTTP/1.1", b"GET http://a/ HTTP/1.1",
        b"\r\n", b"\n", b"\r", b"Host: a", b"host:b", b"HOST : c", b"Content-Length: 3", b"content-length: +3",
        b"Content-Length: 3, 3", b"Content-Length: 70000", b"Transfer-Encoding: chunked", b"Expect: 100-continue",
        b"Connection: close", b"Connection: Upgrade", b"Connection: keep-alive", b"Upgrade: tcp", b"Upgrade: h2c",
        b"X: \t y \t", b"X:", b" folded", b"X: a\x00b", b"\xc3\xa9: x", b"X: \xc3\xa9", b"abc", b"abcdef", b"\r\n\r\n",
    ]
)  # fmt: skip


def by_h11(data: bytes) -> tuple[bytes, bytes, list[tuple[bytes, bytes]], bytes]:
    """Method, target, fields and body of the first request. Raises h11.RemoteProtocolError."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    request = connection.next_event()
    assert isinstance(request, h11.Request)
    body = b""
    while isinstance(part := connection.next_event(), h11.Data):
        body += part.data
    assert isinstance(part, h11.EndOfMessage)
    return request.method, request.target, list(request.headers), body


def agrees(data: bytes) -> None:
    found = plain.read(data)
    if isinstance(found, Plain):
        assert (found.method.encode(), found.target, found.fields, found.body) == by_h11(data)


@given(st.lists(FRAGMENTS, max_size=12))
def test_whatever_is_read_the_short_way_is_what_h11_reads(fragments: list[bytes]) -> None:
    agrees(b"".join(fragments))
    agrees(b"GET /a HTTP/1.1\r\nHost: a\r\n" + b"\r\n".join(fragments) + b"\r\n\r\n")


@given(st.integers(0, len(PLAIN) - 1), st.binary(max_size=3))
def test_a_byte_changed_anywhere_is_read_as_h11_does_or_left_to_it(position: int, noise: bytes) -> None:
    agrees(PLAIN[:position] + noise + PLAIN[position + 1 :])


def test_a_request_is_plain_once_its_body_is_there() -> None:
    assert isinstance(plain.read(PLAIN), Plain)
    assert plain.read(PLAIN[:-1]) is plain.UNFINISHED
    behind = plain.read(PLAIN + b"more")
    assert isinstance(behind, Plain)
    assert (behind.body, behind.size) == (b"{}", len(PLAIN))


@pytest.mark.parametrize(
    "line",
    [
        b"Transfer-Encoding: chunked", b"Expect: 100-continue", b"Connection: close", b"Upgrade: websocket",
        b"Content-Length: 2", b"Host: another", b" folded", b"Content-Length: 99999",
    ],
)  # fmt: skip
def test_what_needs_a_protocol_is_left_to_one(line: bytes) -> None:
    assert plain.read(PLAIN.replace(b"Host: localhost", b"Host: localhost\r\n" + line)) is None


def echo_routes(app: EngineApp) -> None:
    @app.route("/echo", methods=["POST"])
    async def echo() -> Response:
        return json_response(await decode_body(current_request(), dict[str, int]))


def ask(sock: socket.socket, data: bytes, expected: bytes) -> bytes:
    """Send, and read until the expected bytes are there."""
    sock.sendall(data)
    answer = b""
    while expected not in answer:
        more = sock.recv(65536)
        assert more, answer
        answer += more
    return answer


def request(body: bytes, *fields: bytes) -> bytes:
    head = [b"POST /echo HTTP/1.1", b"Host: x", b"Content-Type: application/json", *fields]
    return b"\r\n".join([*head, b"", body])


async def test_both_ways_take_turns_on_one_connection_however_a_request_is_cut() -> None:
    short = request(b'{"a":1}', b"Content-Length: 7")
    chunked = request(b'7\r\n{"a":2}\r\n0\r\n\r\n', b"Transfer-Encoding: chunked")

    def talk(path: str) -> None:
        with connected(path) as sock:
            for one, answer in ((short, b'{"a":1}'), (chunked, b'{"a":2}')):
                head = ask(sock, one, answer)
                assert b"\r\nContent-Type: application/json\r\n" in head, "names as Go writes them"
                assert b"\r\nApi-Version: " in head
            for cut in range(1, len(short), 7):
                sock.sendall(short[:cut])
                ask(sock, short[cut:], b'{"a":1}')
            answer = ask(sock, short + chunked + short + b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n", b"\r\n\r\nOK")
            assert [answer.count(b'{"a":1}'), answer.count(b'{"a":2}')] == [2, 1]

    async with served(echo_routes) as engine:
        await in_thread(lambda: talk(engine.path))


async def test_half_a_request_and_an_end_is_answered_as_a_bad_one_or_not_at_all() -> None:
    def talk(path: str) -> bytes:
        with connected(path) as sock:
            sock.sendall(request(b'{"a"', b"Content-Length: 7"))
            sock.shutdown(socket.SHUT_WR)
            return sock.recv(65536)

    async with served(echo_routes) as engine:
        answer = await in_thread(lambda: talk(engine.path))
        assert answer == b"" or answer.startswith(b"HTTP/1.1 400")
        assert (await engine.ask("GET", "/_ping"))[0] == 200


async def test_an_idle_connection_ends_when_its_client_ends_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """At once, and without the machinery for what is not plain: most connections end like this."""
    monkeypatch.setattr(machinery, "_MODULE", "engine.api.nothing")

    def talk(path: str) -> bytes:
        with connected(path) as sock:
            ask(sock, b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n", b"\r\n\r\nOK")
            sock.shutdown(socket.SHUT_WR)
            return sock.recv(65536)

    async with served() as engine:
        assert await in_thread(lambda: talk(engine.path)) == b""
        assert (await engine.ask("GET", "/_ping"))[0] == 200
    assert caplog.records == []
