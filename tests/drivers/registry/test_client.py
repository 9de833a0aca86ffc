"""The registry client against a server that misbehaves on purpose: tokens, ranges, redirects, mirrors, limits."""

from __future__ import annotations

import base64
import datetime
import hashlib
import http.server
import json
import os
import socket
import socketserver
import ssl
import threading
import urllib.parse
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from engine.aggregates.values.descriptor import Descriptor
from engine.aggregates.values.ids import Digest
from engine.aggregates.values.reference import Reference, parse
from engine.drivers.ports.registry import Credentials
from engine.drivers.registry import policy as policies
from engine.drivers.registry.client import RegistryClient
from engine.drivers.registry.policy import RegistryPolicy, endpoints, is_insecure, tls_context
from engine.errors import Fault, PortError

MANIFEST = b'{"schemaVersion":2,"config":{},"layers":[]}'
BLOB = os.urandom(300_000)
BLOB_DIGEST = Digest("sha256:" + hashlib.sha256(BLOB).hexdigest())
AHAB = Credentials(username="ahab", password="whale")

Handle = Callable[[http.server.BaseHTTPRequestHandler], None]


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    handle_with: Handle


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.seen.append((self.path, dict(self.headers)))  # type: ignore[attr-defined]
        self.server.handle_with(self)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_GET

    def log_message(self, *unused: object) -> None: ...


def answer(request: Any, status: int, body: bytes = b"", **headers: str) -> None:
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    if "Content_Length" not in headers:
        request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)


@contextmanager
def serving(handle: Handle) -> Iterator[Any]:
    """address, and `seen`: (path, headers) of every request."""
    server = Server(("127.0.0.1", 0), Handler)
    server.handle_with, server.seen = handle, []  # type: ignore[attr-defined]
    server.address = f"127.0.0.1:{server.server_address[1]}"  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def impatient(policy: RegistryPolicy | None = None) -> RegistryClient:
    """A client that does not wait between attempts."""
    return RegistryClient(policy or RegistryPolicy(), backoff_s=(0.0, 0.0, 0.0, 0.0))


def image_on(server: Any) -> Reference:
    return parse(f"{server.address}/library/app:1")


async def read_blob(client: RegistryClient, server: Any, credentials: Credentials | None = None) -> bytes:
    return b"".join([part async for part in client.blob(image_on(server), BLOB_DIGEST, credentials)])


async def test_a_token_is_asked_for_once_and_used_for_what_it_is_for() -> None:
    def handle(request: Any) -> None:
        if request.path.startswith("/token"):
            body = json.dumps({"token": "t-0-k", "expires_in": 300}).encode()
            return answer(request, 200, body)
        if request.headers.get("Authorization") != "Bearer t-0-k":
            challenge = (
                f'Bearer realm="http://{server.address}/token",service="reg",scope="repository:library/app:pull"'
            )
            return answer(request, 401, b"{}", WWW_Authenticate=challenge)
        return answer(request, 200, MANIFEST if "manifests" in request.path else BLOB)

    with serving(handle) as server:
        async with impatient() as client:
            await client.manifest(image_on(server), AHAB)
            assert await read_blob(client, server, AHAB) == BLOB
    tokens = [(path, headers) for path, headers in server.seen if path.startswith("/token")]
    assert len(tokens) == 1 and len(server.seen) == 4
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(tokens[0][0]).query)
    assert query == {"service": ["reg"], "scope": ["repository:library/app:pull"], "account": ["ahab"]}
    assert tokens[0][1]["Authorization"] == "Basic " + base64.b64encode(b"ahab:whale").decode()


async def test_an_identity_token_is_exchanged_by_post_and_login_gives_one() -> None:
    bodies: list[bytes] = []

    def handle(request: Any) -> None:
        if request.path.startswith("/token"):
            if request.command == "POST":
                bodies.append(request.rfile.read(int(request.headers["Content-Length"])))
            return answer(request, 200, json.dumps({"access_token": "a", "refresh_token": "identity"}).encode())
        if request.headers.get("Authorization") != "Bearer a":
            return answer(
                request, 401, b"", WWW_Authenticate=f'Bearer realm="http://{server.address}/token",service="s"'
            )
        return answer(request, 200, MANIFEST)

    with serving(handle) as server:
        async with impatient() as client:
            assert await client.login(server.address, AHAB) == "identity"
            await client.manifest(image_on(server), Credentials(identity_token="identity"))
    form = urllib.parse.parse_qs(bodies[0].decode())
    assert form["grant_type"] == ["refresh_token"] and form["refresh_token"] == ["identity"]


