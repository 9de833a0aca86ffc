"""What a client notices of the front: versions, errors, keep-alive, bodies, aborts, hijacks; through real sockets."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shutil
import socket
import subprocess
import zlib

import pytest
import trio

from engine.aggregates.decider import Reason, Rejected
from engine.api import server
from engine.api.app import EngineApp
from engine.api.hijack import HIJACKED, hijack
from engine.api.params import Query, cause_of
from engine.api.responses import Response, empty, json_response
from engine.api.streams import Emit, current_request, json_stream, progress_stream, request
from engine.drivers.linux.host import LinuxHost
from engine.errors import Fault, PortError
from tests.api.harness import Client, Served, connected, in_thread, served


async def test_ping_answers_get_and_head_with_the_headers_every_client_reads() -> None:
    async with served() as engine:
        status, headers, body = await engine.ask("GET", "/_ping")
        assert (status, body) == (200, b"OK")
        assert headers["api-version"] == "1.53"
        assert headers["ostype"] == "linux"
        assert headers["server"].startswith("Docker/")
        assert headers["swarm"] == "inactive"
        assert headers["docker-experimental"] == "false"
        assert headers["builder-version"] == "1"
        assert "no-store" in headers["cache-control"]
        status, headers, body = await engine.ask("HEAD", "/v1.24/_ping")
        assert (status, body, headers["api-version"]) == (200, b"", "1.53")


@pytest.mark.parametrize(
    ("prefix", "words"),
    [
        ("/v1.99", "client version 1.99 is too new. Maximum supported API version is 1.53"),
        ("/v1.23", "client version 1.23 is too old. Minimum supported API version is 1.24"),
    ],
)
async def test_versions_out_of_range_are_refused_in_mobys_words(prefix: str, words: str) -> None:
    async with served() as engine:
        status, headers, body = await engine.ask("GET", f"{prefix}/version")
        assert status == 400
        assert words in json.loads(body)["message"]
        assert headers["api-version"] == "1.53"


async def test_unknown_paths_and_methods_are_page_not_found() -> None:
    async with served() as engine:
        unknown = ["/nonsense", "/v1.53/", "/v1.53x/info", f"/v1.{'5' * 5000}/info"]
        for method, path in (("DELETE", "/_ping"), *(("GET", path) for path in unknown)):
            status, headers, body = await engine.ask(method, path)
            assert (status, json.loads(body)) == (404, {"message": "page not found"}), path
            assert headers["content-type"] == "application/json"
        assert (await engine.ask("OPTIONS", "/any/thing"))[0] == 200


async def test_what_is_missing_says_501_and_its_name() -> None:
    async with served() as engine:
        status, _, body = await engine.ask("GET", "/v1.53/services")
        assert status == 501
        assert "swarm mode" in json.loads(body)["message"]
        status, _, _ = await engine.ask("POST", "/session", headers={"Upgrade": "h2c", "Connection": "Upgrade"})
        assert status == 501


def errors_routes(app: EngineApp) -> None:
    @app.route("/raise/<path:what>", methods=["GET"])
    async def fail(what: str) -> Response:
        match what:
            case "conflict":
                raise Rejected(Reason.CONFLICT, "it is taken")
            case "not/modified":
                raise Rejected(Reason.NOT_MODIFIED, "")
            case "disk":
                raise PortError("write", "no space left on device", fault=Fault.DISK_FULL)
            case "group":
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(refuse)
                raise AssertionError
            case _:
                raise KeyError("a bug")

    async def refuse() -> None:
        raise Rejected(Reason.NOT_FOUND, "from a nursery")


async def test_errors_carry_their_status_and_words() -> None:
    async with served(errors_routes) as engine:
        status, _, body = await engine.ask("GET", "/raise/conflict")
        assert (status, json.loads(body)) == (409, {"message": "it is taken"})
        status, headers, body = await engine.ask("GET", "/v1.40/raise/not/modified")
        assert (status, body) == (304, b"")
        assert "content-type" not in headers
        status, _, body = await engine.ask("GET", "/raise/disk")
        assert (status, json.loads(body)) == (500, {"message": "no space left on device"})
        status, _, body = await engine.ask("GET", "/raise/group")
        assert (status, json.loads(body)) == (404, {"message": "from a nursery"})


async def test_a_bug_is_answered_with_500_and_logged_and_the_engine_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    async with served(errors_routes) as engine:
        status, _, body = await engine.ask("GET", "/raise/bug")
        assert status == 500
        assert "a bug" in json.loads(body)["message"]
        assert "Traceback" in caplog.text
        assert (await engine.ask("GET", "/_ping"))[0] == 200


async def test_pipelined_requests_are_answered_in_order_on_one_connection() -> None:
    def talk(path: str) -> bytes:
        with contextlib.closing(connected(path)) as sock:
            sock.sendall(b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\nGET /nonsense HTTP/1.1\r\nHost: d\r\n\r\n")
            sock.sendall(b"GET /_ping HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n")
            return read_all(sock)

    async with served() as engine:
        answer = await in_thread(lambda: talk(engine.path))
        assert re.findall(rb"HTTP/1\.1 (\d+)", answer) == [b"200", b"404", b"200"]


async def test_a_client_that_has_said_all_still_hears_the_answer_and_its_leaving_is_noticed() -> None:
    asked, go_on, cancelled = trio.Event(), trio.Event(), trio.Event()

    def register(app: EngineApp) -> None:
        @app.route("/slow", methods=["GET"])
        async def slow() -> Response:
            asked.set()
            try:
                await go_on.wait()
            except trio.Cancelled:
                cancelled.set()
                raise
            return json_response("done")

    def ask(path: str) -> socket.socket:
        sock = connected(path)
        sock.sendall(b"GET /slow HTTP/1.1\r\nHost: d\r\n\r\n")
        sock.shutdown(socket.SHUT_WR)
        return sock

    async with served(register) as engine:
        gone = await in_thread(lambda: ask(engine.path))
        await asked.wait()
        gone.close()
        with trio.fail_after(5):
            await cancelled.wait()
        asked = trio.Event()
        with contextlib.closing(await in_thread(lambda: ask(engine.path))) as listening:
            await asked.wait()
            go_on.set()
            assert (await in_thread(lambda: read_all(listening))).endswith(b'"done"\n')


async def test_a_connection_serves_many_requests() -> None:
    def talk(path: str) -> list[int]:
        with contextlib.closing(Client(path)) as client:
            return [client.ask("GET", "/_ping")[0] for _ in range(50)]

    async with served() as engine:
        assert set(await in_thread(lambda: talk(engine.path))) == {200}


@pytest.mark.parametrize(
    "noise", [b"\x00\xff\n\n", b"GET / HTTP/1.1\r\n\r\n", b"GET /\xe9 HTTP/1.1\r\nHost: d\r\n\r\n"]
)
async def test_noise_ends_its_own_connection_only(noise: bytes) -> None:
    def talk(path: str) -> bytes:
        with contextlib.closing(connected(path)) as sock:
            sock.sendall(noise)
            return read_all(sock)

    async with served() as engine:
        assert (await in_thread(lambda: talk(engine.path))).startswith((b"HTTP/1.1 4", b""))
        assert (await engine.ask("GET", "/_ping"))[0] == 200


class Bodies:
    """Routes that read a body slowly, at once, or never."""

    def __init__(self) -> None:
        self.go_on = trio.Event()
        self.first_chunk = trio.Event()

    def register(self, app: EngineApp) -> None:
        @app.route("/slow", methods=["PUT"])
        async def slow() -> Response:
            total = 0
            async for chunk in request.body:
                total += len(chunk)
                self.first_chunk.set()
                await self.go_on.wait()
            return json_response({"bytes": total})

        @app.route("/refuse", methods=["PUT"])
        async def refuse() -> Response:
            raise Rejected(Reason.CONFLICT, "not now")

        @app.route("/whole", methods=["PUT"])
        async def whole() -> Response:
            return json_response({"bytes": len(await request.body.whole())})


async def test_a_body_waits_for_its_route() -> None:
    bodies = Bodies()
    size = 64 << 20
    sent = [0]

    def talk(path: str) -> bytes:
        with contextlib.closing(connected(path)) as sock:
            sock.sendall(b"PUT /slow HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size)
            block = bytes(1 << 20)
            for _ in range(size >> 20):
                sock.sendall(block)
                sent[0] += len(block)
            return read_all(sock)

    async with served(bodies.register) as engine, trio.open_nursery() as nursery:
        answer: list[bytes] = []

        async def client() -> None:
            answer.append(await in_thread(lambda: talk(engine.path)))

        nursery.start_soon(client)
        await bodies.first_chunk.wait()
        with trio.move_on_after(0.3):  # a bound on how long it may try to send more than fits
            while sent[0] < size:
                await trio.sleep(0.01)
        assert sent[0] <= 8 << 20
        bodies.go_on.set()
        while not answer:
            await trio.sleep(0.01)
        assert json.loads(answer[0].partition(b"\r\n\r\n")[2]) == {"bytes": size}


async def test_a_route_that_answers_early_is_heard_by_a_client_that_still_sends() -> None:
    def talk(path: str) -> bytes:
        with contextlib.closing(connected(path)) as sock:
            sock.sendall(b"PUT /refuse HTTP/1.1\r\nHost: d\r\nContent-Length: 4000000\r\n\r\n")
            with contextlib.suppress(BrokenPipeError):  # the rest is thrown away for half a second only
                sock.sendall(bytes(4_000_000))
            return read_all(sock)

    async with served(Bodies().register) as engine:
        answer = await in_thread(lambda: talk(engine.path))
        assert answer.startswith(b"HTTP/1.1 409")
        assert b"not now" in answer


async def test_chunked_bodies_are_read_whole() -> None:
    async with served(Bodies().register) as engine:
        status, _, body = await engine.ask("PUT", "/whole", body=iter([b"abc"] * 1000))
        assert (status, json.loads(body)) == (200, {"bytes": 3000})


async def test_a_body_that_comes_in_small_parts_is_read_whole_and_in_order() -> None:
    body = bytes(range(256)) * 4000
    parts = [body[at : at + 4999] for at in range(0, len(body), 4999)]
    head = b"PUT /sum HTTP/1.1\r\nHost: d\r\nContent-Length: %d\r\n\r\n" % len(body)

    def register(app: EngineApp) -> None:
        @app.route("/sum", methods=["PUT"])
        async def checksum() -> Response:
            return json_response(zlib.crc32(await request.body.whole()))

    def talk(path: str) -> list[bytes]:
        with contextlib.closing(connected(path)) as sock:
            for part in (head, *parts, head, *parts[:-1]):  # the second one behind the first, on the same connection
                sock.sendall(part)
            sock.sendall(parts[-1])
            sock.shutdown(socket.SHUT_WR)
            return read_all(sock).split(b"HTTP/1.1 ")[1:]

    async with served(register) as engine:
        answers = await in_thread(lambda: talk(engine.path))
        assert [int(answer.rpartition(b"\r\n")[2]) for answer in answers] == [zlib.crc32(body)] * 2


class Endless:
    """A stream that never ends, and work that wants to be finished."""

    def __init__(self) -> None:
        self.cancelled = trio.Event()
        self.started = trio.Event()

    def register(self, app: EngineApp) -> None:
        @app.route("/endless", methods=["GET"])
        async def endless() -> Response:
            async def messages():  # type: ignore[no-untyped-def]
                try:
                    yield {"n": 1}
                    self.started.set()
                    await trio.sleep_forever()
                finally:
                    self.cancelled.set()

            return json_stream(messages())

        @app.route("/progress/<how>", methods=["POST"])
        async def progress(how: str) -> Response:
            async def produce(emit: Emit) -> None:
                if how == "early":
                    raise Rejected(Reason.NOT_FOUND, "no such image")
                await emit({"status": "half"})
                raise PortError("pull", "connection lost", fault=Fault.UNAVAILABLE)

            return await progress_stream(produce)


async def test_an_abort_cancels_the_stream() -> None:
    endless = Endless()

    def begin(path: str) -> socket.socket:
        sock = connected(path)
        sock.sendall(b"GET /endless HTTP/1.1\r\nHost: d\r\n\r\n")
        seen = b""
        while b'{"n":1}' not in seen:
            seen += sock.recv(4096)
        assert b"transfer-encoding: chunked" in seen.lower()
        return sock

    async with served(endless.register) as engine:
        sock = await in_thread(lambda: begin(engine.path))
        await endless.started.wait()
        sock.close()
        with trio.fail_after(5):
            await endless.cancelled.wait()


async def test_shutdown_ends_idle_connections_and_streams_within_the_grace() -> None:
    endless = Endless()
    async with served(endless.register, grace_s=0.1) as engine:
        idle, busy = connected(engine.path), connected(engine.path)
        busy.sendall(b"GET /endless HTTP/1.1\r\nHost: d\r\n\r\n")
        await endless.started.wait()
        engine.nursery.cancel_scope.cancel()
    assert endless.cancelled.is_set()
    assert idle.recv(10) == b""
    idle.close()
    busy.close()


async def test_a_progress_stream_fails_with_a_status_before_and_a_line_after_its_first_message() -> None:
    async with served(Endless().register) as engine:
        status, _, body = await engine.ask("POST", "/progress/early")
        assert (status, json.loads(body)) == (404, {"message": "no such image"})
        status, headers, body = await engine.ask("POST", "/progress/late")
        lines = [json.loads(line) for line in body.splitlines()]
        assert (status, headers["content-type"]) == (200, "application/json")
        assert lines == [
            {"status": "half"},
            {"errorDetail": {"message": "connection lost"}, "error": "connection lost"},
        ]


def hijack_routes(app: EngineApp) -> None:
    @app.route("/echo", methods=["POST"])
    async def echo() -> Response:
        body = await request.body.whole()
        async with hijack(current_request(), multiplexed=Query.of(request).text("tty") != "1") as client:
            duplicate = os.dup(client.fd)
            early = client.early_input
            await trio.to_thread.run_sync(lambda: echo_over(duplicate, body, early))
        return HIJACKED


def echo_over(fd: int, body: bytes, early: bytes) -> None:
    """What another process would do with the descriptor: blocking, with nobody else reading."""
    with socket.socket(fileno=fd) as sock:
        sock.setblocking(True)
        sock.sendall(b"body=" + body + b";early=" + early + b";")
        while data := sock.recv(65536):
            sock.sendall(data)
        sock.sendall(b"end")


@pytest.mark.parametrize("upgrade", [True, False])
async def test_a_hijacked_socket_belongs_to_whoever_got_its_descriptor(upgrade: bool) -> None:
    wanted = b"Connection: Upgrade\r\nUpgrade: tcp\r\n" if upgrade else b""

    def talk(path: str) -> bytes:
        with contextlib.closing(connected(path)) as sock:
            sock.sendall(b"POST /v1.53/echo HTTP/1.1\r\nHost: d\r\n" + wanted + b"Content-Length: 2\r\n\r\n{}first")
            seen = sock.recv(65536)
            while b"first;" not in seen:
                seen += sock.recv(65536)
            sock.sendall(b"second")
            sock.shutdown(socket.SHUT_WR)
            return seen + read_all(sock)

    async with served(hijack_routes) as engine:
        answer = await in_thread(lambda: talk(engine.path))
        head, _, rest = answer.partition(b"\r\n\r\n")
        assert rest == b"body={};early=first;secondend"
        lines = head.split(b"\r\n")
        assert lines[0] == (b"HTTP/1.1 101 UPGRADED" if upgrade else b"HTTP/1.1 200 OK")
        assert b"Content-Type: application/vnd.docker.multiplexed-stream" in lines
        assert (b"Upgrade: tcp" in lines) == upgrade
        assert (await engine.ask("GET", "/_ping"))[0] == 200


async def test_a_client_stays_attached_when_the_engine_lets_go_of_the_socket() -> None:
    """What an engine's restart looks like from the other process: its own descriptor is closed, the stream lives."""
    handed: list[int] = []

    def register(app: EngineApp) -> None:
        @app.route("/handover", methods=["POST"])
        async def handover() -> Response:
            async with hijack(current_request(), multiplexed=False) as client:
                handed.append(os.dup(client.fd))
            return HIJACKED

    def begin(path: str) -> socket.socket:
        sock = connected(path)
        sock.sendall(b"POST /handover HTTP/1.1\r\nHost: d\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n")
        assert sock.recv(4096).startswith(b"HTTP/1.1 101")
        return sock

    async with served(register) as engine:
        sock = await in_thread(lambda: begin(engine.path))
        assert (await engine.ask("GET", "/_ping"))[0] == 200
    with sock, socket.socket(fileno=handed[0]) as kept:
        kept.setblocking(True)
        kept.sendall(b"still here")
        assert sock.recv(100) == b"still here"
        sock.sendall(b"so am I")
        assert kept.recv(100) == b"so am I"


