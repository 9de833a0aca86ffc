"""The Docker CLI against images that come from a real registry on loopback."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.drivers.registry.test_client import answer, serving
from tests.support.cli_session import session
from tests.support.images import busybox_image, digest, image_of, layer_of

pytestmark = pytest.mark.root


async def test_pull_list_tag_history_and_remove(tmp_path: Path) -> None:
    """IMG-01, IMG-02, IMG-10..13."""
    async with session(tmp_path) as (docker, registry, _):
        image = busybox_image()
        found = registry.push("busybox", "1.36", image)
        name = f"{registry.address}/busybox:1.36"
        told = await docker("pull", name)
        assert "1.36: Pulling from busybox" in told
        assert "Pull complete" in told
        assert f"Digest: {found}" in told
        assert f"Status: Downloaded newer image for {name}" in told
        assert "Image is up to date" in await docker("pull", name)
        assert await docker("images", "-q", "--no-trunc") == image.image_id
        assert await docker("image", "inspect", "-f", "{{.Os}}/{{.Architecture}}", name) == "linux/amd64"
        assert "layer 0" in await docker("history", name)
        await docker("tag", name, "mine:v1")
        assert "mine" in await docker("images")
        assert await docker("rmi", "mine:v1") == "Untagged: mine:v1"
        assert f"Deleted: {image.image_id}" in await docker("rmi", name)
        assert await docker("images", "-q") == ""
        assert "No such image: nothing:latest" in await docker("rmi", "nothing", fails=True)
        complaint = await docker("pull", f"{registry.address}/nothing", fails=True)
        assert "not found" in complaint


async def test_pull_all_tags_by_digest_and_for_another_platform(tmp_path: Path) -> None:
    """IMG-06, IMG-29."""
    async with session(tmp_path) as (docker, registry, _):
        image = image_of(layer_of({"a": b"a"}), oci=True, compress="zstd")
        found = registry.push("app", "one", image)
        registry.push("app", "two", image_of(layer_of({"b": b"b"}), compress="none"))
        name = f"{registry.address}/app"
        await docker("pull", "-a", name)
        tags = await docker("images", name, "--format", "{{.Tag}}")
        assert sorted(tags.split()) == ["one", "two"]
        await docker("rmi", f"{name}:one", f"{name}:two")
        await docker("pull", f"{name}@{found}")
        assert await docker("images", "--digests", "--format", "{{.Digest}}") == found
        assert "does not match the specified platform" in await docker(
            "pull", "--platform", "linux/arm64", f"{name}:one", fails=True
        )


async def test_save_load_and_import(tmp_path: Path) -> None:
    """IMG-14..16."""
    async with session(tmp_path) as (docker, registry, _):
        registry.push("busybox", "1.36", busybox_image())
        name = f"{registry.address}/busybox:1.36"
        await docker("pull", "-q", name)
        identifier = await docker("images", "-q", "--no-trunc")
        archive = str(tmp_path / "saved.tar")
        await docker("save", "-o", archive, name)
        await docker("rmi", name)
        assert f"Loaded image: {name}" in await docker("load", "-i", archive)
        assert await docker("images", "-q", "--no-trunc") == identifier
        (tmp_path / "root.tar").write_bytes(layer_of({"hello": b"world"}))
        change = ("--change", 'CMD ["/hello"]', "-m", "by hand")
        imported = await docker("import", *change, str(tmp_path / "root.tar"), "mine:v1")
        assert imported.startswith("sha256:")
        assert await docker("image", "inspect", "-f", "{{.Config.Cmd}} {{.Comment}}", "mine:v1") == "[/hello] by hand"
        with serving(lambda request: answer(request, 200, (tmp_path / "root.tar").read_bytes())) as server:
            told = await docker("import", f"http://{server.address}/root.tar", "fetched:v1")
            assert told.startswith(f"Downloading from http://{server.address}/root.tar")
            shown = await docker("image", "inspect", "-f", "{{.RootFS.Layers}} {{.Comment}}", "fetched:v1")
            assert shown == f"[{digest(layer_of({'hello': b'world'}))}] Imported from http://{server.address}/root.tar"
        with serving(lambda request: answer(request, 404, b"gone")) as server:
            assert "with status 404" in await docker("import", f"http://{server.address}/x", fails=True)
        assert "No such image" in await docker("save", "-o", archive, "nothing", fails=True)
        (tmp_path / "bad.tar").write_bytes(b"nonsense" * 1000)
        await docker("load", "-i", str(tmp_path / "bad.tar"), fails=True)


async def test_a_private_registry_wants_a_login(tmp_path: Path) -> None:
    async with session(tmp_path, users={"me": "secret"}) as (docker, registry, _):
        registry.push("app", "latest", image_of(layer_of({"a": b"a"})))
        name = f"{registry.address}/app"
        assert "no basic auth credentials" in await docker("pull", name, fails=True)
        await docker("login", "-u", "me", "-p", "wrong", registry.address, fails=True)
        assert "Login Succeeded" in await docker("login", "-u", "me", "-p", "secret", registry.address)
        assert "Downloaded newer image" in await docker("pull", name)