async def test_a_refused_token_is_unauthorized_and_names_no_password() -> None:
    def handle(request: Any) -> None:
        if request.path.startswith("/token"):
            return answer(request, 401, b'{"details":"incorrect username or password"}')
        return answer(request, 401, b"", WWW_Authenticate=f'Bearer realm="http://{server.address}/token",service="s"')

    with serving(handle) as server:
        async with impatient() as client:
            with pytest.raises(PortError, match="unauthorized: incorrect username or password") as refused:
                await client.manifest(image_on(server), AHAB)
    assert refused.value.fault is Fault.UNAUTHORIZED and "whale" not in repr(refused.value.__dict__)


async def test_a_blob_that_breaks_is_resumed_where_it_broke() -> None:
    starts: list[int] = []

    def handle(request: Any) -> None:
        start = int((request.headers.get("Range") or "bytes=0-")[6:-1])
        starts.append(start)
        rest = BLOB[start:]
        status = 206 if start else 200
        answer(request, status, rest[:100_000], Content_Length=str(len(rest)))
        request.close_connection = True

    with serving(handle) as server:
        async with impatient() as client:
            assert await read_blob(client, server) == BLOB
    assert starts == [0, 100_000, 200_000]


async def test_a_server_without_ranges_is_read_from_the_start_again() -> None:
    count = 0

    def handle(request: Any) -> None:
        nonlocal count
        count += 1
        part = BLOB if count == 3 else BLOB[: 100_000 * count]
        answer(request, 200, part, Content_Length=str(len(BLOB)))
        request.close_connection = True

    with serving(handle) as server:
        async with impatient() as client:
            assert await read_blob(client, server) == BLOB


async def test_five_failures_in_a_row_are_enough() -> None:
    def handle(request: Any) -> None:
        answer(request, 503, b"")

    with serving(handle) as server:
        async with impatient() as client:
            for ask in (read_blob(client, server), client.manifest(image_on(server), None)):
                server.seen.clear()
                with pytest.raises(PortError, match="503") as refused:
                    await ask
                assert refused.value.fault is Fault.UNAVAILABLE and len(server.seen) == 5


async def test_another_host_never_sees_the_authorization() -> None:
    def store(request: Any) -> None:
        answer(request, 200, BLOB)

    with serving(store) as other:

        def handle(request: Any) -> None:
            if not request.headers.get("Authorization"):
                return answer(request, 401, b"", WWW_Authenticate='Basic realm="r"')
            return answer(request, 307, b"", Location=f"http://{other.address}/somewhere?signature=1")

        with serving(handle) as server:
            async with impatient() as client:
                assert await read_blob(client, server, AHAB) == BLOB
    assert [path for path, _ in other.seen] == ["/somewhere?signature=1"]
    assert all("Authorization" not in headers for _, headers in other.seen)
    assert all("Authorization" in headers for _, headers in server.seen[1:])


async def test_a_registry_that_turns_in_circles_is_given_up() -> None:
    def handle(request: Any) -> None:
        answer(request, 302, b"", Location=request.path)

    with serving(handle) as server:
        async with impatient() as client:
            with pytest.raises(PortError, match="redirects"):
                await client.manifest(image_on(server), None)


async def test_a_manifest_must_be_what_was_promised() -> None:
    def handle(request: Any) -> None:
        if request.path.endswith("/huge"):
            return answer(request, 200, b" " * (5 << 20))
        return answer(request, 200, MANIFEST, Docker_Content_Digest="sha256:" + "0" * 64)

    with serving(handle) as server:
        async with impatient() as client:
            for text in (":1", ":huge", "@sha256:" + "1" * 64):
                with pytest.raises(PortError) as refused:
                    await client.manifest(parse(f"{server.address}/app{text}"), None)
                assert refused.value.fault is Fault.INVALID


