"""Contract of Files and of a container's changes: stopped containers, running ones, volumes, links that lead astray."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import subprocess
import tarfile
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest
import trio

from engine.aggregates.values.ids import ChainID, ContainerID, DiffID, Digest
from engine.aggregates.values.layers import chain_ids
from engine.drivers.linux.storage.store import LinuxStorage
from engine.drivers.ports.runtime import RootFilesystem
from engine.drivers.ports.storage import Change, FilesMount, FilesRoot
from engine.errors import Fault, PortError
from tests.contracts.test_storage_layers import mounted
from tests.support.images import busybox_layer, digest, layer_of

pytestmark = pytest.mark.root
CONTAINER = ContainerID("c" * 64)


async def stream(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 10_000):
        await trio.lowlevel.checkpoint()
        yield data[start : start + 10_000]


@pytest.fixture(params=["overlay2", "vfs"])
def storage(tmp_path: Path, request: pytest.FixtureRequest) -> LinuxStorage:
    return LinuxStorage(str(tmp_path / "root"), driver=request.param)


async def rootfs_of(storage: LinuxStorage, *layers: bytes) -> RootFilesystem:
    chain = chain_ids(DiffID(digest(layer)) for layer in layers)
    parent: ChainID | None = None
    for layer, chain_id in zip(layers, chain, strict=True):
        blob = await storage.blobs.ingest(stream(layer))
        await storage.layers.unpack(blob.digest, "", DiffID(digest(layer)), parent)
        parent = chain_id
    return await storage.rootfs.prepare(CONTAINER, chain, volatile=False)


def root_of(rootfs: RootFilesystem, **more: object) -> FilesRoot:
    return FilesRoot(container_id=CONTAINER, rootfs=rootfs, **{"pid": 0, **more})  # type: ignore[arg-type]


async def tar_of(source: AsyncIterator[bytes]) -> tarfile.TarFile:
    return tarfile.open(fileobj=io.BytesIO(b"".join([part async for part in source])))


@contextlib.contextmanager
def running(rootfs: RootFilesystem, place: Path) -> Iterator[int]:
    """A process in a mount namespace of its own whose root is the tree, as a container's is; its pid."""
    place.mkdir()
    overlay = (
        f"-t overlay overlay -o lowerdir={':'.join(rootfs.lowers)},upperdir={rootfs.upper},workdir={rootfs.work}"
    )
    what = overlay if rootfs.lowers else f"--bind {rootfs.upper}"
    script = f"mount {what} {place} && exec chroot {place} /bin/sh -c 'echo up; exec cat'"
    command = ["unshare", "--mount", "sh", "-c", script]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        yield process.pid
    finally:
        process.kill()
        process.wait()


async def test_stat_speaks_gos_file_modes(storage: LinuxStorage) -> None:
    rootfs = await rootfs_of(storage, layer_of({"dir": None, "dir/file": b"12345"}))
    os.symlink("../../../dir/./file", f"{rootfs.upper}/link")
    os.mkfifo(f"{rootfs.upper}/fifo", 0o640)
    os.utime(f"{rootfs.upper}/fifo", ns=(0, 1_500_000_000))
    root = root_of(rootfs)
    found = await storage.files.stat(root, "dir/file")
    assert (found.name, found.size, found.mode, found.mtime) == ("file", 5, 0o644, "1970-01-01T00:00:00Z")
    assert (await storage.files.stat(root, "/dir/")).mode == 1 << 31 | 0o755
    link = await storage.files.stat(root, "/link")
    assert (link.mode, link.link_target) == (1 << 27 | 0o777, "/dir/file")
    fifo = await storage.files.stat(root, "/fifo")
    assert (fifo.mode & 1 << 25, fifo.mtime) == (1 << 25, "1970-01-01T00:00:01.5Z")
    assert (await storage.files.stat(root, "/")).name == "/"
    with pytest.raises(PortError) as refused:
        await storage.files.stat(root, "/nowhere")
    assert refused.value.fault is Fault.NOT_FOUND
    assert refused.value.message == f"Could not find the file /nowhere in container {CONTAINER}"


