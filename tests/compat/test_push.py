"""Pushing with the real CLI to a real registry on the engine's own loopback, and what the registry then has."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.aggregates.values.descriptor import DOCKER_MANIFEST, OCI_MANIFEST
from tests.compat.test_registry import registry_beside, remove_all
from tests.support.audit import settled_without_leaks
from tests.support.engine import Engine
from tests.support.images import busybox_layer, image_of, layer_of
from tests.support.outside import standing_in
from tests.support.registry import TestRegistry, tool

pytestmark = pytest.mark.root
IMAGE = image_of(layer_of({"hello": b"hello\n"}), layer_of({"below": None, "below/more": b"more\n"}), Cmd=["/hello"])


@pytest.fixture
def images(engine: Engine) -> Iterator[Engine]:
    yield engine
    remove_all(engine)


@pytest.fixture
def registry(images: Engine, tmp_path: Path) -> Iterator[TestRegistry]:
    with registry_beside(images, tmp_path) as running:
        yield running


def pushed(told: str) -> str:
    """The digest of the last line: `tag: digest: sha256:... size: n`."""
    return told.splitlines()[-1].partition("digest: ")[2].partition(" size")[0]


def test_a_pulled_image_has_the_same_digests_wherever_it_is_pushed(images: Engine, registry: TestRegistry) -> None:
    """IMG-07: the manifest byte for byte, a layer mounted from where it came, and found there the second time."""
    found = registry.push("app", "v1", IMAGE)
    images.cli("pull", "-q", f"{registry.address}/app:v1")
    name = f"{registry.address}/sub/copy:v2"
    images.cli("tag", f"{registry.address}/app:v1", name)
    told = images.out("push", name)
    assert f"The push refers to repository [{registry.address}/sub/copy]" in told
    for diff_id in IMAGE.diff_ids:
        assert f"{diff_id[7:19]}: Mounted from app" in told
    assert told.splitlines()[-1] == f"v2: digest: {found} size: {len(IMAGE.manifest)}"
    assert f"{IMAGE.diff_ids[0][7:19]}: Layer already exists" in images.out("push", name)
    digests = images.json(f"/images/{name}/json")["RepoDigests"]
    assert sorted(digests) == [f"{registry.address}/app@{found}", f"{registry.address}/sub/copy@{found}"]
    remove_all(images)
    assert f"Digest: {found}" in images.out("pull", name)
    assert images.out("inspect", "-f", "{{.Id}}", name) == IMAGE.image_id


def test_a_committed_and_an_imported_image_can_be_pulled_again(
    images: Engine, registry: TestRegistry, tmp_path: Path
) -> None:
    """IMG-07, CTR-34: layers that were never compressed, one of them over an OCI image; containers see what was
    written."""
    registry.push("base", "v1", image_of(busybox_layer(), oci=True, Env=["PATH=/bin", "FROM=base"]))
    name = f"{registry.address}/mine"
    images.cli("run", "--name", "writer", f"{registry.address}/base:v1", "sh", "-c", "echo written > /note")
    image_id = images.out("commit", "writer", f"{name}:committed")
    archive = tmp_path / "root.tar"
    archive.write_bytes(layer_of({"file": b"imported\n"}))
    imported_id = images.out("import", str(archive), f"{name}:imported")
    told = images.out("push", "-a", name)
    assert told.count("digest: sha256:") == 2
    assert "Mounted from base" in told
    for tag, kind in (("committed", OCI_MANIFEST), ("imported", DOCKER_MANIFEST)):
        asked = registry.request("GET", f"/v2/mine/manifests/{tag}", Accept=f"{OCI_MANIFEST}, {DOCKER_MANIFEST}")
        assert asked.headers["Content-Type"] == kind
    found = pushed(told)
    assert f"{name}@{found}" in images.json(f"/images/{name}:imported/json")["RepoDigests"]
    images.cli("rm", "writer")
    remove_all(images)
    for tag, expected in (("committed", image_id), ("imported", imported_id)):
        images.cli("pull", "-q", f"{name}:{tag}")
        assert images.out("inspect", "-f", "{{.Id}}", f"{name}:{tag}") == expected
    assert images.out("run", "--rm", f"{name}:committed", "cat", "/note") == "written"
    assert pushed(images.out("push", f"{name}:imported")) == found


def test_pushes_that_docker_refuses(images: Engine, registry: TestRegistry) -> None:
    """IMG-07: unknown repository, unknown tag, no registry there."""
    images.cli("tag", "busybox", f"{registry.address}/box:v1")
    before = images.json("/images/busybox/json")["RepoDigests"]
    for name, words in (
        ("nosuch/thing", "An image does not exist locally with the tag: nosuch/thing"),
        (f"{registry.address}/box:v2", f"tag does not exist: {registry.address}/box:v2"),
    ):
        done = images.cli("push", name, check=False)
        assert done.returncode == 1
        assert words in done.stderr
    images.cli("tag", "busybox", "127.0.0.1:1/box:v1")
    done = images.cli("push", "127.0.0.1:1/box:v1", check=False)
    assert done.returncode == 1
    assert "dial tcp 127.0.0.1:1: connect: connection refused" in done.stderr
    assert images.json("/images/busybox/json")["RepoDigests"] == before


def test_a_registry_with_a_password_takes_pushes_of_those_who_know_it(images: Engine, tmp_path: Path) -> None:
    """IMG-07, API-20."""
    with registry_beside(images, tmp_path, users={"jonah": "whale"}) as registry:
        name = f"{registry.address}/secret:v1"
        images.cli("tag", "busybox", name)
        done = images.cli("push", name, check=False)
        assert done.returncode == 1
        assert "no basic auth credentials" in done.stderr
        images.cli("login", "-u", "jonah", "--password-stdin", registry.address, data="whale")
        found = pushed(images.out("push", name))
        assert found.startswith("sha256:")
        images.cli("logout", registry.address)
        assert registry.request("HEAD", f"/v2/secret/manifests/{found}").status == 200
    stored = subprocess.run(["grep", "-rl", "whale", str(images.data_root)], capture_output=True, check=False)
    assert stored.stdout == b"", "the password stands in a file"
    assert "/blobs/uploads/" not in images.log.read_text(), "who knows an upload's place can write there"


def test_docker_py_reads_the_progress_and_events_tell_of_the_push(images: Engine, registry: TestRegistry) -> None:
    """IMG-07, IMG-25."""
    repository = f"{registry.address}/box"
    images.cli("tag", "busybox", f"{repository}:v1")
    with images.client() as client:
        lines = list(client.images.push(repository, tag="v1", stream=True, decode=True))
    statuses = [line.get("status") for line in lines]
    assert {"Preparing", "Pushing", "Pushed"} <= set(statuses)
    moving = [line for line in lines if line.get("status") == "Pushing"]
    assert all(line["progressDetail"]["current"] <= line["progressDetail"]["total"] for line in moving)
    aux = lines[-1]["aux"]
    assert aux["Tag"] == "v1"
    assert aux["Size"] > 0
    shown = images.out(
        "events", "--since", "1", "--until", str(time.time()), "--filter", "event=push", "--format", "{{json .Actor}}"
    )
    actor = json.loads(shown.splitlines()[-1])
    assert (actor["ID"], actor["Attributes"]["name"]) == (f"{repository}:v1", repository)


def test_an_engine_killed_in_the_middle_of_a_push_pushes_again(images: Engine, tmp_path: Path) -> None:
    """IMG-07, IMG-26: the attempt is told as failed, nothing is left of it, and the next one succeeds."""
    with standing_in(images.name), socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        name = f"127.0.0.1:{port}/box:v1"
        images.cli("tag", "busybox", name)
        pushing = subprocess.Popen(
            [tool("docker"), "push", name],
            env=images.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            silent.settimeout(60)
            with contextlib.closing(silent.accept()[0]):
                images.kill()
        finally:
            pushing.kill()
            pushing.wait()
    images.start()
    settled_without_leaks(images)
    assert "failed: interrupted by a restart of the engine" in images.replay("log").stdout
    with registry_beside(images, tmp_path) as registry:
        again = f"{registry.address}/box:v1"
        images.cli("tag", "busybox", again)
        found = pushed(images.out("push", again))
        assert registry.request("HEAD", f"/v2/box/manifests/{found}").status == 200
