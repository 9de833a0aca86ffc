"""Registries that want to know who asks: passwords, tokens, certificates of both sides; and no secret is kept."""

from __future__ import annotations

import base64
import json
import subprocess
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.compat.test_push import pushed
from tests.compat.test_registry import registry_beside, remove_all
from tests.compat.test_user_namespaces import copy_of_etc
from tests.drivers.registry.test_client import answer, serving
from tests.support.certificates import Authority
from tests.support.engine import Engine, running_engine
from tests.support.outside import standing_in

pytestmark = pytest.mark.root
ADDRESS = "10.98.7.6"
"""Not of loopback, where everything is insecure."""
USER, PASSWORD = "jonah", "three-days-in-a-whale"


@pytest.fixture(scope="module")
def etc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_of_etc(tmp_path_factory.mktemp("etc") / "etc")


@pytest.fixture(scope="module")
def module_engine(etc: Path) -> Iterator[Engine]:
    with running_engine("--log-level", "debug", etc=etc) as engine:
        engine.in_namespace("ip", "address", "add", f"{ADDRESS}/32", "dev", "lo")
        yield engine


@pytest.fixture
def images(engine: Engine) -> Iterator[Engine]:
    yield engine
    remove_all(engine)


def told_nowhere(engine: Engine, *secrets: str) -> None:
    """Neither in a file of the engine's nor in what it says of itself (which goes to engine.log, below root)."""
    for secret in secrets:
        places = (str(engine.data_root), str(engine.exec_root), str(engine.log))
        found = subprocess.run(["grep", "-rlF", secret, *places], capture_output=True, text=True, check=False).stdout
        assert found == "", f"{secret} stands in {found}"


def test_a_registry_behind_tls_that_wants_a_password_and_a_certificate(
    images: Engine, etc: Path, tmp_path: Path
) -> None:
    """IMG-03, IMG-20: what is put into certs.d counts from the next request on."""
    authority = Authority(tmp_path / "trust")
    crt, key = authority.issue("server", ADDRESS)
    client_crt, client_key = authority.issue("client")
    tls: dict[str, object] = {"certificate": str(crt), "key": str(key), "clientcas": [str(authority.crt)]}
    with registry_beside(images, tmp_path, users={USER: PASSWORD}, host=ADDRESS, tls=tls) as registry:
        name = f"{registry.address}/box:v1"
        images.cli("tag", "busybox", name)
        login = ("login", "-u", USER, "--password-stdin", registry.address)
        refused = images.cli(*login, data=PASSWORD, check=False)
        assert "certificate signed by unknown authority" in refused.stderr
        assert "certificate signed by unknown authority" in images.cli("push", name, check=False).stderr
        trusted = etc / "docker" / "certs.d" / registry.address
        trusted.mkdir(parents=True)
        (trusted / "ca.crt").write_bytes(authority.crt.read_bytes())
        refused = images.cli(*login, data=PASSWORD, check=False)
        assert refused.returncode == 1
        assert "unknown authority" not in refused.stderr, "our side is content, theirs is not"
        (trusted / "client.key").write_bytes(client_key.read_bytes())
        assert "missing client certificate" in images.cli("pull", name, check=False).stderr
        (trusted / "client.cert").write_bytes(client_crt.read_bytes())
        assert "no basic auth credentials" in images.cli("push", name, check=False).stderr
        assert "401 Unauthorized" in images.cli(*login, data="fish", check=False).stderr
        assert "Login Succeeded" in images.out(*login, data=PASSWORD)
        found = pushed(images.out("push", name))
        remove_all(images)
        assert f"Digest: {found}" in images.out("pull", name)
    told_nowhere(images, PASSWORD)


