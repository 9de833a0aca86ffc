"""Mounts of every kind: subpaths, images, options, refusals, and volumes of other containers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.engine import Engine

pytestmark = pytest.mark.root


def create(engine: Engine, *mounts: dict[str, Any], prefix: str = "", **host: Any) -> tuple[int, str]:
    """The status, and the id or the words of the refusal."""
    body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"Mounts": mounts, **host}}
    status, answer = engine.request("POST", f"{prefix}/containers/create", body)
    told = json.loads(answer)
    return status, str(told.get("Id") or told["message"])


def mounted(engine: Engine, mount: str, *command: str, check: bool = True) -> Any:
    return engine.cli("run", "--rm", "--mount", mount, "busybox", *command, check=check)


def test_a_part_of_a_volume(engine: Engine) -> None:
    """CTR-39: a directory or a file of it; what is missing is not made; links within it are followed."""
    fill = "mkdir -p /v/sub/deep; echo one > /v/sub/file; ln -s sub /v/link; echo outside > /v/outside"
    engine.cli("run", "--rm", "-v", "data:/v", "busybox", "sh", "-c", fill)
    part = "type=volume,src=data,dst=/m,volume-subpath=sub"
    assert mounted(engine, part, "ls", "/m").stdout.split() == ["deep", "file"]
    assert mounted(engine, "type=volume,src=data,dst=/m,volume-subpath=link", "cat", "/m/file").stdout == "one\n"
    assert mounted(engine, "type=volume,src=data,dst=/f,volume-subpath=sub/file", "cat", "/f").stdout == "one\n"
    mounted(engine, part, "touch", "/m/new")
    assert "Read-only" in mounted(engine, part + ",readonly", "touch", "/m/x", check=False).stderr
    missing = mounted(engine, "type=volume,src=data,dst=/m,volume-subpath=nothing", "true", check=False)
    assert missing.returncode != 0
    assert "cannot access path nothing: no such file or directory" in missing.stderr
    engine.cli("create", "--name", "still", "--mount", "type=volume,src=data,dst=/m,volume-subpath=sub", "busybox")
    engine.cli("cp", "still:/m/file", str(engine.root / "copied"))
    assert (engine.root / "copied").read_text() == "one\n"


def test_a_subpath_never_leads_out_of_its_volume(engine: Engine, tmp_path: Path) -> None:
    """CTR-39: neither by its words nor by links that whoever has the volume planted."""
    (tmp_path / "secret").write_text("the host's")
    plant = f"ln -s / /v/root; ln -s {tmp_path} /v/away; ln -s ../../.. /v/up; mkdir /v/dir; ln -s /etc /v/dir/etc"
    engine.cli("run", "--rm", "-v", "data:/v", "busybox", "sh", "-c", plant)
    for subpath in ("root", "away", "up", "dir/etc", "away/secret", "root/etc"):
        done = mounted(engine, f"type=volume,src=data,dst=/m,volume-subpath={subpath}", "ls", "/m", check=False)
        assert done.returncode != 0
        assert "is escaping from its base" in done.stderr
    volume = {"Type": "volume", "Source": "data", "Target": "/m"}
    for subpath in ("..", "../x", "/etc", "dir/../../x"):
        status, words = create(engine, {**volume, "VolumeOptions": {"Subpath": subpath}})
        assert (status, "subpath must be a relative path within the volume" in words) == (400, True)
    status, words = create(engine, {**volume, "VolumeOptions": {"Subpath": "dir"}}, prefix="/v1.44")
    assert (status, words) == (400, "VolumeOptions.Subpath needs API v1.45 or newer")


def test_an_image_as_a_mount(engine: Engine) -> None:
    """CTR-39, IMG-28: its files, read-only, whole or a part, of one layer or several; kept while a container has it."""
    engine.cli("run", "--name", "writer", "busybox", "sh", "-c", "mkdir /data; echo upper > /data/file; rm /etc/group")
    engine.cli("commit", "writer", "layered")
    engine.cli("rm", "writer")
    for image in ("busybox", "layered"):
        whole = f"type=image,src={image},dst=/m"
        assert mounted(engine, whole, "cat", "/m/etc/passwd").stdout.startswith("root:")
        assert "Read-only" in mounted(engine, whole, "touch", "/m/x", check=False).stderr
    assert mounted(engine, "type=image,src=layered,dst=/m", "ls", "/m/data", "/m/etc").stdout.count("group") == 0
    part = "type=image,src=layered,dst=/m,image-subpath=data"
    assert mounted(engine, part, "ls", "/m").stdout == "file\n"
    assert mounted(engine, part + "/file", "cat", "/m").stdout == "upper\n"
    assert "group" not in mounted(engine, "type=image,src=layered,dst=/m", "ls", "/m/etc").stdout.split()
    whole = "type=image,src=layered,dst=/m"
    engine.cli("create", "--name", "holder", "--mount", whole, "busybox", "cat", "/m/data/file")
    shown = engine.json("/containers/holder/json")["Mounts"]
    assert [(row["Type"], row["Source"], row["Destination"], row["RW"]) for row in shown] == [
        ("image", "layered", "/m", False)
    ]
    engine.cli("cp", "holder:/m/data/file", str(engine.root / "copied"))
    assert (engine.root / "copied").read_text() == "upper\n"
    engine.cli("rmi", "-f", "layered")
    engine.restart()
    assert engine.out("start", "-a", "holder") == "upper"
    image = {"Type": "image", "Source": "nothing-here", "Target": "/m"}
    assert create(engine, image) == (404, "No such image: nothing-here:latest")
    assert create(engine, image, prefix="/v1.47") == (400, 'Mount type "Image" needs API v1.48 or newer')


def test_binds_of_the_mounts_api(engine: Engine, tmp_path: Path) -> None:
    """CTR-39: a missing source is 400 unless CreateMountpoint; the words of every other refusal."""
    bind = {"Type": "bind", "Source": str(tmp_path / "new"), "Target": "/m"}
    status, words = create(engine, bind)
    assert status == 400
    assert words == f'invalid mount config for type "bind": bind source path does not exist: {tmp_path}/new'
    status, made = create(engine, {**bind, "BindOptions": {"CreateMountpoint": True}})
    assert status == 201, made
    engine.cli("start", made)
    assert (tmp_path / "new").is_dir()
    status, words = create(engine, {**bind, "BindOptions": {"CreateMountpoint": True}}, prefix="/v1.41")
    assert status == 201, words  # the directory is there by now, and the option is not for that age
    tmpfs = {"Type": "tmpfs", "Target": "/m"}
    for mount, wanted in (
        ({**bind, "Type": "odd"}, "mount type unknown"),
        ({**bind, "VolumeOptions": {}}, 'VolumeOptions must not be specified on mount type "bind"'),
        ({**tmpfs, "BindOptions": {}}, 'BindOptions must not be specified on mount type "tmpfs"'),
        ({**tmpfs, "Source": "/x"}, "field Source must not be specified"),
        ({**bind, "Target": "/"}, "invalid specification: destination can't be '/'"),
    ):
        status, words = create(engine, mount)
        assert (status, wanted in words) == (400, True), words
    assert create(engine, bind, bind) == (400, "Duplicate mount point: /m")
    assert create(engine, bind, Binds=["/tmp:/m"]) == (400, "Duplicate mount point: /m")
    status, words = create(engine, {"Type": "npipe", "Source": "x", "Target": "/m"})
    assert status == 501


def test_read_only_binds_are_read_only_all_the_way_down(engine: Engine, tmp_path: Path) -> None:
    """CTR-39: what is mounted below too, unless ReadOnlyNonRecursive or an API before 1.44."""
    (tmp_path / "below").mkdir()
    engine.in_namespace("mount", "-t", "tmpfs", "tmpfs", str(tmp_path / "below"))
    try:
        deep, plain = ("touch", "/m/below/x"), f"type=bind,src={tmp_path},dst=/m,readonly"
        assert "Read-only" in mounted(engine, plain, *deep, check=False).stderr
        assert mounted(engine, plain + ",bind-recursive=writable", *deep).returncode == 0
        alone = mounted(engine, plain + ",bind-recursive=disabled", "ls", "/m/below/x", check=False)
        assert "No such file" in alone.stderr
    finally:
        engine.in_namespace("umount", str(tmp_path / "below"))


def test_volumes_of_another_container(engine: Engine, tmp_path: Path) -> None:
    """CTR-41: its volumes and binds, read-only on demand; its own destinations win; an unknown donor is 400, because
    clients take 404 for the image."""
    own = ("-v", "data:/data", "-v", f"{tmp_path}:/host", "-v", "/anonymous")
    engine.cli("create", "--name", "donor", *own, "busybox")
    engine.cli("run", "--rm", "--volumes-from", "donor", "busybox", "sh", "-c", "echo a > /data/a; echo b > /host/b")
    assert (tmp_path / "b").read_text() == "b\n"
    done = engine.cli("run", "--rm", "--volumes-from", "donor:ro", "busybox", "touch", "/data/x", check=False)
    assert "Read-only" in done.stderr
    assert engine.out("run", "--rm", "--volumes-from", "donor", "-v", "other:/data", "busybox", "ls", "/data") == ""
    engine.cli("create", "--name", "heir", "--volumes-from", "donor", "busybox")
    shown = {row["Destination"]: row["Type"] for row in engine.json("/containers/heir/json")["Mounts"]}
    assert shown == {"/data": "volume", "/host": "bind", "/anonymous": "volume"}
    assert create(engine, VolumesFrom=["nobody"]) == (400, "No such container: nobody")
    assert create(engine, VolumesFrom=["donor:odd"]) == (400, "invalid mode: odd")
    assert create(engine, VolumesFrom=["donor:nocopy"]) == (400, "invalid mode: nocopy")


def test_what_the_engine_writes_lies_in_what_the_user_mounts(engine: Engine) -> None:
    """CTR-39: a volume or a tmpfs at /etc has the container's own /etc/hosts in it; one at /sbin has the init."""
    for options in (("-v", "etc:/etc"), ("--tmpfs", "/etc")):
        shown = engine.out("run", "--rm", *options, "-h", "mine", "busybox", "sh", "-c", "cat /etc/hostname; ls /etc")
        assert shown.split()[0] == "mine"
        assert {"hosts", "resolv.conf"} < set(shown.split())
    assert "docker-init" in engine.out("run", "--rm", "--init", "-v", "sbin:/sbin", "busybox", "ps")


def test_a_file_is_not_mounted_onto_a_directory(engine: Engine) -> None:
    """CTR-40: in the words that everybody has met; nor a directory onto a file."""
    for bind in ("/etc/passwd:/etc", "/etc:/etc/passwd"):
        failed = engine.cli("run", "--rm", "-v", bind, "busybox", "true", check=False)
        assert "not a directory: Are you trying to mount a directory onto a file (or vice-versa)?" in failed.stderr
