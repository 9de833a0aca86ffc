"""Contract of Registry, over a real registry on loopback; of its writing half also over the simulated one."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest
import trio

from engine.aggregates.values.descriptor import Descriptor
from engine.aggregates.values.ids import Digest
from engine.aggregates.values.layers import chain_ids
from engine.aggregates.values.manifest import ImageIndex, Manifest, choose, parse_image_config, parse_manifest
from engine.aggregates.values.platform import Platform
from engine.aggregates.values.reference import parse
from engine.drivers.linux.storage.store import LinuxStorage
from engine.drivers.ports.registry import Credentials, Registry
from engine.drivers.registry.client import RegistryClient
from engine.drivers.registry.policy import RegistryPolicy
from engine.errors import Fault, PortError
from tests.support.images import busybox_image, digest, image_of, layer_of
from tests.support.registry import TestRegistry, free_port, running_registry
from tests.support.served_engine import MemoryRegistry


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestRegistry]:
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestRegistry]:
    with running_registry(tmp_path_factory.mktemp("private"), users={"ahab": "whale"}) as running:
        yield running


@pytest.fixture
async def client() -> AsyncIterator[RegistryClient]:
    async with RegistryClient(RegistryPolicy()) as opened:
        yield opened


AHAB = Credentials(username="ahab", password="whale")


async def whole(stream: AsyncIterator[bytes]) -> bytes:
    return b"".join([part async for part in stream])


async def test_a_manifest_and_its_blobs_come_as_they_were_pushed(
    registry: TestRegistry, client: RegistryClient
) -> None:
    image = image_of(layer_of({"f": b"x" * 100_000}))
    pushed = registry.push("a/image", "1", image)
    reference = parse(f"{registry.address}/a/image:1")
    remote = await client.manifest(reference, None)
    assert remote.descriptor == Descriptor(media_type=image.media_type, digest=Digest(pushed), size=len(image.manifest))
    manifest = parse_manifest(remote.body, remote.descriptor.media_type)
    assert isinstance(manifest, Manifest)
    for descriptor in (manifest.config, *manifest.layers):
        body = await whole(client.blob(reference, descriptor.digest, None))
        assert digest(body) == descriptor.digest
        assert await whole(client.blob(reference, descriptor.digest, None, offset=5)) == body[5:]
    by_digest = await client.manifest(parse(f"{registry.address}/a/image@{pushed}"), None)
    assert by_digest.body == remote.body
    assert await client.tags(reference, None) == ("1",)


@pytest.mark.root
async def test_a_whole_image_is_pulled_into_the_store(
    registry: TestRegistry, client: RegistryClient, tmp_path: Path
) -> None:
    image, other = busybox_image(oci=True, compress="zstd"), image_of(layer_of({"other": b""}), oci=True)
    registry.push_index("busybox", "latest", {"linux/arm64/v8": other, "linux/amd64": image})
    storage = LinuxStorage(str(tmp_path))
    reference = parse(f"{registry.address}/busybox:latest")
    index = parse_manifest((await client.manifest(reference, None)).body)
    assert isinstance(index, ImageIndex)
    chosen = choose(index, Platform(os="linux", architecture="amd64")).descriptor
    by_digest = parse(f"{registry.address}/busybox@{chosen.digest}")
    manifest = parse_manifest((await client.manifest(by_digest, None)).body)
    assert isinstance(manifest, Manifest)
    blob = client.blob(reference, manifest.config.digest, None)
    await storage.blobs.ingest(blob, manifest.config.digest, size=manifest.config.size)
    config = parse_image_config(await storage.blobs.read(manifest.config.digest))
    assert config.config.cmd == ("/bin/sh",)
    chain = chain_ids(config.diff_ids)
    for layer, diff_id in zip(manifest.layers, config.diff_ids, strict=True):
        blob = client.blob(reference, layer.digest, None)
        await storage.blobs.ingest(blob, layer.digest, size=layer.size)
        await storage.layers.unpack(layer.digest, layer.media_type, diff_id, None)
    assert Path(storage.layers.lowers(chain)[0], "bin/busybox").stat().st_mode & 0o777 == 0o755


async def test_refusals_speak_dockers_words(registry: TestRegistry, client: RegistryClient) -> None:
    registry.push("known", "1", image_of(layer_of({})))
    with pytest.raises(PortError) as refused:
        await client.manifest(parse(f"{registry.address}/known:2"), None)
    assert refused.value.fault is Fault.NOT_FOUND
    assert refused.value.message == (
        f"manifest for {registry.address}/known:2 not found: manifest unknown: manifest unknown"
    )
    nobody = f"127.0.0.1:{free_port()}"
    with pytest.raises(PortError) as refused:
        await client.manifest(parse(f"{nobody}/known:1"), None)
    assert refused.value.fault is Fault.UNAVAILABLE
    assert refused.value.message == f'Get "http://{nobody}/v2/": dial tcp {nobody}: connect: connection refused'
    with pytest.raises(PortError) as refused:
        await whole(client.blob(parse(f"{registry.address}/known:1"), Digest(digest(b"none")), None))
    assert refused.value.fault is Fault.NOT_FOUND


async def test_a_password_opens_a_private_registry(private: TestRegistry, client: RegistryClient) -> None:
    image = image_of(layer_of({"secret": b""}))
    private.push("pequod", "1", image)
    reference = parse(f"{private.address}/pequod:1")
    assert (await client.manifest(reference, AHAB)).body == image.manifest
    for credentials, words in (
        (None, "no basic auth credentials"),
        (Credentials(username="ahab", password="shark"), "unauthorized: authentication required"),
    ):
        with pytest.raises(PortError, match=words) as refused:
            await client.manifest(reference, credentials)
        assert refused.value.fault is Fault.UNAUTHORIZED
        assert "shark" not in repr(refused.value) + repr(credentials)


async def test_login_tells_good_credentials_from_bad(private: TestRegistry, client: RegistryClient) -> None:
    assert await client.login(private.address, AHAB) == ""
    with pytest.raises(PortError, match="login attempt to http://.* failed with status: 401 Unauthorized") as refused:
        await client.login(private.address, Credentials(username="ahab", password="shark"))
    assert refused.value.fault is Fault.UNAUTHORIZED


async def test_cancelling_a_pull_closes_its_connection(registry: TestRegistry, client: RegistryClient) -> None:
    image = image_of(layer_of({"f": b"y" * 1000}))
    registry.push("cancel", "1", image)
    reference = parse(f"{registry.address}/cancel:1")
    with trio.move_on_after(0):
        await client.manifest(reference, None)
    assert (await client.manifest(reference, None)).body == image.manifest


@pytest.fixture(params=["memory", "real"])
async def either(request: pytest.FixtureRequest, private: TestRegistry) -> AsyncIterator[tuple[Registry, str]]:
    """A registry by its port, and its address: the simulated one, or a real one with a password."""
    if request.param == "memory":
        yield MemoryRegistry(), "127.0.0.1:5000"
    else:
        async with RegistryClient(RegistryPolicy()) as opened:
            yield opened, private.address


async def test_what_is_pushed_can_be_pulled_and_mounted(either: tuple[Registry, str]) -> None:
    """IMG-07, IMG-05: a small blob with the end of its upload, a large one streamed before it."""
    client, address = either
    image = image_of(layer_of({"f": b"z" * 200_000}), layer_of({"large": random.Random(7).randbytes(6_000_000)}))
    reference = parse(f"{address}/pushed:1")

    async def stream_of(blob: bytes, offset: int) -> AsyncIterator[bytes]:
        yield blob[offset : offset + 1000]
        yield blob[offset + 1000 :]

    for name, blob in image.blobs.items():
        descriptor = Descriptor(media_type="", digest=Digest(name), size=len(blob))
        assert not await client.has_blob(reference, descriptor, AHAB)
        await client.push_blob(reference, descriptor, partial(stream_of, blob), AHAB)
        assert await client.has_blob(reference, descriptor, AHAB)
        assert await client.mount_blob(parse(f"{address}/mounted:1"), descriptor, "pushed", AHAB)
    manifest = Descriptor(media_type=image.media_type, digest=Digest(digest(image.manifest)), size=len(image.manifest))
    for name in ("pushed:1", "mounted:1"):
        await client.push_manifest(parse(f"{address}/{name}"), manifest, image.manifest, AHAB)
        assert (await client.manifest(parse(f"{address}/{name}"), AHAB)).descriptor == manifest
    absent = Descriptor(media_type="", digest=Digest(digest(b"absent")), size=6)
    assert not await client.mount_blob(reference, absent, "mounted", AHAB)


async def test_a_push_without_the_password_is_refused(private: TestRegistry, client: RegistryClient) -> None:
    image = image_of(layer_of({}))
    reference = parse(f"{private.address}/pushed:1")
    manifest = Descriptor(media_type=image.media_type, digest=Digest(digest(image.manifest)), size=len(image.manifest))
    with pytest.raises(PortError) as refused:
        await client.push_manifest(reference, manifest, image.manifest, None)
    assert refused.value.fault is Fault.UNAUTHORIZED
