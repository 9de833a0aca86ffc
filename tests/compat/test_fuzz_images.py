"""Requests about images by the specification and beyond it, against a whole engine without any registry.

As tests/compat/test_fuzz.py: every answer comes, a failure is one that is documented here, has Docker's shape, and what
is refused leaves nothing but the attempt of a transfer in the log. `ISHMAEL_FUZZ=1000` for longer.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator

import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from tests.compat.test_fuzz import Yard, bounded
from tests.support import spec
from tests.support.engine import Engine
from tests.support.images import image_of, layer_of
from tests.support.rude import ask
from tests.support.spec import Operation

pytestmark = pytest.mark.root

IMAGES = tuple(
    operation
    for operation in spec.OPERATIONS
    if operation.path.startswith(("/images", "/distribution", "/auth", "/system/df"))
)
SMALL = image_of(layer_of({"f": b"x"}), Labels={"a": "b"})
OTHER = image_of(layer_of({"g": b"y"}))
NOWHERE = "app@sha256:" + "0" * 64
NAMES = ("app:v1", "app", "other", SMALL.image_id, SMALL.image_id[7:19], "127.0.0.1:1/app:v1", NOWHERE)
ASK_A_REGISTRY = ("/images/create", "/images/search", "/auth", "/json")
"""500 there is Docker's own answer of a registry that is not there: /json is that of /distribution."""

ATTEMPTS = ("transfer.", "image.layer_compressed")
"""What a push or pull is in the log before its registry is asked."""

WORDS = {
    "fromImage": ("app", "127.0.0.1:1/app", "localhost:1/app", "UPPER", NOWHERE, "scratch", "a/b/c", ":"),
    "fromSrc": ("-", "http://127.0.0.1:1/x", "x"),
    "repo": ("app", "new/app", "127.0.0.1:1/new", "UPPER", "sha256", "a" * 300, NOWHERE, "a:b"),
    "tag": ("v1", "v2", "", "latest", "a b", "-", "x" * 129, "sha256:" + "0" * 64),
    "platform": ("linux/amd64", "linux", "a/b/c/d", "{}", '{"os":"linux","architecture":"arm64"}', "[]", "windows"),
    "platforms": ('{"os":"linux","architecture":"amd64"}', "x", "[]"),
    "changes": ("CMD x", "ENV a=b", "NOSUCH x", "LABEL", "VOLUME /x", "EXPOSE 80/tcp", "ONBUILD RUN x", "\0"),
    "filters": (
        '{"dangling":["true"]}', '{"dangling":{"x":true}}', '{"label":["a=b"]}', '{"before":["nosuch"]}',
        '{"since":["app"]}', '{"reference":["a*"]}', '{"reference":["["]}', '{"until":["1h"]}', '{"until":["x"]}',
        '{"until":["1h","2h"]}', '{"nosuch":["x"]}', "[]", "{", '{"stars":["x"]}', '{"is-official":["maybe"]}',
    ),
    "names": ("app", "other:latest", "nosuch", ""),
    "term": ("127.0.0.1:1/x", "x", "http://x", "a/b/c"),
    "limit": ("1", "101", "-1", "x"),
    "type": ("image", "container", "volume", "build-cache", "nosuch", ""),
    "verbose": ("1", "0", "maybe"),
    "message": ("x", "ü"),
}  # fmt: skip


class ImageYard(Yard):
    """The engine with two images under a few names."""

    def tidy(self) -> None:
        wanted = {"app:v1", "app:latest", "127.0.0.1:1/app:v1", "other:latest", "busybox:latest"}
        rows = self.engine.json("/images/json?all=1")
        if {name for row in rows for name in row["RepoTags"]} == wanted and len(rows) == 3:
            return
        for row in rows:
            if "busybox:latest" not in row["RepoTags"]:
                self.must("DELETE", f"/images/{row['Id']}?force=1", 200, 404, 409)
        if not any("busybox:latest" in row["RepoTags"] for row in rows):
            self.engine.load_busybox()
        for image, names in ((SMALL, ("app:v1", "app:latest", "127.0.0.1:1/app:v1")), (OTHER, ("other:latest",))):
            self.must("POST", "/images/load", 200, body=image.docker_archive(*names))


