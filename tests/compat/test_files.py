"""Files: volumes, binds, copies in and out, differences, exports."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.support.engine import Engine
from tests.support.registry import tool

pytestmark = pytest.mark.root


def test_a_named_volume_outlives_its_containers(engine: Engine) -> None:
    """VOL-08, VOL-09, CTR-39, VOL: what one wrote another reads; in use it cannot be removed."""
    engine.cli("run", "--rm", "-v", "data:/data", "busybox", "sh", "-c", "echo kept > /data/file")
    engine.cli("run", "-d", "--name", "user", "-v", "data:/data:ro", "busybox", "sleep", "1000")
    assert engine.out("exec", "user", "cat", "/data/file") == "kept"
    assert engine.cli("exec", "user", "touch", "/data/x", check=False).returncode != 0
    assert engine.out("volume", "ls", "-q") == "data"
    place = Path(engine.out("volume", "inspect", "-f", "{{.Mountpoint}}", "data"))
    assert (place / "file").read_text() == "kept\n"
    assert engine.request("DELETE", "/volumes/data")[0] == 409
    assert "volume is in use" in engine.cli("volume", "rm", "data", check=False).stderr
    engine.cli("rm", "-f", "user")
    assert engine.out("volume", "rm", "data") == "data"
    assert engine.request("GET", "/volumes/data")[0] == 404
    assert not place.exists()


def test_a_new_volume_begins_with_the_images_files(engine: Engine) -> None:
    """VOL-06: VOL: copy-up, once, and not with nocopy."""
    assert engine.out("run", "--rm", "-v", "etc:/etc", "busybox", "cat", "/etc/passwd").startswith("root:")
    engine.cli("run", "--rm", "-v", "etc:/etc", "busybox", "rm", "/etc/passwd")
    assert (
        engine.cli("run", "--rm", "-v", "etc:/etc", "busybox", "test", "-e", "/etc/passwd", check=False).returncode == 1
    )
    assert (
        engine.cli(
            "run", "--rm", "-v", "no:/etc:nocopy", "busybox", "test", "-e", "/etc/passwd", check=False
        ).returncode
        == 1
    )


def test_anonymous_volumes_go_with_their_container(engine: Engine) -> None:
    """VOL-09, CTR-15, CTR-16: with --rm and with rm -v, not with rm alone."""
    engine.cli("run", "--rm", "-v", "/data", "busybox", "true")
    assert engine.out("volume", "ls", "-q") == ""
    engine.cli("create", "--name", "one", "-v", "/data", "busybox")
    engine.cli("rm", "-v", "one")
    assert engine.out("volume", "ls", "-q") == ""
    engine.cli("create", "--name", "two", "-v", "/data", "busybox")
    engine.cli("rm", "two")
    assert len(engine.out("volume", "ls", "-q")) == 64
    engine.cli("volume", "prune", "-f")
    assert engine.out("volume", "ls", "-q") == ""


def test_a_directory_of_the_host(engine: Engine, tmp_path: Path) -> None:
    """CTR-39: read-write, :ro, one file, missing directories of -v are made, those of --mount refused."""
    (tmp_path / "file").write_text("from the host\n")
    engine.cli("run", "--rm", "-v", f"{tmp_path}:/c", "busybox", "sh", "-c", "cp /c/file /c/copy")
    assert (tmp_path / "copy").read_text() == "from the host\n"
    shown = engine.cli(
        "run", "--rm", "-v", f"{tmp_path}:/c:ro", "busybox", "sh", "-c", "cat /c/file; touch /c/x", check=False
    )
    assert (shown.stdout, shown.returncode) == ("from the host\n", 1)
    assert "Read-only file system" in shown.stderr
    assert (
        engine.out("run", "--rm", "-v", f"{tmp_path}/file:/etc/motd:ro", "busybox", "cat", "/etc/motd")
        == "from the host"
    )
    engine.cli("run", "--rm", "-v", f"{tmp_path}/new/one:/c", "busybox", "touch", "/c/made")
    assert (tmp_path / "new/one/made").exists()
    refused = engine.cli(
        "run", "--rm", "--mount", f"type=bind,src={tmp_path}/missing,dst=/c", "busybox", "true", check=False
    )
    assert "bind source path does not exist" in refused.stderr


def test_read_only_means_the_mounts_below_too(engine: Engine, tmp_path: Path) -> None:
    """CTR-39: a writable mount inside a read-only bind is read-only as well (kernels from 5.12)."""
    below = tmp_path / "below"
    below.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", below], check=True)
    try:
        done = engine.cli("run", "--rm", "-v", f"{tmp_path}:/c:ro", "busybox", "touch", "/c/below/x", check=False)
        assert "Read-only file system" in done.stderr
    finally:
        subprocess.run(["umount", below], check=True)


def test_volumes_from_another_container(engine: Engine) -> None:
    """CTR-41."""
    engine.cli("run", "--name", "donor", "-v", "data:/data", "busybox", "sh", "-c", "echo given > /data/f")
    assert engine.out("run", "--rm", "--volumes-from", "donor", "busybox", "cat", "/data/f") == "given"
    assert (
        engine.cli("run", "--rm", "--volumes-from", "donor:ro", "busybox", "touch", "/data/g", check=False).returncode
        == 1
    )


@pytest.mark.parametrize("running", [True, False])
def test_cp_both_ways(engine: Engine, tmp_path: Path, running: bool) -> None:
    """CTR-30, CTR-31: a file, a directory, a new name; into a running and into a stopped container."""
    (tmp_path / "tree/deep").mkdir(parents=True)
    (tmp_path / "tree/deep/leaf").write_text("leaf\n")
    (tmp_path / "tree/run.sh").write_text("#!/bin/sh\n")
    (tmp_path / "tree/run.sh").chmod(0o755)
    if running:
        engine.cli("run", "-d", "--name", "box", "-v", "vol:/vol", "busybox", "sleep", "1000")
    else:
        engine.cli("create", "--name", "box", "-v", "vol:/vol", "busybox")
    engine.cli("cp", f"{tmp_path}/tree", "box:/tmp/")
    engine.cli("cp", f"{tmp_path}/tree/deep/leaf", "box:/etc/renamed")
    engine.cli("cp", f"{tmp_path}/tree/deep/.", "box:/vol")
    engine.cli("cp", "box:/tmp/tree", f"{tmp_path}/back")
    assert (tmp_path / "back/deep/leaf").read_text() == "leaf\n"
    assert os.access(tmp_path / "back/run.sh", os.X_OK)
    engine.cli("cp", "box:/etc/renamed", f"{tmp_path}/renamed")
    assert (tmp_path / "renamed").read_text() == "leaf\n"
    assert engine.out("run", "--rm", "-v", "vol:/vol", "busybox", "cat", "/vol/leaf") == "leaf"
    missing = engine.cli("cp", "box:/nothing", str(tmp_path), check=False)
    assert "Could not find the file /nothing in container box" in missing.stderr
    if running:
        assert engine.out("exec", "box", "cat", "/tmp/tree/deep/leaf") == "leaf"


def test_cp_as_a_stream_and_through_links(engine: Engine) -> None:
    """CTR-30, CTR-31: `-` is a tar; a link to the root of the host leads to the container's own."""
    engine.cli(
        "run", "-d", "--name", "box", "busybox", "sh", "-c", "ln -s /etc/passwd /link; ln -s / /loop; sleep 1000"
    )
    engine.wait_for(lambda: engine.cli("exec", "box", "test", "-e", "/loop", check=False).returncode == 0)
    got = subprocess.run(
        [tool("docker"), "cp", "-L", "box:/loop/link", "-"], env=engine.environment, capture_output=True, check=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(got)) as tar:
        member = tar.getmembers()[0]
        content = tar.extractfile(member)
        assert content is not None
        assert content.read().startswith(b"root:x:0:0:root:/root:/bin/sh\n")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        entry = tarfile.TarInfo("put")
        entry.size = 3
        tar.addfile(entry, io.BytesIO(b"put"))
    subprocess.run(
        [tool("docker"), "cp", "-", "box:/loop/tmp"], env=engine.environment, input=out.getvalue(), check=True
    )
    assert engine.out("exec", "box", "cat", "/tmp/put") == "put"
    status, _ = engine.request("PUT", "/containers/box/archive?path=/etc/passwd", out.getvalue())
    assert status == 400
    assert engine.request("HEAD", "/containers/box/archive?path=/nothing")[0] == 404