async def test_a_hijack_over_http2_is_refused_and_plain_requests_are_served() -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")

    def curl(path: str, *arguments: str) -> str:
        command = ["curl", "-s", "--http2-prior-knowledge", "--unix-socket", path, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout

    async with served(hijack_routes) as engine:
        assert await in_thread(lambda: curl(engine.path, "http://d/_ping")) == "OK"
        answer = await in_thread(lambda: curl(engine.path, "-X", "POST", "-d", "{}", "http://d/echo"))
        assert json.loads(answer)["message"] == "this connection cannot be hijacked"


async def test_the_stream_content_type_follows_tty_and_version() -> None:
    def head(path: str, target: bytes) -> bytes:
        with contextlib.closing(connected(path)) as sock:
            sock.sendall(b"POST " + target + b" HTTP/1.1\r\nHost: d\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n")
            sock.shutdown(socket.SHUT_WR)
            return read_all(sock)

    async with served(hijack_routes) as engine:
        for target, kind in ((b"/v1.41/echo", b"raw"), (b"/v1.42/echo", b"multiplexed"), (b"/echo?tty=1", b"raw")):
            answer = await in_thread(lambda target=target: head(engine.path, target))
            assert b"application/vnd.docker.%s-stream" % kind in answer, target


async def test_a_starting_engine_answers_ping_and_asks_for_patience_elsewhere() -> None:
    started = False
    async with served(ready=lambda: started) as engine:
        assert (await engine.ask("GET", "/_ping"))[0] == 200
        assert (await engine.ask("GET", "/v1.53/version"))[0] == 200
        assert (await engine.ask("GET", "/v1.53/info"))[0] == 503
        started = True
        assert (await engine.ask("GET", "/v1.53/info"))[0] == 200


async def test_info_tells_what_the_host_and_the_configuration_are() -> None:
    """SYS-15."""
    async with served() as engine:
        _, _, body = await engine.ask("GET", "/info")
        info = json.loads(body)
        assert info["KernelVersion"] == os.uname().release
        assert info["MemTotal"] > 1 << 20
        assert info["NCPU"] == len(os.sched_getaffinity(0))
        assert info["NGoroutines"] > 1
        assert info["InitBinary"] == ""
        assert info["DriverStatus"][0] == ["Backing Filesystem", LinuxHost().file_system("/var/lib/ishmael")]
        assert info["Swarm"]["LocalNodeState"] == "inactive"
        assert info["Runtimes"]["native"]["status"] == {}
        assert "name=seccomp,profile=builtin" in info["SecurityOptions"]
        assert "BridgeNfIptables" not in info
        _, _, body = await engine.ask("GET", "/v1.43/info")
        old = json.loads(body)
        assert "status" not in old["Runtimes"]["native"]
        assert old["BridgeNfIptables"] is False
        assert old["RegistryConfig"]["AllowNondistributableArtifactsCIDRs"] == []


async def test_commands_know_who_asked_and_why() -> None:
    def register(app: EngineApp) -> None:
        @app.route("/who", methods=["GET"])
        async def who() -> Response:
            cause = cause_of(request)
            return json_response([cause.actor, cause.correlation, cause.causation])

    async with served(register) as engine:
        trace = "4bf92f3577b34da6a3ce929d0e0e4736"
        headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
        _, _, body = await engine.ask("GET", "/v1.50/who", headers=headers)
        actor, correlation, causation = json.loads(body)
        user = pwd.getpwuid(os.getuid()).pw_name
        assert actor.startswith(f"uid={os.getuid()} gid={os.getgid()} pid={os.getpid()} user={user} ")
        assert " exe=/" in actor
        assert (correlation, causation) == (trace, "GET /who")
        _, _, body = await engine.ask("GET", "/who", headers={"X-Request-Id": "r-7"})
        assert json.loads(body)[1] == "r-7"
        _, _, body = await engine.ask("GET", "/who")
        assert len(json.loads(body)[1]) == 32


async def test_names_may_have_slashes_and_escapes() -> None:
    def register(app: EngineApp) -> None:
        @app.route("/things/<path:name>/json", methods=["GET"])
        async def thing(name: str) -> Response:
            return json_response({"name": name, "all": Query.of(request).flag("all")})

        @app.route("/things/<path:name>", methods=["DELETE"])
        async def remove(name: str) -> Response:
            return empty(204)

    async with served(register) as engine:
        _, _, body = await engine.ask("GET", "/v1.53/things/a%2Fb/c:1@x/json?all=0")
        assert json.loads(body) == {"name": "a/b/c:1@x", "all": False}
        status, headers, body = await engine.ask("DELETE", "/things/a/b")
        assert (status, body, "content-type" in headers) == (204, b"", False)


@pytest.mark.skipif(shutil.which("docker") is None, reason="the docker CLI is not installed")
async def test_the_docker_cli_negotiates_and_prints_versions() -> None:
    """SYS-16."""

    def run(engine: Served, *arguments: str) -> str:
        env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "DOCKER_HOST": f"unix://{engine.path}"}
        done = subprocess.run(["docker", *arguments], env=env, capture_output=True, text=True, timeout=20)
        assert done.returncode == 0, done.stderr
        return done.stdout

    async with served() as engine:
        assert await in_thread(lambda: run(engine, "version", "--format", "{{.Server.MinAPIVersion}}")) == "1.24\n"
        assert "Storage Driver: overlay2" in await in_thread(lambda: run(engine, "info"))


def read_all(sock: socket.socket) -> bytes:
    seen = b""
    while data := sock.recv(65536):
        seen += data
    return seen


async def test_who_reads_to_the_end_is_not_kept_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of the answer comes with the answer; only then the server listens on for what the client still sends."""
    monkeypatch.setattr(server, "LINGER_S", 1000.0)

    def talk(path: str) -> bytes:
        with contextlib.closing(connected(path)) as sock:
            sock.sendall(b"GET /nonsense HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n")
            return read_all(sock)

    async with served() as engine:
        assert b"404 Not Found" in await in_thread(lambda: talk(engine.path))