async def test_denied_and_unknown_are_told_in_dockers_words() -> None:
    def handle(request: Any) -> None:
        code = urllib.parse.urlsplit(request.path).path.rpartition("/")[2]
        body = json.dumps({"errors": [{"code": code.upper(), "message": "words of the registry"}]}).encode()
        answer(request, 404 if "unknown" in code else 403, body)

    with serving(handle) as server:
        name = f"{server.address}/app"
        async with impatient() as client:
            for tag, words in (
                ("denied", f"pull access denied for {name}, repository does not exist or may require 'docker login': "
                           "denied: words of the registry"),
                ("name_unknown", f"repository {name} not found: name unknown: words of the registry"),
                ("manifest_unknown", f"manifest for {name}:manifest_unknown not found: "
                                     "manifest unknown: words of the registry"),
            ):  # fmt: skip
                with pytest.raises(PortError) as refused:
                    await client.manifest(parse(f"{name}:{tag}"), None)
                assert (refused.value.fault, refused.value.message) == (Fault.NOT_FOUND, words)


async def test_the_hub_is_asked_through_its_mirror_without_its_password() -> None:
    def handle(request: Any) -> None:
        answer(request, 200, MANIFEST)

    with serving(handle) as mirror:
        policy = RegistryPolicy(mirrors=("http://127.0.0.1:1", f"http://{mirror.address}/cache/"))
        async with impatient(policy) as client:
            await client.manifest(parse("alpine"), AHAB)
    ((path, headers),) = mirror.seen
    assert path == "/cache/v2/library/alpine/manifests/latest" and "Authorization" not in headers


async def test_what_a_mirror_has_not_got_is_the_hubs_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mirror's 404 says nothing about the hub: neither that it cannot be reached nor what it says itself."""

    def nothing(request: Any) -> None:
        answer(request, 404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"not here"}]}')

    def denied(request: Any) -> None:
        answer(request, 403, b'{"errors":[{"code":"DENIED","message":"not for you"}]}')

    with serving(nothing) as mirror, serving(denied) as hub:
        for address, words in (("127.0.0.1:1", "connection refused"), (hub.address, "pull access denied")):
            monkeypatch.setattr(policies, "HUB_HOST", address)
            async with impatient(RegistryPolicy(mirrors=(f"http://{mirror.address}",))) as client:
                with pytest.raises(PortError, match=words):
                    await client.manifest(parse("alpine"), None)


async def test_a_registry_that_went_away_is_told_as_one_that_never_was_there() -> None:
    def handle(request: Any) -> None:
        answer(request, 200, b'{"tags":["a"]}', Connection="close")

    async with impatient() as client:
        with serving(handle) as registry:
            image = image_on(registry)
            assert await client.tags(image, None) == ("a",)
        with pytest.raises(PortError) as gone:
            await client.tags(image, None)
    assert gone.value.message.startswith(f'Get "http://{registry.address}/v2/": dial tcp {registry.address}: ')


async def test_tags_are_read_page_by_page() -> None:
    def handle(request: Any) -> None:
        if "last=" in request.path:
            return answer(request, 200, b'{"tags":["c"]}')
        return answer(request, 200, b'{"tags":["a","b"]}', Link='</v2/library/app/tags/list?n=2&last=b>; rel="next"')

    with serving(handle) as server:
        async with impatient() as client:
            assert await client.tags(image_on(server), None) == ("a", "b", "c")


async def test_a_cancelled_blob_gives_its_connection_up() -> None:
    release = threading.Event()

    def handle(request: Any) -> None:
        answer(request, 200, BLOB[:1000], Content_Length=str(len(BLOB)))
        release.wait(10)

    with serving(handle) as server:
        async with impatient() as client:
            with trio.move_on_after(0.2) as scope:
                await read_blob(client, server)
            assert scope.cancelled_caught
            release.set()


def test_plain_http_is_for_registries_that_are_declared_insecure() -> None:
    policy = RegistryPolicy(insecure=("reg.local:5000", "10.0.0.0/8"), mirrors=("https://mirror.example",))
    for host, insecure in (
        ("127.0.0.1:5000", True), ("127.8.8.8", True), ("localhost:5000", True), ("[::1]:5000", True),
        ("reg.local:5000", True), ("reg.local:5001", False), ("10.1.2.3:443", True), ("11.1.2.3", False),
    ):  # fmt: skip
        assert is_insecure(policy, host) is insecure, host
    assert [one.base for one in endpoints(policy, "docker.io")] == [
        "https://mirror.example",
        "https://registry-1.docker.io",
    ]
    assert [one.base for one in endpoints(policy, "10.1.2.3:80")] == ["https://10.1.2.3:80", "http://10.1.2.3:80"]
    assert [one.base for one in endpoints(policy, "quay.io")] == ["https://quay.io"]