def test_cp_into_a_read_only_container_is_refused(engine: Engine, tmp_path: Path) -> None:
    """CTR-31: its root is read-only for everybody; its volumes are not."""
    (tmp_path / "f").write_text("x")
    engine.cli("run", "-d", "--name", "box", "--read-only", "-v", "vol:/vol", "busybox", "sleep", "1000")
    assert "read-only" in engine.cli("cp", f"{tmp_path}/f", "box:/tmp/f", check=False).stderr
    engine.cli("cp", f"{tmp_path}/f", "box:/vol/f")
    assert engine.out("exec", "box", "cat", "/vol/f") == "x"


def test_diff_tells_what_changed(engine: Engine) -> None:
    """CTR-32."""
    engine.cli(
        "run", "--name", "box", "busybox", "sh", "-c", "echo x > /new; rm /etc/group; echo >> /etc/passwd; mkdir /d"
    )
    assert set(engine.out("diff", "box").splitlines()) == {"A /new", "C /etc", "D /etc/group", "C /etc/passwd", "A /d"}
    engine.cli("create", "--name", "clean", "busybox")
    assert engine.out("diff", "clean") == ""


def test_export_is_the_root_without_volumes(engine: Engine) -> None:
    """CTR-33: and `import` makes an image of it again."""
    engine.cli("run", "--name", "box", "-v", "vol:/vol", "busybox", "sh", "-c", "echo mine > /mine; echo x > /vol/x")
    archive = subprocess.run(
        [tool("docker"), "export", "box"], env=engine.environment, capture_output=True, check=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        names = {member.name.rstrip("/").removeprefix("./") for member in tar}
    assert {"mine", "bin/busybox", "etc/passwd", "vol"} <= names
    assert "vol/x" not in names
    imported = subprocess.run(
        [tool("docker"), "import", "-c", "CMD cat /mine", "-", "again:v1"], env=engine.environment, input=archive,
        capture_output=True, check=True,
    ).stdout  # fmt: skip
    assert imported.startswith(b"sha256:")
    assert engine.out("run", "--rm", "again:v1") == "mine"
    engine.cli("rmi", "again:v1")


def test_volume_commands(engine: Engine) -> None:
    """VOL-01..04: VOL: create, ls, inspect, prune."""
    assert engine.out("volume", "create", "--label", "a=b", "mine") == "mine"
    inspected = json.loads(engine.out("volume", "inspect", "mine"))[0]
    assert (inspected["Driver"], inspected["Scope"], inspected["Labels"]) == ("local", "local", {"a": "b"})
    assert len(engine.out("volume", "create")) == 64
    assert engine.out("volume", "ls", "-q", "--filter", "label=a") == "mine"
    assert "includes invalid characters" in engine.cli("volume", "create", "b@d", check=False).stderr
    assert "Total reclaimed space" in engine.out("volume", "prune", "-a", "-f")
    assert engine.out("volume", "ls", "-q") == ""


def test_a_copy_of_everything_has_nothing_that_the_kernel_makes_up(engine: Engine, tmp_path: Path) -> None:
    """CTR-30: all of a running container, but /proc, /sys and /dev empty; what is asked for by name is there."""
    engine.cli("run", "-d", "--name", "box", "-v", "data:/data", "busybox", "sh", "-c", "echo x > /data/x; sleep 1000")
    engine.wait_for(lambda: engine.cli("exec", "box", "test", "-e", "/data/x", check=False).returncode == 0)
    engine.cli("cp", "box:/", str(tmp_path / "all"))
    assert (tmp_path / "all" / "data" / "x").read_text() == "x\n"
    assert (tmp_path / "all" / "etc" / "hostname").exists()
    for folder in ("proc", "sys", "dev"):
        assert list((tmp_path / "all" / folder).iterdir()) == [], folder
    status, archive = engine.request("GET", "/containers/box/archive?path=/dev/null")
    assert (status, tarfile.open(fileobj=io.BytesIO(archive)).getmembers()[0].ischr()) == (200, True)
