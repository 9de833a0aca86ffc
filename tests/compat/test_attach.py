"""Attach, raw and over a websocket: half-closes, logs, detach keys, refusals."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator

import pytest
import websocket as websocket_client

from tests.support.engine import Engine
from tests.support.hijacked import hijacked

pytestmark = pytest.mark.root
ALL = "stream=1&stdin=1&stdout=1&stderr=1"


@contextlib.contextmanager
def websocket(engine: Engine, path: str) -> Iterator[websocket_client.WebSocket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(engine.socket))
        client = websocket_client.create_connection(f"ws://localhost{path}", socket=sock, timeout=20)
        yield client


def received(client: websocket_client.WebSocket) -> tuple[bytes, set[int]]:
    """Everything up to the close, and which kinds of frames it came in."""
    data, kinds = b"", set()
    while True:
        kind, message = client.recv_data()
        if kind == websocket_client.ABNF.OPCODE_CLOSE:
            return data, kinds
        data, kinds = data + message, kinds | {kind}


def test_a_websocket_carries_input_and_output(engine: Engine) -> None:
    """EXE-05: binary frames, both streams, no stdcopy frames; text frames before 1.28; closed with the process."""
    for version, kind in (("", websocket_client.ABNF.OPCODE_BINARY), ("/v1.27", websocket_client.ABNF.OPCODE_TEXT)):
        engine.cli("create", "-i", "--name", "one", "busybox", "sh", "-c", "read x; echo got $x; echo err >&2; exit 3")
        with websocket(engine, f"{version}/containers/one/attach/ws?{ALL}") as client:
            engine.cli("start", "one")
            client.send_binary(b"wor")
            client.ping("are you there")
            client.send("ds\n")
            data, kinds = received(client)
        assert sorted(data.splitlines()) == [b"err", b"got words"]
        assert kinds - {websocket_client.ABNF.OPCODE_PONG} == {kind}
        assert engine.out("wait", "one") == "3"
        engine.cli("rm", "one")


def test_a_websocket_that_closes_ends_the_input_and_not_the_container(engine: Engine) -> None:
    """EXE-05, EXE-03: with StdinOnce the process reads its end; without it the process goes on."""
    engine.cli("run", "-d", "-i", "--name", "kept", "busybox", "cat")
    with websocket(engine, f"/containers/kept/attach/ws?{ALL}") as client:
        client.send_binary(b"hello\n")
        assert client.recv() == b"hello\n"
        client.close()
    assert engine.json("/containers/kept/json")["State"]["Running"]
    with websocket(engine, "/containers/kept/attach/ws?logs=1&stdout=1") as client:
        assert received(client)[0] == b"hello\n"
    body = {"Image": "busybox", "Cmd": ["sh", "-c", "cat; exit 4"], "OpenStdin": True, "StdinOnce": True}
    assert engine.request("POST", "/containers/create?name=once", body)[0] == 201
    engine.cli("start", "once")
    with websocket(engine, f"/containers/once/attach/ws?{ALL}") as client:
        client.send_binary(b"bye\n")
        assert client.recv() == b"bye\n"
        client.close()
    assert engine.out("wait", "once") == "4"


def test_a_big_output_over_a_websocket_is_whole(engine: Engine) -> None:
    """EXE-05, EXE-11: every byte, in order, however slowly it is read."""
    engine.cli("create", "--name", "loud", "busybox", "sh", "-c", "seq 1 200000")
    with websocket(engine, "/containers/loud/attach/ws?stream=1&stdout=1") as client:
        engine.cli("start", "loud")
        assert received(client)[0].split() == [str(number).encode() for number in range(1, 200001)]


def test_a_websocket_is_refused_with_a_status(engine: Engine) -> None:
    """EXE-05: unknown 404, paused 409, bad keys 400, no handshake 400; all before the handshake."""
    engine.cli("run", "-dit", "--name", "one", "busybox", "cat")
    for path, wanted in (
        ("/containers/nobody/attach/ws?stream=1", 404),
        ("/containers/one/attach/ws?stream=1&detachKeys=ctrl-xx", 400),
    ):
        with pytest.raises(websocket_client.WebSocketBadStatusException) as refused, websocket(engine, path):
            pass
        assert refused.value.status_code == wanted
    status, body = engine.request("GET", "/containers/one/attach/ws?stream=1")
    assert (status, "handshake" in json.loads(body)["message"]) == (400, True)
    engine.cli("pause", "one")
    with (
        pytest.raises(websocket_client.WebSocketBadStatusException) as refused,
        websocket(engine, "/containers/one/attach/ws?stream=1"),
    ):
        pass
    assert refused.value.status_code == 409
    engine.cli("unpause", "one")
    with websocket(engine, f"/containers/one/attach/ws?{ALL}") as client:
        client.send_binary(b"\x10\x11")
        received(client)
    assert engine.json("/containers/one/json")["State"]["Running"]


def test_a_hijack_answers_101_or_200(engine: Engine) -> None:
    """EXE-01, API-34: with an upgrade 101 and the kind of stream, without it a 200 that never ends its body."""
    engine.cli("run", "-d", "--name", "one", "busybox", "sh", "-c", "echo out; echo err >&2; sleep 1000")
    engine.wait_for(lambda: "err" in engine.cli("logs", "one").stderr)
    with hijacked(engine, "/containers/one/attach?logs=1&stdout=1&stderr=1") as client:
        assert (client.status, client.headers["upgrade"]) == (101, "tcp")
        assert client.headers["content-type"] == "application/vnd.docker.multiplexed-stream"
        assert client.read_streams() == {1: b"out\n", 2: b"err\n"}
    with hijacked(engine, "/containers/one/attach?logs=1&stdout=1", upgrade=False) as client:
        assert (client.status, "upgrade" in client.headers) == (200, False)
        assert client.read_streams() == {1: b"out\n"}
    with hijacked(engine, "/v1.41/containers/one/attach?logs=1&stderr=1") as client:
        assert client.headers["content-type"] == "application/vnd.docker.raw-stream"
        assert client.read_streams() == {2: b"err\n"}


def test_a_half_close_ends_the_input_alone(engine: Engine) -> None:
    """EXE-03: output flows on; a second client of a container without StdinOnce still has its input."""
    engine.cli("create", "-i", "--name", "once", "busybox", "sh", "-c", "cat; echo after; exit 2")
    with hijacked(engine, f"/containers/once/attach?{ALL}") as client:
        engine.cli("start", "once")
        client.send(b"words\n")
        client.close_input()
        assert client.read_streams() == {1: b"words\nafter\n"}
    assert engine.out("wait", "once") == "2"
    body = {"Image": "busybox", "Cmd": ["cat"], "OpenStdin": True}
    assert engine.request("POST", "/containers/create?name=open", body)[0] == 201
    engine.cli("start", "open")
    for words in (b"first\n", b"second\n"):
        with hijacked(engine, f"/containers/open/attach?{ALL}") as client:
            client.send(words)
            client.read_until(words)
            client.close_input()
            client.read_all()
    assert engine.json("/containers/open/json")["State"]["Running"]


def test_detach_keys_are_each_requests_own(engine: Engine) -> None:
    """EXE-04: the default, others by request, bad ones 400 in Docker's words; the process lives on."""
    engine.cli("run", "-dit", "--name", "one", "busybox", "cat")
    with hijacked(engine, f"/containers/one/attach?{ALL}&detachKeys=a,ctrl-b") as client:
        client.send(b"\x10\x11ax\r")
        client.read_until(b"ax")
        client.send(b"a\x02")
        client.read_all()
    with hijacked(engine, f"/containers/one/attach?{ALL}") as client:
        client.send(b"\x10\x11")
        client.read_all()
    assert engine.json("/containers/one/json")["State"]["Running"]
    status, body = engine.request("POST", "/containers/one/attach?stream=1&detachKeys=ctrl-1")
    assert (status, json.loads(body)["message"]) == (400, "Invalid detach keys (ctrl-1) provided")
    status, body = engine.request("POST", "/containers/one/exec", {"Cmd": ["cat"], "DetachKeys": "ctrl-"})
    assert (status, json.loads(body)["message"]) == (400, "Invalid escape keys (ctrl-) provided")


def test_what_cannot_be_attached_to_says_why(engine: Engine) -> None:
    """EXE-01: paused and restarting 409, unknown 404."""
    engine.cli("run", "-d", "--name", "one", "busybox", "sleep", "1000")
    engine.cli("pause", "one")
    words = "container one is paused, unpause the container before attach"
    status, body = engine.request("POST", "/containers/one/attach?stream=1")
    assert (status, json.loads(body)["message"]) == (409, words)
    engine.cli("run", "-d", "--restart", "always", "--name", "loop", "busybox", "false")
    engine.wait_for(lambda: engine.json("/containers/loop/json")["State"]["Status"] == "restarting")
    status, body = engine.request("POST", "/containers/loop/attach?stream=1")
    if engine.json("/containers/loop/json")["State"]["Status"] == "restarting":
        assert (status, b"is restarting, wait until the container is running" in body) == (409, True)
    assert engine.request("POST", "/containers/nobody/attach?stream=1")[0] == 404
