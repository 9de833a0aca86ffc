"""The way of an image: pull, login, tag, save, load, remove, over a registry on the engine's own loopback."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.drivers.registry.test_client import answer, serving
from tests.support.engine import Engine
from tests.support.images import busybox_layer, digest, image_of, layer_of
from tests.support.outside import standing_in
from tests.support.registry import TestRegistry, running_registry, tool

pytestmark = pytest.mark.root
IMAGE = image_of(layer_of({"hello": b"hello\n"}), layer_of({"below": None, "below/more": b"more\n"}), Cmd=["/hello"])


@contextmanager
def registry_beside(engine: Engine, directory: Path, **options: Any) -> Iterator[TestRegistry]:
    with standing_in(engine.name), running_registry(directory, **options) as registry:
        yield registry


def remove_all(engine: Engine) -> None:
    """Every image but busybox."""
    for row in engine.json("/images/json?all=1"):
        if "busybox:latest" not in (row["RepoTags"] or ()):
            engine.request("DELETE", f"/images/{row['Id']}?force=1")


@pytest.fixture
def images(engine: Engine) -> Iterator[Engine]:
    yield engine
    remove_all(engine)


def test_pull_tag_inspect_remove(images: Engine, tmp_path: Path) -> None:
    """IMG-01: by tag, by digest, and again: what is there already is not fetched."""
    with registry_beside(images, tmp_path) as registry:
        digest = registry.push("app", "v1", IMAGE)
        name = f"{registry.address}/app:v1"
        shown = images.out("pull", name)
        assert f"Digest: {digest}" in shown
        assert f"Status: Downloaded newer image for {name}" in shown
        assert f"Status: Image is up to date for {name}" in images.out("pull", name)
        assert images.out("inspect", "-f", "{{.Id}}", name) == IMAGE.image_id
        images.cli("tag", name, "mine:v2")
        assert images.out("images", "-q", "--no-trunc", "mine") == IMAGE.image_id
        assert "Untagged" in images.out("rmi", "mine:v2")
        assert f"Deleted: {IMAGE.image_id}" in images.out("rmi", name)
        images.cli("pull", "-q", f"{registry.address}/app@{digest}")
        assert images.out("images", "--digests", "--format", "{{.Digest}}", f"{registry.address}/app") == digest
        assert "not found" in images.cli("pull", f"{registry.address}/app:nosuch", check=False).stderr


def test_a_container_runs_on_as_many_layers_as_docker_takes_and_not_on_one_more(images: Engine, tmp_path: Path) -> None:
    """IMG-21: 125 layers run; more are refused by pull and by load."""
    more = [layer_of({f"f{number}": f"{number}\n".encode()}) for number in range(130)]
    most = image_of(busybox_layer(), *more[:124], Cmd=["cat", "/f0", "/f123"])
    over = image_of(busybox_layer(), *more[:125])
    with registry_beside(images, tmp_path) as registry:
        registry.push("deep", "125", most)
        registry.push("deep", "126", over)
        registry.push("deep", "130", image_of(*more))
        assert images.out("run", "--rm", f"{registry.address}/deep:125").endswith("0\n123")
        for tag in ("126", "130"):
            refused = images.cli("pull", f"{registry.address}/deep:{tag}", check=False)
            assert refused.returncode == 1
            assert "max depth exceeded" in refused.stderr
    archive = tmp_path / "deep.tar"
    archive.write_bytes(over.docker_archive("deep:126"))
    assert "max depth exceeded" in images.cli("load", "-i", str(archive), check=False).stderr
    assert images.out("images", "-q", "deep") == ""


def test_run_pulls_what_is_missing(images: Engine, tmp_path: Path) -> None:
    """CTR-02, IMG-01: the 404 of create makes the CLI pull, then create again."""
    with registry_beside(images, tmp_path) as registry:
        registry.push("app", "v1", IMAGE)
        name = f"{registry.address}/app:v1"
        done = images.cli("run", "--rm", name, check=False)
        assert f"Unable to find image '{name}' locally" in done.stderr
        assert done.returncode == 126, "/hello is no program"


def test_a_registry_with_a_password(images: Engine, tmp_path: Path) -> None:
    """IMG: refused before login and with the wrong password; login writes what X-Registry-Auth carries later."""
    with registry_beside(images, tmp_path, users={"jonah": "whale"}) as registry:
        registry.push("secret", "v1", IMAGE)
        name = f"{registry.address}/secret:v1"
        assert "no basic auth credentials" in images.cli("pull", name, check=False).stderr
        wrong = images.cli("login", "-u", "jonah", "--password-stdin", registry.address, data="fish", check=False)
        assert "401 Unauthorized" in wrong.stderr
        told = images.cli("login", "-u", "jonah", "--password-stdin", registry.address, data="whale")
        assert "Login Succeeded" in told.stdout
        assert images.out("pull", "-q", name) == name
        images.cli("logout", registry.address)
        images.cli("rmi", name)
        assert "no basic auth credentials" in images.cli("pull", name, check=False).stderr
    stored = subprocess.run(["grep", "-rl", "whale", str(images.data_root)], capture_output=True, check=False)
    assert stored.stdout == b"", "the password stands in a file"


def test_the_registry_is_asked_about_an_image(images: Engine, tmp_path: Path) -> None:
    """IMG-19: by docker-py; nothing is pulled for it."""
    with registry_beside(images, tmp_path, users={"jonah": "whale"}) as registry, images.client() as client:
        found = registry.push_index("app", "v1", {"linux/amd64": IMAGE})
        name, login = f"{registry.address}/app:v1", {"username": "jonah", "password": "whale"}
        data = client.images.get_registry_data(name, auth_config=login)
        assert data.id == found
        assert data.has_platform("linux/amd64")
        assert not data.has_platform("linux/arm64")
        alone = f"{registry.address}/app@{digest(IMAGE.manifest)}"
        assert client.images.get_registry_data(alone, auth_config=login).has_platform("linux/amd64")
        for credentials, asked, status in ((None, name, 401), (login, f"{registry.address}/app:v2", 404)):
            with pytest.raises(docker.errors.APIError) as refused:
                client.images.get_registry_data(asked, auth_config=credentials or {"username": ""})
            assert refused.value.status_code == status
    assert images.out("images", "-q", f"{registry.address}/app") == ""


def test_a_registry_is_searched(images: Engine) -> None:
    """IMG-17."""
    results = [
        {"name": "sea/whale", "description": "white", "star_count": 12, "is_official": False, "is_automated": False},
        {"name": "whale", "description": "", "star_count": 3, "is_official": True, "is_automated": True},
    ]

    def handle(request: Any) -> None:
        answer(request, 200, json.dumps({"results": results}).encode())

    with standing_in(images.name), serving(handle) as server:
        term = f"{server.address}/whale"
        columns = "{{.Name}} {{.StarCount}} {{.IsOfficial}}"
        shown = images.out("search", "--format", columns, "--limit", "5", term)
        assert sorted(shown.splitlines()) == ["sea/whale 12 ", "whale 3 [OK]"]
        assert server.seen[-1][0] == "/v1/search?q=whale&n=5"
        assert images.out("search", "--format", "{{.Name}}", "--filter", "stars=10", term) == "sea/whale"
        assert images.out("search", "--format", "{{.Name}}", "--filter", "is-official=true", term) == "whale"
        assert "outside the range" in images.cli("search", "--limit", "101", term, check=False).stderr
    assert "connection refused" in images.cli("search", "127.0.0.1:1/whale", check=False).stderr


def test_headers_for_the_registry_are_handed_on(images: Engine) -> None:
    """API-20: `X-Meta-...` of a pull, a push and a search; and bad credentials are none."""
    with standing_in(images.name), serving(lambda request: answer(request, 404, b"{}")) as server:
        images.cli("tag", "busybox", f"{server.address}/app:v1")
        sent = {"X-Meta-Ship": "Pequod", "X-Other": "no", "X-Registry-Auth": "%%%"}
        for method, path, status in (
            ("POST", f"/images/create?fromImage={server.address}/app&tag=v1", 404),
            ("POST", f"/images/{server.address}/app/push?tag=v1", 200),
            ("GET", f"/images/search?term={server.address}/app", 500),
        ):
            server.seen.clear()
            assert images.request(method, path, **sent)[0] == status
            assert server.seen, path
            for _, headers in server.seen:
                assert headers["X-Meta-Ship"] == "Pequod"
                assert not {"X-Other", "X-Registry-Auth", "Authorization"} & set(headers)
        images.cli("rmi", f"{server.address}/app:v1")


def test_a_registry_that_is_not_there(images: Engine) -> None:
    """Bad input: a clear word, and nothing left."""
    done = images.cli("pull", "127.0.0.1:1/app", check=False)
    assert done.returncode == 1
    assert "connection refused" in done.stderr
    assert images.out("images", "127.0.0.1:1/app", "-q") == ""


def test_save_and_load_keep_the_ids(images: Engine, tmp_path: Path) -> None:
    """IMG: save | load after a removal gives the same image, with its layers and tags."""
    with registry_beside(images, tmp_path) as registry:
        registry.push("app", "v1", IMAGE)
        images.cli("pull", "-q", f"{registry.address}/app:v1")
        images.cli("tag", f"{registry.address}/app:v1", "kept:v1")
        images.cli("rmi", f"{registry.address}/app:v1")
    before = images.json("/images/kept:v1/json")
    saved = subprocess.run(
        [tool("docker"), "save", "kept:v1", "busybox"], env=images.environment, capture_output=True, check=True
    ).stdout
    images.cli("rmi", "kept:v1")
    loaded = subprocess.run(
        [tool("docker"), "load"], env=images.environment, input=saved, capture_output=True, check=True
    ).stdout
    assert b"Loaded image: kept:v1" in loaded
    after = images.json("/images/kept:v1/json")
    assert (after["Id"], after["RootFS"]) == (before["Id"], before["RootFS"])
    assert after["Config"]["Cmd"] == ["/hello"]
    again = subprocess.run(
        [tool("docker"), "save", "kept:v1", "busybox"], env=images.environment, capture_output=True, check=True
    ).stdout
    assert len(again) == len(saved)


def test_an_image_in_use_is_kept(images: Engine) -> None:
    """IMG: 409 while a container is there."""
    images.cli("create", "--name", "user", "busybox")
    refused = images.cli("rmi", "busybox", check=False)
    assert "container" in refused.stderr
    assert images.request("DELETE", f"/images/{images.json('/images/busybox/json')['Id']}")[0] == 409


def test_history_and_prune(images: Engine, tmp_path: Path) -> None:
    """IMG."""
    archive = tmp_path / "image.tar"
    archive.write_bytes(IMAGE.docker_archive("one:v1"))
    assert "Loaded image: one:v1" in images.out("load", "-i", str(archive))
    assert "layer 1" in images.out("history", "--no-trunc", "one:v1")
    assert "one:v1" in images.out("image", "prune", "-a", "-f") or "busybox" in images.out("images")
    images.load_busybox()
    assert images.out("images", "-q", "one") == ""


def test_a_corrupt_archive_is_refused_and_leaves_nothing(images: Engine, tmp_path: Path) -> None:
    """Bad input: corrupt layer, and no archive at all."""
    whole = bytearray(IMAGE.docker_archive("bad:v1"))
    at = whole.index(b"hello\n")
    whole[at : at + 5] = b"HELLO"
    for name, content in (("corrupt.tar", bytes(whole)), ("noise.tar", b"no archive" * 2000)):
        (tmp_path / name).write_bytes(content)
        assert images.cli("load", "-i", str(tmp_path / name), check=False).returncode != 0
    assert images.out("images", "-q", "bad") == ""
