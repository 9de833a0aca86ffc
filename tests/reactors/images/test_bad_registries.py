"""Registries that misbehave, through the real client and a whole engine: each is refused in words, what it may send is
bounded, and the store holds nothing but whole blobs."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.drivers.registry.client import RegistryClient
from engine.drivers.registry.policy import RegistryPolicy
from tests.drivers.registry.test_client import answer, serving
from tests.reactors.images.test_pull import pull
from tests.support.images import TestImage, add, digest, image_of, layer_of
from tests.support.served_engine import TestEngine, running_engine

pytestmark = pytest.mark.root

NOISE = layer_of({"noise": __import__("random").Random(3).randbytes(300_000)})
GOOD = image_of(layer_of({"bin": None, "bin/sh": b"#!"}), NOISE)
LAYER = json.loads(GOOD.manifest)["layers"][1]
ATTEMPTS = 5


class Stub:
    """Serves one image as `library/app:1`; `instead` answers some requests its own way (True: it has answered)."""

    def __init__(self, image: TestImage, instead: Callable[[Any, Stub], bool]) -> None:
        self.image, self.instead = image, instead
        self.sent = 0
        self.address = ""

    def __call__(self, request: Any) -> None:
        if not isinstance(request.wfile, Counting):  # a connection serves several requests
            request.wfile = Counting(request.wfile, self)
        with contextlib.suppress(OSError):  # the client had enough
            if not self.instead(request, self):
                self.serve(request)

    def serve(self, request: Any) -> None:
        start = int((request.headers.get("Range") or "bytes=0-")[6:-1])
        if "/manifests/" in request.path:
            answer(request, 200, self.image.manifest, Content_Type=self.image.media_type)
        else:
            answer(request, 206 if start else 200, self.image.blobs[request.path.rpartition("/")[2]][start:])


class Counting:
    def __init__(self, file: Any, stub: Stub) -> None:
        self._file, self._stub = file, stub

    def write(self, data: bytes) -> None:
        for start in range(0, len(data), 1 << 16):
            self._stub.sent += self._file.write(data[start : start + (1 << 16)])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextlib.asynccontextmanager
async def engine_of(
    directory: Path, image: TestImage, instead: Callable[[Any, Stub], bool]
) -> AsyncIterator[tuple[TestEngine, Stub]]:
    stub = Stub(image, instead)
    with serving(stub) as server:
        stub.address = server.address
        async with RegistryClient(RegistryPolicy(), backoff_s=(0.0,) * 4) as client:
            async with running_engine(directory, registry_port=client) as engine:
                yield engine, stub


async def refusal_of(engine: TestEngine, stub: Stub) -> str:
    """What the user is told of the pull: a status before the stream, or the error at its end."""
    status, told = await engine.ask("POST", pull(f"{stub.address}/library/app", "1"))
    if status != 200:
        return str(told["message"])
    last = told if isinstance(told, dict) else json.loads(told.splitlines()[-1])
    assert last["errorDetail"]["message"] == last["error"]
    return str(last["error"])


async def check_store(engine: TestEngine) -> None:
    """No image, every blob whole, every layer of something that is leased; a prune takes it all."""
    assert (await engine.ask("GET", "/images/json"))[1] == []
    inventory = await engine.storage.layers.inventory()
    for name in inventory.blobs:
        with open(engine.storage.blobs.path(name), "rb") as file:
            assert "sha256:" + hashlib.file_digest(file, "sha256").hexdigest() == name
    assert not list(Path(engine.storage.places.temporary).glob("*"))
    assert (await engine.ask("POST", "/images/prune"))[0] == 200
    inventory = await engine.storage.layers.inventory()
    assert (inventory.blobs, inventory.partial, inventory.layers) == ((), (), ())


def of_layer(handle: Callable[[Any, bytes], None]) -> Callable[[Any, Stub], bool]:
    """Misbehave for the big layer alone."""

    def instead(request: Any, stub: Stub) -> bool:
        if LAYER["digest"] not in request.path:
            return False
        handle(request, stub.image.blobs[LAYER["digest"]])
        return True

    return instead


def of_manifest(handle: Callable[[Any], None]) -> Callable[[Any, Stub], bool]:
    def instead(request: Any, stub: Stub) -> bool:
        if "/manifests/" not in request.path:
            return False
        handle(request)
        return True

    return instead


def wrong_digest(request: Any, body: bytes) -> None:
    answer(request, 200, bytes(len(body)))


def short(request: Any, body: bytes) -> None:
    """Ends after half, and says so."""
    start = int((request.headers.get("Range") or "bytes=0-")[6:-1])
    answer(request, 206 if start else 200, body[start : len(body) // 2])


def endless(request: Any, body: bytes) -> None:
    request.send_response(200)
    request.send_header("Transfer-Encoding", "chunked")
    request.end_headers()
    for part in (body, *(body for _ in range(400))):
        request.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))


def breaks_then_500(request: Any, body: bytes) -> None:
    if request.headers.get("Range"):
        answer(request, 500, b"{}")
    else:
        answer(request, 200, body[: len(body) // 2], Content_Length=str(len(body)))
        request.close_connection = True


def in_circles(request: Any, body: bytes) -> None:
    answer(request, 307, b"", Location=request.path)


def gone(request: Any, body: bytes) -> None:
    answer(request, 404, b'{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown to registry"}]}')


@pytest.mark.parametrize(
    ("handle", "words"),
    [
        (wrong_digest, f"filesystem layer verification failed for digest {LAYER['digest']}"),
        (short, "unexpected EOF"),
        (endless, f"more than the expected {LAYER['size']} bytes"),
        (breaks_then_500, "received unexpected HTTP status: 500 Internal Server Error"),
        (in_circles, "stopped after 10 redirects"),
        (gone, "blob unknown"),
    ],
)
async def test_a_layer_that_can_not_be_had_fails_the_pull(
    tmp_path: Path, handle: Callable[[Any, bytes], None], words: str
) -> None:
    """IMG-04, IMG-05."""
    async with engine_of(tmp_path, GOOD, of_layer(handle)) as (engine, stub):
        assert words in await refusal_of(engine, stub)
        others = sum(len(blob) for blob in GOOD.blobs.values()) - LAYER["size"] + len(GOOD.manifest)
        # Sockets take some more than is read before the client's end shows.
        assert stub.sent < others + ATTEMPTS * (LAYER["size"] + (8 << 20)) + (64 << 10)
        await check_store(engine)


def huge(request: Any) -> None:
    answer(request, 200, b" " * (100 << 20), Content_Type=GOOD.media_type)


def schema1(request: Any) -> None:
    body = json.dumps({"schemaVersion": 1, "name": "library/app", "tag": "1", "fsLayers": [], "history": []}).encode()
    answer(request, 200, body, Content_Type="application/vnd.docker.distribution.manifest.v1+prettyjws")


def unknown(request: Any) -> None:
    answer(request, 200, b'{"schemaVersion":2,"mediaType":"application/x-whale"}', Content_Type="application/x-whale")


def other_platform(request: Any) -> None:
    entry = {"mediaType": GOOD.media_type, "size": len(GOOD.manifest), "digest": digest(GOOD.manifest)}
    entry |= {"platform": {"os": "linux", "architecture": "s390x"}}
    kind = "application/vnd.oci.image.index.v1+json"
    body = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": [entry]}).encode()
    answer(request, 200, body, Content_Type=kind)


def noise(request: Any) -> None:
    answer(request, 200, b"\x00\xff" * 100, Content_Type=GOOD.media_type)


def promised_otherwise(request: Any) -> None:
    answer(request, 200, GOOD.manifest, Content_Type=GOOD.media_type, Docker_Content_Digest="sha256:" + "0" * 64)


@pytest.mark.parametrize(
    ("handle", "words"),
    [
        (huge, "longer than 4194304 bytes"),
        (schema1, "schema"),
        (unknown, "application/x-whale"),
        (other_platform, "no matching manifest for linux/amd64"),
        (noise, "manifest"),
        (promised_otherwise, "manifest verification failed for digest sha256:0000"),
    ],
)
async def test_a_manifest_that_is_none_is_refused_before_anything_is_fetched(
    tmp_path: Path, handle: Callable[[Any], None], words: str
) -> None:
    """IMG-04."""
    async with engine_of(tmp_path, GOOD, of_manifest(handle)) as (engine, stub):
        told = await refusal_of(engine, stub)
        assert words in told, told
        assert stub.sent < 4 * (8 << 20), "a manifest ends at its limit"
        await check_store(engine)


async def test_a_refused_token_is_told_and_not_asked_for_again_and_again(tmp_path: Path) -> None:
    """IMG-03."""
    asked: list[str] = []

    def instead(request: Any, stub: Stub) -> bool:
        asked.append(request.path)
        if request.path.startswith("/token"):
            answer(request, 403, b'{"details":"not for you"}')
        else:
            realm = f'Bearer realm="http://{stub.address}/token",service="s"'
            answer(request, 401, b"{}", WWW_Authenticate=realm)
        return True

    async with engine_of(tmp_path, GOOD, instead) as (engine, stub):
        assert "not for you" in await refusal_of(engine, stub)
        assert len(asked) == 2
        await check_store(engine)


def as_it_is(request: Any, stub: Stub) -> bool:
    return False


def member(name: str, data: bytes = b"x", **fields: Any) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        add(tar, name, data, **fields)
    return out.getvalue()


def bad_layers() -> Iterator[tuple[str, bytes, str]]:
    yield "traversal", member("../../../../tmp/escaped"), "leads out of the archive's root"
    yield "hidden traversal", member("a/../../escaped"), "leads out of the archive's root"
    yield "link out", member("hard", b"", kind=tarfile.LNKTYPE, link="../../../etc/passwd"), "leads out of"
    yield "truncated", NOISE[:100_000], "unexpected EOF"
    yield "noise", b"\xff" * 10_240, "invalid tar header"


@pytest.mark.parametrize(("layer", "words"), [pytest.param(*rest, id=name) for name, *rest in bad_layers()])
async def test_a_layer_that_is_hostile_or_damaged_is_refused(tmp_path: Path, layer: bytes, words: str) -> None:
    """IMG-22: its digests are right, its content is not."""
    image = image_of(layer_of({"bin": None}), layer)
    async with engine_of(tmp_path / "engine", image, as_it_is) as (engine, stub):
        told = await refusal_of(engine, stub)
        assert words in told, told
        await check_store(engine)
    assert [each.name for each in tmp_path.iterdir()] == ["engine"]


async def test_a_layer_that_grows_behind_its_end_is_read_and_not_kept(tmp_path: Path) -> None:
    """A gzip bomb: 64 MB of nothing behind the archive, in 64 kB, and the DiffID of another."""
    image = image_of(layer_of({"bin": None}))
    bomb = gzip.compress(image.layers[0] + bytes(64 << 20), 9)
    manifest = json.loads(image.manifest)
    manifest["layers"][0] |= {"digest": digest(bomb), "size": len(bomb)}
    image.blobs[digest(bomb)] = bomb
    image.manifest = json.dumps(manifest).encode()
    async with engine_of(tmp_path, image, as_it_is) as (engine, stub):
        assert "layers from manifest don't match image configuration" in await refusal_of(engine, stub)
        await check_store(engine)


async def test_more_layers_than_an_overlay_takes_are_refused_before_they_are_fetched(tmp_path: Path) -> None:
    """IMG-21."""
    image = image_of(*(layer_of({f"f{number}": b""}) for number in range(130)))
    async with engine_of(tmp_path, image, as_it_is) as (engine, stub):
        assert await refusal_of(engine, stub) == "max depth exceeded"
        assert stub.sent < len(image.manifest) + len(image.config) + 10_000
        await check_store(engine)


async def test_a_manifest_and_a_configuration_must_agree(tmp_path: Path) -> None:
    """IMG-04."""
    image = image_of(layer_of({"a": b""}), layer_of({"b": b""}))
    manifest = json.loads(image.manifest)
    manifest["layers"].pop()
    image.manifest = json.dumps(manifest).encode()
    async with engine_of(tmp_path, image, as_it_is) as (engine, stub):
        assert await refusal_of(engine, stub) == "layers from manifest don't match image configuration"
        await check_store(engine)
