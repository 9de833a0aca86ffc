"""Contract of ImageArchives: load, import, save."""

from __future__ import annotations

import gzip
import io
import json
import os
import socket
import subprocess
import tarfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import trio

from engine.aggregates.values.ids import DiffID, Digest
from engine.drivers.linux.storage.store import LinuxStorage
from engine.drivers.ports.storage import Claim, LoadedImage, SavedImage
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


async def load(
    storage: LinuxStorage, archive: AsyncIterator[bytes], claim: Claim = nobody
) -> tuple[LoadedImage, ...]:
    async with storage.archives.load(archive, claim) as images:
        return images


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
    async with storage.archives.load(stream(archive), nobody, (), lambda done, _: seen.append(done)) as (loaded,):
        pass
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
    (loaded,) = await load(storage, stream(image.oci_archive("docker.io/library/app:1")))
    assert loaded.manifest.digest == digest(image.manifest)
    assert loaded.references == ("docker.io/library/app:1",)
    (nameless,) = await load(storage, stream(image.oci_archive()))
    assert nameless.references == ()


async def test_what_is_saved_loads_again_the_same(storage: LinuxStorage, tmp_path: Path) -> None:
    first, second = two_layers(), two_layers(oci=True)
    (one,) = await load(storage, stream(first.docker_archive("one:1", "one:2")))
    (two,) = await load(storage, stream(second.oci_archive("docker.io/library/two:1")))
    archive = await written(storage, saved(one), saved(two))
    assert archive == await written(storage, saved(one), saved(two))
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        names = tar.getnames()
        assert {"index.json", "manifest.json", "oci-layout", "repositories"} <= set(names)
        assert len(names) == len(set(names))
        docker = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
        assert [entry["RepoTags"] for entry in docker] == [["one:1", "one:2"], ["two:1"]]
    other = LinuxStorage(str(tmp_path / "other"))
    assert await load(other, stream(archive)) == (one, two)


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
    (loaded,) = await load(storage, stream(out.getvalue()))
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
            await load(storage, stream(archive))
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
    await load(storage, stream(image.docker_archive("app:1")), claim)
    assert set(claimed) == set((await storage.layers.inventory()).blobs) != set()
    await storage.archives.compress_layer(Digest(digest(image.layers[0])), claim)
    await storage.archives.import_layer(stream(layer_of({"other": b""})), claim)
    assert set(claimed) == set((await storage.layers.inventory()).blobs)


async def test_cancelling_a_load_leaves_nothing(storage: LinuxStorage) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield two_layers().docker_archive("app:1")[:100_000]
        await trio.sleep_forever()

    with trio.move_on_after(0.3):
        await load(storage, endless())
    assert os.listdir(storage.places.temporary) == []


def early_trees(storage: LinuxStorage) -> dict[int, set[str]]:
    """What layers that lie nowhere yet consist of, by the inode of their root."""
    found = {}
    for diff in Path(storage.places.temporary).glob("layer-*/diff"):
        found[diff.stat().st_ino] = set(os.listdir(diff))
    return found


@pytest.mark.parametrize("compress", ["", "gzip", "zstd"])
async def test_layers_are_unpacked_while_their_archive_still_comes(storage: LinuxStorage, compress: str) -> None:
    """IMG-15."""
    image = image_of(layer_of({"a": b"1"}), layer_of({"b": b"2", ".wh.a": b""}), oci=True, compress=compress)
    archive, seen = image.oci_archive("app:1"), dict[int, set[str]]()

    async def paused() -> AsyncIterator[bytes]:
        yield archive[:-1024]
        with trio.fail_after(20):
            while sorted(map(len, seen.values())) != [1, 2]:
                await trio.sleep(0.01)
                seen.update(early_trees(storage))
        yield archive[-1024:]

    async with storage.archives.load(paused(), nobody) as (loaded,):
        parent, roots = None, []
        for layer in loaded.layers:
            blob = layer.blob
            made = await storage.layers.unpack(blob.digest, blob.media_type, layer.diff_id, parent)
            parent = made.chain_id
            roots.append(os.stat(storage.layers.lowers([parent])[0]).st_ino)
    assert {frozenset(seen[root]) for root in roots} == {frozenset({"a"}), frozenset({"a", "b"})}
    assert os.listdir(storage.places.temporary) == []


async def test_what_was_unpacked_early_and_not_wanted_is_gone_with_its_archive(storage: LinuxStorage) -> None:
    """A tar that is no layer, one that is hostile, and layers for which nobody asks in the end."""
    image = two_layers()
    out = io.BytesIO(image.docker_archive("app:1"))
    with tarfile.open(fileobj=out, mode="a") as tar:
        add(tar, "sources.tar", layer_of({"main.c": b"int main;"}))
        add(tar, "hostile.tar", layer_of({"../outside": b""}))
    async with storage.archives.load(stream(out.getvalue()), nobody):
        pass
    assert os.listdir(storage.places.temporary) == []
    assert (await storage.layers.inventory()).layers == ()


async def test_an_early_layer_that_is_not_what_the_image_says_is_refused(storage: LinuxStorage) -> None:
    """IMG-15."""
    image = image_of(layer_of({"a": b"1"}), oci=True)
    async with storage.archives.load(stream(image.oci_archive("app:1")), nobody) as (loaded,):
        (blob,) = [layer.blob for layer in loaded.layers]
        other = DiffID(digest(b"another"))
        with pytest.raises(PortError, match="don't match image configuration") as refused:
            await storage.layers.unpack(blob.digest, blob.media_type, other, None)
    assert refused.value.fault is Fault.INVALID
    assert (await storage.layers.inventory()).layers == ()


async def test_a_worker_that_reads_a_clients_socket_ends_with_its_engine(storage: LinuxStorage, tmp_path: Path) -> None:
    """WIN-04. Its stdin ends with the process that holds the other end."""
    theirs, lent = socket.socketpair()
    with theirs, lent:
        theirs.send(two_layers().docker_archive("app:1")[:10_000])
        fields = {"directory": str(tmp_path), "upload": {"socket": lent.fileno(), "length": None, "early": 0}}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "lent": lent.fileno()}
        async with storage.workers.start("receive_archive", fields, **pipes) as worker:
            assert worker.process.stdin is not None
            await worker.process.stdin.aclose()
            with trio.fail_after(20), pytest.raises(PortError, match="nobody waits"):
                await worker.outcome()