async def test_an_archive_is_named_after_the_last_part_of_its_path(storage: LinuxStorage) -> None:
    rootfs = await rootfs_of(storage, layer_of({"a": None, "a/b": None, "a/b/f": b"x" * 300_000, "a/b/g": b"y"}))
    root = root_of(rootfs)
    found = await tar_of(storage.files.archive(root, "/a/b"))
    assert found.getnames() == ["b", "b/f", "b/g"]
    assert found.extractfile("b/f").read() == b"x" * 300_000  # type: ignore[union-attr]
    assert (await tar_of(storage.files.archive(root, "/a/b/."))).getnames() == [".", "./f", "./g"]
    assert (await tar_of(storage.files.archive(root, "a/b/g"))).getnames() == ["g"]
    with pytest.raises(PortError) as refused:
        await tar_of(storage.files.archive(root, "/none"))
    assert refused.value.fault is Fault.NOT_FOUND
    exported = (await tar_of(storage.files.export(root))).getnames()
    assert {"a/b/f", "etc/hosts", ".dockerenv"} <= set(exported)


async def test_an_abandoned_archive_ends_its_worker(storage: LinuxStorage) -> None:
    rootfs = await rootfs_of(storage, layer_of({"big": bytes(5_000_000)}))
    source = storage.files.archive(root_of(rootfs), "/big")
    assert await anext(source)
    await source.aclose()
    assert os.listdir(storage.places.temporary) == []


async def test_extracting_merges_into_the_read_write_layer(storage: LinuxStorage) -> None:
    rootfs = await rootfs_of(storage, layer_of({"dir": None, "dir/old": b"old", "file": b""}))
    root = root_of(rootfs)
    wishes = {"no_overwrite_dir_non_dir": False, "copy_uid_gid": False}
    await storage.files.extract(root, "/dir", stream(layer_of({"new": b"new", "deep/er": b"2"})), **wishes)
    assert Path(rootfs.upper, "dir/new").read_bytes() == b"new"
    assert (await tar_of(storage.files.archive(root, "/dir"))).getnames() == [
        "dir", "dir/deep", "dir/deep/er", "dir/new", "dir/old"
    ]  # fmt: skip
    for path, fault, words in (
        ("/file", Fault.INVALID, "extraction point is not a directory"),
        ("/none", Fault.NOT_FOUND, f"Could not find the file /none in container {CONTAINER}"),
    ):
        with pytest.raises(PortError) as refused:
            await storage.files.extract(root, path, stream(layer_of({"x": bytes(1_000_000)})), **wishes)
        assert (refused.value.fault, refused.value.message) == (fault, words)
    with pytest.raises(PortError, match="container rootfs is marked read-only"):
        await storage.files.extract(root_of(rootfs, readonly=True), "/", stream(layer_of({"x": b""})), **wishes)
    with pytest.raises(PortError) as refused:
        await storage.files.extract(root, "/", stream(b"not a tar" * 1000), **wishes)
    assert refused.value.fault is Fault.INVALID


async def test_a_directory_is_not_overwritten_when_that_is_forbidden(storage: LinuxStorage) -> None:
    rootfs = await rootfs_of(storage, layer_of({"name": None}))
    archive = layer_of({"name": b"file"})
    with pytest.raises(PortError, match="cannot overwrite directory"):
        await storage.files.extract(
            root_of(rootfs), "/", stream(archive), no_overwrite_dir_non_dir=True, copy_uid_gid=False
        )
    await storage.files.extract(
        root_of(rootfs), "/", stream(archive), no_overwrite_dir_non_dir=False, copy_uid_gid=False
    )
    assert Path(rootfs.upper, "name").read_bytes() == b"file"


async def test_copied_files_can_be_given_to_the_containers_user(storage: LinuxStorage) -> None:
    rootfs = await rootfs_of(storage, layer_of({"etc": None, "etc/passwd": b"app:x:1234:2345::/:/bin/sh\n"}))
    await storage.files.extract(
        root_of(rootfs, user="app"), "/", stream(layer_of({"mine": b""})),
        no_overwrite_dir_non_dir=False, copy_uid_gid=True,
    )  # fmt: skip
    found = os.stat(f"{rootfs.upper}/mine")
    assert (found.st_uid, found.st_gid) == (1234, 2345)