class TokenServer:
    """Gives tokens to who knows the password or an identity token it gave. asked: (grant, scopes) of each request."""

    __test__ = False
    identity = "an-identity-token-of-forty-days"

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self.asked: list[tuple[str, list[str]]] = []
        self.given: list[str] = []

    def __call__(self, request: Any) -> None:
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(request.path).query)
        allowed, grant = False, "anonymous"
        if request.command == "POST":
            body = request.rfile.read(int(request.headers["Content-Length"])).decode()
            query = urllib.parse.parse_qs(body)
            grant = query["grant_type"][0]
            allowed = query.get("refresh_token") == [self.identity]
        elif request.headers.get("Authorization"):
            known = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            grant, allowed = "password", request.headers["Authorization"] == f"Basic {known}"
        scopes = [scope for text in query.get("scope", []) for scope in text.split()]
        self.asked.append((grant, scopes))
        if grant == "anonymous":
            allowed = all(scope.endswith(":pull") for scope in scopes) and "public" in "".join(scopes)
            scopes = scopes if allowed else []
        elif not allowed:
            return answer(request, 401, json.dumps({"details": "incorrect username or password"}).encode())
        token = self.authority.token("issuer", "registry", USER, scopes)
        self.given.append(token)
        shape = {"access_token": token, "token": token, "expires_in": 300}
        if query.get("offline_token") == ["true"]:
            shape["refresh_token"] = self.identity
        return answer(request, 200, json.dumps(shape).encode())


def test_a_registry_with_a_token_server_is_used_by_an_identity_token(images: Engine, tmp_path: Path) -> None:
    """IMG-03, IMG-20, API-20: the login's password is gone after it; pull, push and mount ask for what they need."""
    authority = Authority(tmp_path / "trust")
    server = TokenServer(authority)
    with standing_in(images.name), serving(server) as tokens:
        auth: dict[str, object] = {
            "token": {
                "realm": f"http://{tokens.address}/token", "service": "registry", "issuer": "issuer",
                "rootcertbundle": str(authority.crt),
            }
        }  # fmt: skip
        with registry_beside(images, tmp_path, auth=auth) as registry:
            name = f"{registry.address}/public/box:v1"
            images.cli("tag", "busybox", name)
            assert images.cli("push", name, check=False).returncode == 1
            login = ("login", "-u", USER, "--password-stdin", registry.address)
            assert "incorrect username or password" in images.cli(*login, data="fish", check=False).stderr
            assert "Login Succeeded" in images.out(*login, data=PASSWORD)
            kept = json.loads((images.root / "docker-config" / "config.json").read_text())["auths"][registry.address]
            assert kept.get("identitytoken") == server.identity, "the client has the token, not the password"
            server.asked.clear()
            found = pushed(images.out("push", name))
            assert {grant for grant, _ in server.asked} == {"refresh_token"}
            assert ["repository:public/box:pull,push"] in [scopes for _, scopes in server.asked]
            copy = f"{registry.address}/private/copy:v1"
            images.cli("tag", name, copy)
            assert "Mounted from public/box" in images.out("push", copy)
            images.cli("logout", registry.address)
            remove_all(images)
            assert f"Digest: {found}" in images.out("pull", name), "public is for everybody"
            refused = images.cli("pull", copy, check=False)
            assert refused.returncode == 1
            assert "denied" in refused.stderr or "unauthorized" in refused.stderr
    told_nowhere(images, PASSWORD, server.identity, *server.given)


def header(**fields: str) -> str:
    return base64.urlsafe_b64encode(json.dumps(fields).encode()).decode()


def test_every_form_of_the_credentials_header_is_understood(images: Engine, tmp_path: Path) -> None:
    """API-20, IMG-01, IMG-07: with and without padding, in either alphabet, as `auth`, and nothing at all."""
    with registry_beside(images, tmp_path, users={USER: PASSWORD + "?>~"}) as registry:
        images.cli("tag", "busybox", f"{registry.address}/box:v1")
        secret = PASSWORD + "?>~"
        whole = header(username=USER, password=secret, serveraddress=registry.address)
        standard = base64.b64encode(base64.urlsafe_b64decode(whole)).decode()
        joined = base64.b64encode(f"{USER}:{secret}".encode()).decode()
        path = f"/images/{registry.address}/box/push?tag=v1"
        for form in (whole, whole.rstrip("="), standard, header(auth=joined)):
            status, body = images.request("POST", path, None, **{"X-Registry-Auth": form})
            assert status == 200
            assert b'"Digest":"sha256:' in body, body
        for form in ("", "e30=", header(), header(username="", password=""), "%%%", "bnVsbA=="):
            status, body = images.request("POST", path, None, **{"X-Registry-Auth": form})
            assert b"no basic auth credentials" in body
        assert registry.request("HEAD", "/v2/box/manifests/v1").status == 200
    told_nowhere(images, secret, joined, whole)