def test_a_client_certificate_without_its_key_is_told(tmp_path: Path) -> None:
    (tmp_path / "reg:5000").mkdir()
    (tmp_path / "reg:5000/client.cert").write_text("")
    with pytest.raises(PortError, match="missing key client.key for client certificate client.cert"):
        tls_context(RegistryPolicy(certs_dir=str(tmp_path)), "reg:5000", verify=True)


class Names(trio.abc.HostnameResolver):
    """registry.test is this machine."""

    async def getaddrinfo(self, host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        assert host in (b"registry.test", "registry.test"), host
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", int(port)))]

    async def getnameinfo(self, *unused: Any) -> Any:
        raise AssertionError("nobody asks")


def certificate(directory: Path) -> tuple[Path, Path]:
    """A self-signed certificate of registry.test: files of it and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "registry.test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("registry.test")]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    crt, pem = directory / "ca.crt", directory / "server.pem"
    crt.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return crt, pem


async def test_tls_trusts_the_hosts_own_certs_d_and_nobody_else(tmp_path: Path) -> None:
    crt, pem = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(crt, pem)
    trio.socket.set_custom_hostname_resolver(Names())
    with serving(lambda request: answer(request, 200, MANIFEST)) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        host = f"registry.test:{server.server_address[1]}"
        trusted = tmp_path / "certs.d" / host
        reference = parse(f"{host}/app:1")
        async with RegistryClient(RegistryPolicy(certs_dir=str(tmp_path / "none"))) as client:
            with pytest.raises(PortError) as refused:
                await client.manifest(reference, None)
        words = "tls: failed to verify certificate: x509: certificate signed by unknown authority"
        assert refused.value.message == f'Get "https://{host}/v2/": {words}'
        async with RegistryClient(RegistryPolicy(certs_dir=str(tmp_path / "none"), insecure=(host,))) as client:
            assert (await client.manifest(reference, None)).body == MANIFEST
        trusted.mkdir(parents=True)
        (trusted / "ca.crt").write_bytes(crt.read_bytes())
        async with RegistryClient(RegistryPolicy(certs_dir=str(tmp_path / "certs.d"))) as client:
            assert (await client.manifest(reference, None)).body == MANIFEST


async def test_a_token_for_a_push_is_for_writing_and_for_a_mount_also_for_reading_there() -> None:
    """IMG-07, API-20."""

    def handle(request: Any) -> None:
        if request.path.startswith("/token"):
            return answer(request, 200, json.dumps({"token": "t-0-k"}).encode())
        request.rfile.read(int(request.headers.get("Content-Length") or 0))
        if request.headers.get("Authorization") != "Bearer t-0-k":
            challenge = f'Bearer realm="http://{server.address}/token",service="reg"'
            return answer(request, 401, b"{}", WWW_Authenticate=challenge)
        if request.command == "POST" and "mount" not in request.path:
            return answer(request, 202, b"", Location="/upload/1")
        return answer(request, 201)

    async def source(offset: int) -> AsyncIterator[bytes]:
        yield BLOB[offset:]

    descriptor = Descriptor(media_type="", digest=BLOB_DIGEST, size=len(BLOB))
    with serving(handle) as server:
        async with impatient() as client:
            assert await client.mount_blob(image_on(server), descriptor, "other/app", AHAB)
            await client.push_blob(image_on(server), descriptor, source, AHAB)
    asked = [urllib.parse.urlsplit(path).query for path, _ in server.seen if path.startswith("/token")]
    scopes = [urllib.parse.parse_qs(query)["scope"][0] for query in asked]
    own = "repository:library/app:pull,push"
    assert scopes == [f"{own} repository:other/app:pull", own]


async def test_a_manifest_is_put_again_when_the_registry_was_busy() -> None:
    """IMG-05."""
    received: list[bytes] = []

    def handle(request: Any) -> None:
        received.append(request.rfile.read(int(request.headers["Content-Length"])))
        return answer(request, 503 if len(received) < 3 else 201)

    descriptor = Descriptor(media_type="application/json", digest=Digest("sha256:" + "0" * 64), size=len(MANIFEST))
    with serving(handle) as server:
        async with impatient() as client:
            await client.push_manifest(image_on(server), descriptor, MANIFEST, None)
    assert received == [MANIFEST] * 3


@pytest.mark.parametrize(
    ("status", "code", "fault"),
    [
        (403, "DENIED", Fault.FORBIDDEN),
        (401, "UNAUTHORIZED", Fault.UNAUTHORIZED),
        (404, "MANIFEST_UNKNOWN", Fault.NOT_FOUND),
    ],
)
async def test_who_does_not_pull_hears_the_registrys_own_refusal(status: int, code: str, fault: Fault) -> None:
    """IMG-19."""
    body = json.dumps({"errors": [{"code": code, "message": "not for you"}]}).encode()
    with serving(lambda request: answer(request, status, body)) as server:
        async with impatient() as client:
            with pytest.raises(PortError) as refused:
                await client.manifest(image_on(server), None, to_pull=False)
    assert refused.value.fault is fault
    assert refused.value.message == f"{code.lower().replace('_', ' ')}: not for you"


async def test_a_token_that_is_not_enough_is_told_as_docker_hub_means_it() -> None:
    """IMG-01, IMG-07: a 401 that says `insufficient_scope` is no question for a password."""
    body = json.dumps({"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}).encode()

    def handle(request: Any) -> None:
        if request.path.startswith("/token"):
            return answer(request, 200, json.dumps({"token": "t-0-k"}).encode())
        request.rfile.read(int(request.headers.get("Content-Length") or 0))
        challenge = f'Bearer realm="http://{server.address}/token",service="reg",error="insufficient_scope"'
        return answer(request, 401, body, WWW_Authenticate=challenge)

    with serving(handle) as server:
        async with impatient() as client:
            with pytest.raises(PortError) as refused:
                await client.manifest(image_on(server), None)
            assert refused.value.fault is Fault.NOT_FOUND
            assert "pull access denied for" in refused.value.message
            assert refused.value.message.endswith("denied: requested access to the resource is denied")
            descriptor = Descriptor(media_type="application/json", digest=BLOB_DIGEST, size=len(MANIFEST))
            with pytest.raises(PortError) as refused:
                await client.push_manifest(image_on(server), descriptor, MANIFEST, None)
            assert refused.value.message == "denied: requested access to the resource is denied"


@pytest.mark.parametrize("body", [b"\xff", b"[" * 100_000, b"{}{}", b"5"])
async def test_answers_that_make_no_sense_are_failures_and_no_bugs(body: bytes) -> None:
    """IMG-03, IMG-04: what a registry and its token server say may be anything."""

    def handle(request: Any) -> None:
        if request.path.startswith("/token"):
            return answer(request, 200, body)
        challenge = f'Bearer realm="http://{server.address}/token"' if "manifests" in request.path else "nothing"
        return answer(request, 401 if "manifests" in request.path else 200, body, WWW_Authenticate=challenge)

    with serving(handle) as server:
        async with impatient() as client:
            for ask in (client.manifest, client.tags):
                with pytest.raises(PortError):
                    await ask(image_on(server), None)
            with pytest.raises(PortError, match="unable to parse server address"):
                await client.login("\x7f", AHAB)


async def test_a_name_nobody_knows_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nobody(Names):
        async def getaddrinfo(self, *unused: Any, **more: Any) -> Any:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    trio.socket.set_custom_hostname_resolver(Nobody())
    async with impatient() as client:
        with pytest.raises(PortError) as refused:
            await client.manifest(parse("registry.test/app:1"), None)
    assert refused.value.message == 'Get "https://registry.test/v2/": dial tcp: lookup registry.test: no such host'


async def test_an_upload_that_breaks_begins_again_where_the_registry_says() -> None:
    received: list[tuple[str, int]] = []

    def handle(request: Any) -> None:
        if request.command == "POST":
            return answer(request, 202, b"", Location="/v2/library/app/blobs/uploads/1?state=abc")
        length = int(request.headers["Content-Length"])
        body = request.rfile.read(length)
        received.append((request.path, len(body)))
        return answer(request, 500 if len(received) == 1 else 201)

    async def source(offset: int) -> AsyncIterator[bytes]:
        for start in range(offset, len(BLOB), 70_000):
            yield BLOB[start : start + 70_000]

    descriptor = Descriptor(media_type="", digest=BLOB_DIGEST, size=len(BLOB))
    with serving(handle) as server:
        async with impatient() as client:
            await client.push_blob(image_on(server), descriptor, source, None)
    path = "/v2/library/app/blobs/uploads/1?state=abc&digest=" + urllib.parse.quote(BLOB_DIGEST, safe="")
    assert received == [(path, len(BLOB))] * 2
