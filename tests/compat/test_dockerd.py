"""Images between this engine and Debian's dockerd, by registry and by archive: identifiers and digests stay, and so
does every file with what belongs to it."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.compat.test_push import pushed
from tests.compat.test_registry import registry_beside, remove_all
from tests.support.certificates import Authority
from tests.support.dockerd import Dockerd, running_dockerd
from tests.support.engine import Engine, running_engine
from tests.support.images import TestImage, add, busybox_layer, image_of, layer_of
from tests.support.outside import HOST_ADDRESS, neighbour

pytestmark = pytest.mark.root
CAPABILITY = "SCHILY.xattr.security.capability"
CAP_NET_BIND = "\x01\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
ENGINES_OWN = (".dockerenv", "dev", "etc", "proc", "sys")
"""What an engine makes in every container: of the time it was made."""
INSECURE = ("--insecure-registry", f"{HOST_ADDRESS}/32")


def odd_files() -> bytes:
    """Everything that a layer can have in it and a file system must keep."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        add(tar, "odd", mode=0o755, kind=tarfile.DIRTYPE)
        add(tar, "odd/one", b"one", 0o640)
        add(tar, "odd/two", kind=tarfile.LNKTYPE, link="odd/one")
        add(tar, "odd/link", kind=tarfile.SYMTYPE, link="../nowhere")
        add(tar, "odd/fifo", kind=tarfile.FIFOTYPE)
        add(tar, "odd/" + "long" * 40, b"long")
        add(tar, "odd/näme", b"name")
        for name, mode, fields in (
            ("odd/setuid", 0o4755, {"uid": 1000, "gid": 70_000}),
            ("odd/sparse", 0o644, {"uid": 3_000_000, "gid": 1}),
            ("odd/capable", 0o755, {"pax_headers": {CAPABILITY: CAP_NET_BIND}}),
            ("odd/old", 0o644, {"mtime": 981_173_106}),
        ):
            entry = tarfile.TarInfo(name)
            entry.mode, entry.size = mode, 3 << 20 if name == "odd/sparse" else 0
            for field, value in fields.items():
                setattr(entry, field, value)
            tar.addfile(entry, io.BytesIO(bytes(entry.size)))
        device = tarfile.TarInfo("odd/null")
        device.type, device.devmajor, device.devminor, device.mode = tarfile.CHRTYPE, 1, 3, 0o666
        tar.addfile(device)
    return out.getvalue()


BELOW = layer_of({"gone": b"1", "dir": None, "dir/hidden": b"2", "dir/too": b"3", "kept": b"4", "was-dir": None})
ABOVE = layer_of({".wh.gone": b"", "dir": None, "dir/.wh..wh..opq": b"", "dir/new": b"5", "was-dir": b"a file"})
LAYERS = (busybox_layer(), BELOW, ABOVE, odd_files())


@pytest.fixture(scope="module")
def module_engine() -> Iterator[Engine]:
    with running_engine(*INSECURE) as engine:
        yield engine


@pytest.fixture
def images(engine: Engine) -> Iterator[Engine]:
    yield engine
    remove_all(engine)


@pytest.fixture(scope="module")
def dockerd(module_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dockerd]:
    place = tmp_path_factory.mktemp("dockerd")
    with neighbour(module_engine) as beside, running_dockerd(beside.name, place, *INSECURE) as running:
        yield running


def identity(docker: Engine | Dockerd, name: str) -> tuple[str, list[str]]:
    """The image's id and its layers'."""
    told = json.loads(docker.out("inspect", name))[0]
    return told["Id"], told["RootFS"]["Layers"]


def files_of(docker: Engine | Dockerd, name: str, place: Path) -> dict[str, Any]:
    """What a container of the image would see, file by file; a file of several names is the same under each."""
    container = docker.out("create", "--network", "none", name, "true")
    docker.out("export", "-o", str(place), container)
    docker.out("rm", container)
    found: dict[str, Any] = {}
    names: dict[str, set[str]] = {}
    with tarfile.open(place) as tar:
        for entry in tar:
            if entry.name.rstrip("/") in ENGINES_OWN or entry.name.startswith(tuple(f"{own}/" for own in ENGINES_OWN)):
                continue
            names.setdefault(entry.linkname if entry.islnk() else entry.name, set()).add(entry.name)
            if not entry.islnk():
                file = tar.extractfile(entry) if entry.isreg() else None
                found[entry.name] = (
                    entry.type, entry.mode & 0o7777, entry.uid, entry.gid, entry.size, entry.mtime, entry.linkname,
                    hashlib.sha256(file.read()).hexdigest() if file else "", entry.devmajor, entry.devminor,
                    entry.pax_headers.get(CAPABILITY),
                )  # fmt: skip
    assert found["odd/capable"][-1] == CAP_NET_BIND
    return {name: (sorted(names[first]), found[first]) for first in names for name in names[first]}


