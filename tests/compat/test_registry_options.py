"""What the daemon's options say of registries, through the CLI: mirrors of Docker Hub, and registries without a trusted
certificate."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compat.test_registry import IMAGE, registry_beside, remove_all
from tests.support.certificates import Authority
from tests.support.engine import Engine, running_engine
from tests.support.images import image_of, layer_of

pytestmark = pytest.mark.root
ADDRESS = "10.98.7.6"
"""Not of loopback, where everything is insecure."""
OTHER = image_of(layer_of({"other": b"other\n"}), Cmd=["/other"])


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("config") / "daemon.json"
    file.write_text("{}")
    return file


@pytest.fixture(scope="module")
def module_engine(file: Path) -> Iterator[Engine]:
    with running_engine("--config-file", str(file)) as engine:
        engine.in_namespace("ip", "address", "add", f"{ADDRESS}/32", "dev", "lo")
        yield engine


@pytest.fixture
def images(engine: Engine, file: Path) -> Iterator[Engine]:
    yield engine
    remove_all(engine)
    configure(engine, file)


def configure(engine: Engine, file: Path, *, mirrors: tuple[str, ...] = (), insecure: tuple[str, ...] = ()) -> None:
    """Write daemon.json and wait until it is in force."""
    assert engine.process is not None
    file.write_text(json.dumps({"registry-mirrors": mirrors, "insecure-registries": insecure}))
    os.kill(engine.process.pid, signal.SIGHUP)

    def told() -> list[str]:
        found = engine.json("/info")["RegistryConfig"]
        named = [name for name, entry in found["IndexConfigs"].items() if not entry["Secure"]]
        return [*(found["Mirrors"] or ()), *named, *(found["InsecureRegistryCIDRs"] or ())]

    wanted = {*mirrors, *insecure}
    engine.wait_for(lambda: wanted == set(told()) - {"127.0.0.0/8", "::1/128"})


def test_docker_hub_is_read_from_its_mirrors_and_no_other_registry_is(
    images: Engine, file: Path, tmp_path: Path
) -> None:
    """IMG-03: the first mirror that has it, under the name that was asked for; a push goes elsewhere."""
    with (
        registry_beside(images, tmp_path / "empty") as empty,
        registry_beside(images, tmp_path / "full") as full,
        registry_beside(images, tmp_path / "own") as own,
    ):
        found = full.push("library/app", "latest", IMAGE)
        full.push("mine", "v1", IMAGE)
        own.push("mine", "v2", OTHER)
        assert images.cli("pull", "app", check=False).returncode
        configure(images, file, mirrors=(f"http://{empty.address}/", f"http://{full.address}/"))
        shown = images.out("pull", "app")
        assert f"Digest: {found}" in shown
        assert "Status: Downloaded newer image for app:latest" in shown
        assert images.out("inspect", "-f", "{{.RepoTags}} {{.RepoDigests}}", "app") == f"[app:latest] [app@{found}]"
        assert "not found" in images.cli("pull", f"{own.address}/mine:v1", check=False).stderr
        images.cli("pull", "-q", f"{own.address}/mine:v2")
        images.cli("tag", f"{own.address}/mine:v2", "library/pushed:v1")
        assert images.cli("push", "library/pushed:v1", check=False).returncode
        for mirror in (empty, full):
            assert mirror.request("GET", "/v2/library/pushed/tags/list").status == 404


@pytest.mark.parametrize("named", ["its address", "its network"])
@pytest.mark.parametrize("tls", [False, True], ids=["in the clear", "with a certificate of nobody"])
def test_an_insecure_registry_is_one_that_the_options_name(
    images: Engine, file: Path, tmp_path: Path, named: str, tls: bool
) -> None:
    """IMG-03: pulled from and pushed to without a certificate, or with one that nobody vouches for."""
    options: dict[str, object] = {}
    if tls:
        crt, key = Authority(tmp_path / "unknown").issue("server", ADDRESS)
        options["tls"] = {"certificate": str(crt), "key": str(key)}
    with registry_beside(images, tmp_path, host=ADDRESS, **options) as registry:
        name = f"{registry.address}/box:v1"
        (tmp_path / "root.tar").write_bytes(layer_of({"hello": b"hello\n"}))
        images.cli("import", str(tmp_path / "root.tar"), name)
        refused = images.cli("push", name, check=False).stderr
        assert ("unknown authority" if tls else "server gave HTTP response to HTTPS client") in refused
        configure(images, file, insecure=(registry.address if named == "its address" else "10.98.0.0/16",))
        images.cli("push", "-q", name)
        remove_all(images)
        assert f"Status: Downloaded newer image for {name}" in images.out("pull", name)


def test_registries_are_reached_by_a_proxy(tmp_path: Path) -> None:
    """SYS-19: the configuration's, over the environment's; a user and a password are shown to nobody. A registry that
    is asked for an absolute URL answers, as a proxy would that leads to it."""
    file = tmp_path / "daemon.json"
    file.write_text("{}")
    with running_engine("--config-file", str(file)) as engine, registry_beside(engine, tmp_path) as registry:
        found = registry.push("app", "v1", IMAGE)
        proxies = {"http-proxy": f"http://me:secret@{registry.address}", "no-proxy": "10.0.0.0/8"}
        file.write_text(json.dumps({"proxies": proxies, "insecure-registries": ["registry.invalid:5000"]}))
        engine.restart()
        assert f"Digest: {found}" in engine.out("pull", "registry.invalid:5000/app:v1")
        shown = engine.json("/info")
        assert shown["HttpProxy"] == f"http://xxxxx:xxxxx@{registry.address}"
        assert (shown["HttpsProxy"], shown["NoProxy"]) == ("", "10.0.0.0/8")