@pytest.fixture(scope="module")
def yard(module_engine: Engine) -> Iterator[ImageYard]:
    yield ImageYard(module_engine)
    for row in module_engine.json("/images/json?all=1"):
        if "busybox:latest" not in row["RepoTags"]:
            module_engine.request("DELETE", f"/images/{row['Id']}?force=1")


def queries(operation: Operation) -> st.SearchStrategy[str]:
    """Now words that mean something here, now any of the general ones."""
    known = [name for name in sorted(operation.query) if name in WORDS]
    general = spec.queries(operation)
    if not known:
        return general
    pairs = st.sampled_from(known).flatmap(
        lambda name: st.sampled_from(WORDS[name]).map(lambda text: f"{name}={spec.quote_from_bytes(text.encode())}")
    )
    return st.tuples(st.lists(pairs, max_size=4).map("&".join), general).map("&".join) | general


def bodies(operation: Operation) -> st.SearchStrategy[bytes]:
    if operation.path == "/auth":
        servers = ("127.0.0.1:1", "https://index.docker.io/v1/", "", "http://[", "a b", "127.0.0.1:99999")
        login = st.sampled_from(servers).map(lambda server: {"username": "a", "password": "b", "serveraddress": server})
        return login.map(json.dumps).map(str.encode) | spec.bodies(operation)
    archive = SMALL.docker_archive("app:v1")
    cut = st.integers(0, len(archive)).map(lambda at: archive[:at])
    spoilt = st.integers(0, len(archive) - 1).map(lambda at: archive[:at] + b"\xff" + archive[at + 1 :])
    return st.one_of(st.just(archive), cut, spoilt, st.just(SMALL.oci_archive("app:v1")), st.binary(max_size=2000))


def credentials() -> st.SearchStrategy[dict[str, str]]:
    headers = ("", "e30=", "e30", "eyJ1c2VybmFtZSI6ImEiLCJwYXNzd29yZCI6ImIifQ==", "%%%", "bnVsbA==", "W10=", "MTIz")
    return st.sampled_from(headers).map(lambda text: {"X-Registry-Auth": text} if text else {})


@pytest.mark.parametrize("operation", IMAGES, ids=lambda operation: operation.name)
def test_every_operation_bears_every_request(yard: ImageYard, operation: Operation) -> None:
    """IMG-01, IMG-07..20, SYS-17: bad input is a 4xx in Docker's shape, or told in the stream, and nothing changes."""

    @bounded
    @given(st.data())
    def bears(data: st.DataObject) -> None:
        yard.tidy()
        target = data.draw(spec.targets(operation, NAMES))
        query = data.draw(queries(operation))
        headers = {**data.draw(spec.headers(operation)), **data.draw(credentials())}
        body = data.draw(bodies(operation)) if operation.body else None
        before, correlation = yard.position(), secrets.token_hex(16)
        note(f"{operation.method} {target}?{query} {headers} {len(body or b'')} bytes")
        told = {**headers, "X-Request-Id": correlation}
        answer = ask(yard.engine, operation.method, f"{target}?{query}", told, body, stream=False)
        note(f"{answer.status} {answer.body[:300]!r}")
        assert answer.status != 0, "no answer"
        left = [name for name in yard.appended(before, correlation) if not name.startswith(ATTEMPTS)]
        if answer.status >= 400:
            assert list(json.loads(answer.body)) == ["message"], "Docker's shape"
            assert json.loads(answer.body)["message"].strip(), "and words"
            if answer.status == 501:
                assert b"not implemented" in answer.body
            elif answer.status >= 500:
                asks = operation.path.endswith(ASK_A_REGISTRY) and not operation.path.startswith("/images/{name}")
                assert asks and operation.path != "/images/json", "a failure"
            assert left == [], "a refused request left events"
        elif operation.method == "GET":
            assert [name for name in left if not name.endswith(".noted")] == [], "reading changed something"
        elif b'"errorDetail"' in answer.body:
            assert left == [], "what failed in its stream left events"
        assert not (complaint := yard.traceback()), complaint

    bears()