@pytest.mark.parametrize("guarded", [False, True])
def test_digests_stay_over_a_registry_and_dockerd(
    images: Engine, dockerd: Dockerd, tmp_path: Path, guarded: bool
) -> None:
    """IMG-03, IMG-04, IMG-07, IMG-22: pushed, pulled by dockerd, pushed by it, and pulled again; guarded: by TLS and a
    password, where dockerd compresses anew what it does not mount."""
    image = image_of(*LAYERS)
    options: dict[str, Any] = {}
    if guarded:
        crt, key = Authority(tmp_path / "trust").issue("server", HOST_ADDRESS)
        options = {"users": {"jonah": "whale"}, "tls": {"certificate": str(crt), "key": str(key)}}
    archive = tmp_path / "image.tar"
    archive.write_bytes(image.docker_archive("mine"))
    images.cli("load", "-q", "-i", str(archive))
    with registry_beside(images, tmp_path / "registry", host=HOST_ADDRESS, **options) as registry:
        if guarded:
            for docker in (images, dockerd):
                assert "Login Succeeded" in docker.out("login", "-u", "jonah", "-p", "whale", registry.address)
        ours, theirs = f"{registry.address}/ours:v1", f"{registry.address}/theirs:v1"
        images.cli("tag", "mine", ours)
        found = pushed(images.out("push", ours))
        assert f"Digest: {found}" in dockerd.out("pull", ours)
        assert identity(dockerd, ours) == identity(images, ours) == (image.image_id, image.diff_ids)
        assert files_of(images, ours, tmp_path / "a.tar") == files_of(dockerd, ours, tmp_path / "b.tar")
        dockerd.out("tag", ours, theirs)
        again = pushed(dockerd.out("push", theirs))
        assert guarded or again == found
        remove_all(images)
        assert f"Digest: {again}" in images.out("pull", theirs)
        assert identity(images, theirs) == (image.image_id, image.diff_ids)
        for docker in (images, dockerd):
            docker.out("logout", registry.address)
    dockerd.out("rmi", ours, theirs)


def test_what_dockerd_made_comes_and_goes_unchanged(images: Engine, dockerd: Dockerd, tmp_path: Path) -> None:
    """IMG-07, IMG-16, IMG-22: an import of dockerd's, pushed, pulled, and pushed by this engine."""
    source = tmp_path / "root.tar"
    source.write_bytes(odd_files())
    dockerd.out("import", "-m", "made by dockerd", "-c", 'CMD ["/bin/true"]', str(source), "theirs")
    with registry_beside(images, tmp_path / "registry", host=HOST_ADDRESS) as registry:
        theirs, ours = f"{registry.address}/theirs:v1", f"{registry.address}/ours:v1"
        dockerd.out("tag", "theirs", theirs)
        found = pushed(dockerd.out("push", theirs))
        assert f"Digest: {found}" in images.out("pull", theirs)
        assert identity(images, theirs) == identity(dockerd, theirs)
        history = "history", "--no-trunc", "--format", "{{.ID}} {{.CreatedAt}} {{.CreatedBy}} {{.Size}} {{.Comment}}"
        assert images.out(*history, theirs) == dockerd.out(*history, theirs)
        images.cli("tag", theirs, ours)
        assert pushed(images.out("push", ours)) == found
    dockerd.out("rmi", "theirs", theirs)


@pytest.mark.parametrize("image", [image_of(*LAYERS), image_of(*LAYERS, oci=True)])
def test_identifiers_stay_over_archives_and_dockerd(
    images: Engine, dockerd: Dockerd, tmp_path: Path, image: TestImage
) -> None:
    """IMG-14, IMG-15, IMG-22: loaded, saved, loaded by dockerd, saved by it, and loaded again."""
    first, second, third = (tmp_path / f"{number}.tar" for number in range(3))
    first.write_bytes(image.oci_archive("docker.io/library/mine:v1"))
    images.cli("load", "-q", "-i", str(first))
    images.cli("save", "-o", str(second), "mine:v1")
    assert "Loaded image: mine:v1" in dockerd.out("load", "-i", str(second))
    assert identity(dockerd, "mine:v1") == (image.image_id, image.diff_ids)
    assert files_of(images, "mine:v1", tmp_path / "a.tar") == files_of(dockerd, "mine:v1", tmp_path / "b.tar")
    dockerd.out("save", "-o", str(third), "mine:v1")
    remove_all(images)
    assert "Loaded image: mine:v1" in images.out("load", "-i", str(third))
    assert identity(images, "mine:v1") == (image.image_id, image.diff_ids)
    assert images.out("run", "--rm", "mine:v1", "cat", "/kept") == "4"
    dockerd.out("rmi", "mine:v1")
