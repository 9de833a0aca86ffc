"""Contract of ImageArchives: load, import, save."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import trio

from engine.aggregates.values.ids import DiffID, Digest
from engine.drivers.linux.storage.store import LinuxStorage
from engine.drivers.ports.storage import LoadedImage, SavedImage
from engine.errors import Fault, PortError
from tests.support.images import TestImage, add, digest, image_of, layer_of

pytestmark = pytest.mark.root


@pytest.fixture
def storage(tmp_path: Path) -> LinuxStorage:
    return LinuxStorage(str(tmp_path / "root"))


async def stream(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 65_536):
        await trio.lowlevel.checkpoint()
        yield data[start : start + 65_536]


def two_layers(**options: object) -> TestImage:
    return image_of(layer_of({"a": b"1" * 5000}), layer_of({"b": os.urandom(300_000)}), **options)  # type: ignore[arg-type]


def saved(image: LoadedImage) -> SavedImage:
    return SavedImage(config=image.config, manifest=image.manifest, layers=image.layers, references=image.references)


async def nobody(digests: Sequence[str]) -> None:
    """Nobody discards anything here: a claim is not needed."""


async def written(storage: LinuxStorage, *images: SavedImage) -> bytes:
    return b"".join([part async for part in storage.archives.save(images)])


async def test_a_plain_layer_is_compressed_to_the_same_bytes_each_time(storage: LinuxStorage) -> None:
    """IMG-07."""
    plain = layer_of({"noise": os.urandom(3_000_000), "zeros": bytes(3_000_000)})
    stored = await storage.blobs.ingest(stream(plain))
    seen: list[int] = []
    made = await storage.archives.compress_layer(stored.digest, nobody, lambda done, _: seen.append(done))
    body = b"".join([part async for part in storage.blobs.stream(made.digest)])
    assert (digest(body), len(body)) == (made.digest, made.size)
    assert made.media_type == "application/vnd.docker.image.rootfs.diff.tar.gzip"
    assert gzip.decompress(body) == plain
    assert seen[-1] == len(plain)
    await storage.blobs.discard(made.digest)
    assert await storage.archives.compress_layer(stored.digest, nobody) == made


@pytest.mark.parametrize("squeeze", [bytes, gzip.compress])
async def test_a_docker_archive_is_loaded_with_its_id_and_names(storage: LinuxStorage, squeeze: type) -> None:
    image = two_layers()
    seen: list[int] = []
    archive = squeeze(image.docker_archive("app:1", "127.0.0.1:5000/app:2"))
    (loaded,) = await storage.archives.load(stream(archive), nobody, (), lambda done, _: seen.append(done))
    assert loaded.config.digest == image.image_id
    assert [layer.diff_id for layer in loaded.layers] == image.diff_ids
    assert loaded.references == ("docker.io/library/app:1", "127.0.0.1:5000/app:2")
    assert await storage.blobs.read(loaded.config.digest) == image.config
    assert json.loads(await storage.blobs.read(loaded.manifest.digest))["config"]["digest"] == image.image_id
    assert seen[-1] > 300_000
    assert os.listdir(storage.places.temporary) == []
    parent = None
    for layer in loaded.layers:
        parent = (await storage.layers.unpack(layer.blob.digest, layer.blob.media_type, layer.diff_id, parent)).chain_id


async def test_an_oci_layout_keeps_its_manifest(storage: LinuxStorage) -> None:
    image = two_layers(oci=True, compress="zstd")
    (loaded,) = await storage.archives.load(stream(image.oci_archive("docker.io/library/app:1")), nobody)
    assert loaded.manifest.digest == digest(image.manifest)
    assert loaded.references == ("docker.io/library/app:1",)
    (nameless,) = await storage.archives.load(stream(image.oci_archive()), nobody)
    assert nameless.references == ()


async def test_what_is_saved_loads_again_the_same(storage: LinuxStorage, tmp_path: Path) -> None:
    first, second = two_layers(), two_layers(oci=True)
    (one,) = await storage.archives.load(stream(first.docker_archive("one:1", "one:2")), nobody)
    (two,) = await storage.archives.load(stream(second.oci_archive("docker.io/library/two:1")), nobody)
    archive = await written(storage, saved(one), saved(two))
    assert archive == await written(storage, saved(one), saved(two))
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        names = tar.getnames()
        assert {"index.json", "manifest.json", "oci-layout", "repositories"} <= set(names)
        assert len(names) == len(set(names))
        docker = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
        assert [entry["RepoTags"] for entry in docker] == [["one:1", "one:2"], ["two:1"]]
    other = LinuxStorage(str(tmp_path / "other"))
    assert await other.archives.load(stream(archive), nobody) == (one, two)


async def test_layers_shared_by_links_are_found(storage: LinuxStorage) -> None:
    """As dockerd wrote archives before 25: a layer that is there already is a symbolic link."""
    image = two_layers()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        add(tar, "aaa/layer.tar", image.layers[0])
        add(tar, "bbb/real.tar", image.layers[1])
        add(tar, "bbb/layer.tar", kind=tarfile.SYMTYPE, link="../bbb/real.tar")
        add(tar, "config.json", image.config)
        entry = {"Config": "config.json", "RepoTags": None, "Layers": ["aaa/layer.tar", "bbb/layer.tar"]}
        add(tar, "manifest.json", json.dumps([entry]).encode())
    (loaded,) = await storage.archives.load(stream(out.getvalue()), nobody)
    assert [layer.diff_id for layer in loaded.layers] == image.diff_ids


async def test_an_archive_that_lies_is_refused_and_leaves_nothing(storage: LinuxStorage) -> None:
    image = two_layers(oci=True)
    name = next(iter(image.blobs))
    image.blobs[name] = b"something else"
    lying = image.oci_archive("app:1")
    no_image = layer_of({"readme": b""})
    cut = two_layers().docker_archive("app:1")[:200_000]
    for archive in (lying, no_image, cut, b"no tar at all" * 100):
        with pytest.raises(PortError) as refused:
            await storage.archives.load(stream(archive), nobody)
        assert refused.value.fault is Fault.INVALID
    assert (await storage.layers.inventory()).blobs == ()
    assert os.listdir(storage.places.temporary) == []


async def test_an_import_is_one_plain_layer(storage: LinuxStorage) -> None:
    layer = layer_of({"bin": None, "bin/tool": b"x"})
    import bz2
    import lzma

    async def hesitant(data: bytes) -> AsyncIterator[bytes]:
        yield data[:1]  # a client may send as little as it likes at once.
        await trio.sleep(0.05)
        yield data[1:]

    for archive in (layer, gzip.compress(layer), lzma.compress(layer), bz2.compress(layer)):
        imported = await storage.archives.import_layer(hesitant(archive), nobody)
        assert imported.diff_id == imported.blob.digest == digest(layer)
    found = await storage.layers.unpack(imported.blob.digest, imported.blob.media_type, DiffID(imported.diff_id), None)
    assert found.size == 1


async def test_what_becomes_a_blob_is_claimed_before(storage: LinuxStorage) -> None:
    """Or a removal beside it might take what was there a moment ago."""
    claimed: list[str] = []

    async def claim(digests: Sequence[str]) -> None:
        assert not any([await storage.blobs.has(Digest(each)) for each in digests])
        claimed.extend(digests)

    image = two_layers()
    await storage.archives.load(stream(image.docker_archive("app:1")), claim)
    assert set(claimed) == set((await storage.layers.inventory()).blobs) != set()
    await storage.archives.compress_layer(Digest(digest(image.layers[0])), claim)
    await storage.archives.import_layer(stream(layer_of({"other": b""})), claim)
    assert set(claimed) == set((await storage.layers.inventory()).blobs)


async def test_cancelling_a_load_leaves_nothing(storage: LinuxStorage) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield two_layers().docker_archive("app:1")[:100_000]
        await trio.sleep_forever()

    with trio.move_on_after(0.3):
        await storage.archives.load(endless(), nobody)
    assert os.listdir(storage.places.temporary) == []
