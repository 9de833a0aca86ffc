"""Images between this engine, skopeo and a registry: whoever copies, the digests stay."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.compat.test_push import pushed
from tests.compat.test_registry import registry_beside, remove_all
from tests.support.engine import Engine
from tests.support.images import busybox_layer, digest, image_of, layer_of
from tests.support.registry import TOOLS, tool

pytestmark = pytest.mark.root
LAYERS = (busybox_layer(), layer_of({"hello": b"hello\n"}))


@pytest.fixture
def images(engine: Engine) -> Iterator[Engine]:
    yield engine
    remove_all(engine)


@pytest.fixture
def skopeo(engine: Engine, tmp_path: Path) -> Any:
    program = tool("skopeo")
    policy = tmp_path / "policy.json"
    policy.write_text('{"default":[{"type":"insecureAcceptAnything"}]}')

    def run(*words: str) -> str:
        # Its libraries lie beside it when the machine has none (scripts/fetch-tools.sh).
        found = ":".join(str(path) for path in (TOOLS.parent / "lib").glob("*-linux-gnu"))
        command = ("env", f"LD_LIBRARY_PATH={found}", program, "--policy", str(policy), *words)
        done = engine.in_namespace(*command, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def layers_of(document: str) -> list[str]:
    return [layer["digest"] for layer in json.loads(document)["layers"]]


@pytest.mark.parametrize(("compress", "oci"), [("gzip", False), ("gzip", True), ("zstd", True)])
def test_digests_stay_over_registry_archive_and_skopeo(
    images: Engine, skopeo: Any, tmp_path: Path, compress: str, oci: bool
) -> None:
    """IMG-06, IMG-07, IMG-14, IMG-15: pull, save, load, push; skopeo reads the archive and what was pushed."""
    image = image_of(*LAYERS, compress=compress, oci=oci, Cmd=["cat", "/hello"])
    archive = tmp_path / "saved.tar"
    with registry_beside(images, tmp_path) as registry:
        found = registry.push("app", "v1", image)
        name = f"{registry.address}/app:v1"
        images.cli("pull", "-q", name)
        images.cli("save", "-o", str(archive), name)
        inside = skopeo("inspect", "--raw", f"oci-archive:{archive}")
        assert digest(inside.encode()) == found
        assert skopeo("inspect", "--config", "--raw", f"docker-archive:{archive}").encode() == image.config
        remove_all(images)
        images.cli("load", "-q", "-i", str(archive))
        copy = f"{registry.address}/copy:v1"
        images.cli("tag", name, copy)
        assert pushed(images.out("push", copy)) == found
        raw = skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{copy}")
        assert digest(raw.encode()) == found
        assert images.out("run", "--rm", copy) == "hello"


def test_what_skopeo_writes_is_loaded_and_pushed(images: Engine, skopeo: Any, tmp_path: Path) -> None:
    """IMG-15, IMG-07: its layouts of OCI, compressed as it likes, and its archives of Docker."""
    image = image_of(*LAYERS, oci=True, Cmd=["cat", "/hello"])
    with registry_beside(images, tmp_path) as registry:
        registry.push("app", "v1", image)
        source = f"docker://{registry.address}/app:v1"
        oci, docker = tmp_path / "oci.tar", tmp_path / "docker.tar"
        skopeo("copy", "--src-tls-verify=false", source, f"oci-archive:{oci}:made/by:skopeo")
        skopeo("copy", "--src-tls-verify=false", source, f"docker-archive:{docker}:also/by:skopeo")
        for archive, name in ((oci, "made/by:skopeo"), (docker, "also/by:skopeo")):
            told = images.out("load", "-i", str(archive))
            assert f"Loaded image: {name}" in told
            assert images.out("inspect", "-f", "{{.Id}}", name) == image.image_id
            target = f"{registry.address}/{name}"
            images.cli("tag", name, target)
            found = pushed(images.out("push", target))
            raw = skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{target}")
            assert digest(raw.encode()) == found
            config = skopeo("inspect", "--config", "--raw", "--tls-verify=false", f"docker://{target}")
            assert digest(config.encode()) == image.image_id
            assert images.out("run", "--rm", name) == "hello"
            remove_all(images)


def test_an_index_stays_whole_over_archive_and_skopeo(images: Engine, skopeo: Any, tmp_path: Path) -> None:
    """IMG-04, IMG-07, IMG-14: both platforms pulled, saved, loaded and pushed; skopeo copies all of it."""
    mine, other = image_of(*LAYERS, oci=True), image_of(LAYERS[1], oci=True)
    other.config = other.config.replace(b"amd64", b"arm64")
    other.blobs = {}
    other.build()
    archive = tmp_path / "saved.tar"
    with registry_beside(images, tmp_path) as registry:
        found = registry.push_index("app", "v1", {"linux/amd64": mine, "linux/arm64": other})
        name = f"{registry.address}/app:v1"
        images.cli("pull", "-q", name)
        images.cli("pull", "-q", "--platform", "linux/arm64", name)
        assert images.out("images", "-q", "--no-trunc", name) == mine.image_id
        assert images.out("run", "--rm", name, "cat", "/hello") == "hello"
        created = images.out("create", "--platform", "linux/arm64", name, "/x")
        assert images.json(f"/containers/{created}/json")["Image"] == other.image_id
        images.cli("rm", created)
        images.cli("save", "-o", str(archive), name)
        remove_all(images)
        images.cli("load", "-q", "-i", str(archive))
        copy = f"{registry.address}/copy:v1"
        images.cli("tag", name, copy)
        assert pushed(images.out("push", copy)) == found
        skopeo("copy", "--all", "--src-tls-verify=false", f"docker://{copy}", f"dir:{tmp_path}/copied")
        assert digest(skopeo("inspect", "--raw", f"dir:{tmp_path}/copied").encode()) == found
