"""Containers where no overlay can be mounted: on a data root that lies on an overlay itself (IMG-24)."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.drivers.linux.storage import kernel
from tests.support.engine import Engine, running_engine
from tests.support.images import image_of, layer_of

pytestmark = pytest.mark.root


@pytest.fixture
def inside() -> Iterator[Engine]:
    engine = Engine()
    parts = [engine.root / name for name in ("lower", "upper", "work", "data")]
    for part in parts:
        part.mkdir()
    lower, upper, work, data = map(str, parts)
    kernel.mount_overlay(data, (lower,), upper, work, volatile=False)
    try:
        engine.start()
        engine.load_busybox()
        yield engine
    finally:
        try:
            engine.close()
        finally:
            with contextlib.suppress(OSError):
                kernel.umount(data)
            subprocess.run(["rm", "-rf", str(engine.root)], check=True)


def test_containers_are_whole_copies(inside: Engine) -> None:
    """IMG-24, CTR-33, CTR-34: run, restart, diff, commit and what each of them wrote."""
    engine = inside
    assert engine.out("info", "--format", "{{.Driver}}") == "vfs"
    engine.cli("run", "--name", "one", "busybox", "sh", "-c", "echo mine > /made; rm /bin/true; echo again >> /log")
    assert engine.out("inspect", "--format", "{{.GraphDriver.Name}} {{.Driver}}", "one") == "vfs vfs"
    assert engine.out("diff", "one").splitlines() == ["C /bin", "D /bin/true", "A /log", "A /made"]
    assert engine.json("/containers/one/json?size=1")["SizeRw"] == len("mine\nagain\n")
    engine.cli("start", "-a", "one")
    engine.cli("commit", "one", "two")
    assert engine.out("run", "--rm", "two", "cat", "/log") == "again\nagain"
    assert engine.cli("run", "--rm", "two", "ls", "/bin/true", check=False).returncode
    layers = json.loads(engine.out("inspect", "--format", "{{json .RootFS.Layers}}", "two"))
    assert len(layers) == 2
    assert engine.out("run", "--rm", "busybox", "ls", "/bin/true") == "/bin/true"


def test_images_of_many_layers_come_whole(tmp_path: Path) -> None:
    """IMG-15, IMG-24."""
    with running_engine("--storage-driver", "vfs") as engine:
        for number in range(6):
            layers = [layer_of({f"{number}-{each}": b"x"}) for each in range(5)]
            (tmp_path / "archive").write_bytes(image_of(*layers).docker_archive(f"deep:{number}"))
            assert engine.out("load", "-i", str(tmp_path / "archive")) == f"Loaded image: deep:{number}"
            engine.cli("create", "--name", f"deep{number}", f"deep:{number}", "none")
            root = tmp_path / str(number)
            engine.cli("cp", f"deep{number}:/", str(root))
            assert {f"{number}-{each}" for each in range(5)} <= {each.name for each in root.iterdir()}


def test_files_volumes_and_limits_are_as_over_an_overlay(inside: Engine, tmp_path: Path) -> None:
    """IMG-24: docker cp, copy-up, image mounts, read-only roots, and nothing left behind."""
    engine = inside
    (tmp_path / "file").write_text("copied\n")
    engine.cli("create", "--name", "stopped", "busybox", "cat", "/tmp/file")
    engine.cli("cp", str(tmp_path / "file"), "stopped:/tmp/file")
    assert engine.out("start", "-a", "stopped") == "copied"
    engine.cli("cp", "stopped:/tmp/file", str(tmp_path / "back"))
    assert (tmp_path / "back").read_text() == "copied\n"
    engine.cli("commit", "stopped", "more")
    assert engine.out("run", "--rm", "-v", "vol:/tmp", "more", "cat", "/tmp/file") == "copied"
    assert engine.out("run", "--rm", "-v", "vol:/v", "busybox", "cat", "/v/file") == "copied"
    mount = "type=image,source=more,target=/other"
    assert engine.out("run", "--rm", "--mount", mount, "busybox", "cat", "/other/tmp/file") == "copied"
    refused = engine.cli("run", "--rm", "--read-only", "busybox", "touch", "/x", check=False)
    assert "Read-only file system" in refused.stderr
    engine.cli("rm", "stopped")
    assert not list((engine.data_root / "rootfs").iterdir())


def test_an_engine_that_was_told_to_use_overlays_says_why_it_cannot(inside: Engine) -> None:
    """IMG-24: what a data root began with stays."""
    inside.stop()
    inside.flags = ("--storage-driver", "overlay2")
    with pytest.raises(Exception, match="has layers of vfs"):
        inside.start()
    inside.flags = ()
    inside.start()
    assert inside.out("run", "--rm", "busybox", "echo", "alive") == "alive"