async def test_links_never_lead_out_of_the_container(storage: LinuxStorage, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("host")
    rootfs = await rootfs_of(storage, layer_of({"f": b""}))
    os.symlink(str(outside), f"{rootfs.upper}/escape")
    root = root_of(rootfs)
    for path in ("/escape/secret", "/escape/", f"/../../..{outside}/secret"):
        with pytest.raises(PortError) as refused:
            await storage.files.stat(root, path)
        assert refused.value.fault is Fault.NOT_FOUND
    with pytest.raises(PortError):
        await storage.files.extract(
            root, "/", stream(layer_of({"escape/planted": b""})), no_overwrite_dir_non_dir=False, copy_uid_gid=False
        )
    assert [child.name for child in outside.iterdir()] == ["secret"]


async def test_volumes_of_a_stopped_container_are_part_of_it(storage: LinuxStorage, tmp_path: Path) -> None:
    rootfs = await rootfs_of(storage, layer_of({"f": b""}))
    volume, locked = tmp_path / "volume", tmp_path / "locked"
    for directory in (volume, locked):
        directory.mkdir()
    (locked / "file").write_text("text")
    mounts = (
        FilesMount(source=str(volume), destination="/data", rw=True),
        FilesMount(source=str(locked), destination="/locked", rw=False),
    )
    root = root_of(rootfs, mounts=mounts, readonly=True)
    wishes = {"no_overwrite_dir_non_dir": False, "copy_uid_gid": False}
    await storage.files.extract(root, "/data", stream(layer_of({"in": b"volume"})), **wishes)
    assert (volume / "in").read_text() == "volume"
    assert (await tar_of(storage.files.archive(root, "/locked/file"))).getnames() == ["file"]
    with pytest.raises(PortError, match="mounted volume is marked read-only"):
        await storage.files.extract(root, "/locked", stream(layer_of({"x": b""})), **wishes)


async def test_a_running_containers_files_are_those_it_sees(storage: LinuxStorage, tmp_path: Path) -> None:
    rootfs = await rootfs_of(storage, busybox_layer())
    with running(rootfs, tmp_path / "merged") as pid:
        root = root_of(rootfs, pid=pid)
        await storage.files.extract(
            root, "/tmp/.", stream(layer_of({"from": b"outside"})), no_overwrite_dir_non_dir=True, copy_uid_gid=False
        )
        assert Path(f"/proc/{pid}/root/tmp/from").read_bytes() == b"outside"
        assert (await storage.files.stat(root, "/bin/sh")).link_target == "/bin/busybox"
        assert (await tar_of(storage.files.archive(root, "/etc"))).getnames()[:2] == ["etc", "etc/group"]


async def test_changes_and_their_archive_tell_what_the_container_did(storage: LinuxStorage, tmp_path: Path) -> None:
    files: dict[str, bytes | None] = {"keep": None, "keep/same": b"", "keep/edit": b"1", "gone": b""}
    lower = layer_of({**files, "again": None, "again/hidden": b"", "quiet": None})
    rootfs = await rootfs_of(storage, lower)
    with mounted(rootfs, tmp_path / "merged") as place:
        (place / "keep/edit").write_text("2")
        (place / "keep/new").write_text("3")
        (place / "gone").unlink()
        (place / "again/hidden").unlink()
        (place / "again").rmdir()
        (place / "again").mkdir()
        (place / "again/fresh").write_text("4")
        (place / "fresh").mkdir()
    assert await storage.rootfs.changes(CONTAINER) == tuple(
        Change(path=path, kind=kind)
        for path, kind in (
            ("/again", 0), ("/again/fresh", 1), ("/again/hidden", 2), ("/fresh", 1), ("/gone", 2), ("/keep", 0),
            ("/keep/edit", 0), ("/keep/new", 1),
        )
    )  # fmt: skip
    claimed: list[str] = []

    async def claim(digests: Sequence[Digest]) -> None:
        assert not await storage.blobs.has(*digests)
        claimed.extend(digests)

    layer = await storage.rootfs.diff_layer(CONTAINER, claim)
    assert claimed == [layer.blob.digest]
    archive = Path(storage.blobs.path(layer.blob.digest))
    assert layer.diff_id == layer.blob.digest == "sha256:" + hashlib.sha256(archive.read_bytes()).hexdigest()
    with tarfile.open(archive) as found:
        names = found.getnames()
    assert {".wh.gone", "keep/edit"} <= set(names) and "keep/same" not in names
    assert {"again/.wh..wh..opq", "again/.wh.hidden"} & set(names)
    top = archive.read_bytes()
    second = await rootfs_of_second(storage, lower, top)
    with mounted(second, tmp_path / "merged") as place:
        assert sorted(os.listdir(place / "again")) == ["fresh"]
        assert not (place / "gone").exists() and (place / "keep/edit").read_text() == "2"


async def rootfs_of_second(storage: LinuxStorage, *layers: bytes) -> RootFilesystem:
    await storage.rootfs.discard_rootfs(CONTAINER)
    return await rootfs_of(storage, *layers)
