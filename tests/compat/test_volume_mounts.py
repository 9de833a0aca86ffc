"""Volumes with a device on the engine's host: mounted while somebody uses them, and not a moment longer than that."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from engine.drivers.linux.mounts import mount_points
from tests.support.engine import Engine, running_engine

pytestmark = pytest.mark.root
FOREVER = ("busybox", "sleep", "1000")
SCRATCH = ("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "scratch")


def place(engine: Engine, name: str = "scratch") -> str:
    return engine.json(f"/volumes/{name}")["Mountpoint"]


def is_mounted(engine: Engine, name: str = "scratch") -> bool:
    return place(engine, name) in mount_points()


def gone(engine: Engine, name: str = "scratch") -> None:
    engine.wait_for(lambda: not is_mounted(engine, name))


def test_a_volume_is_mounted_from_its_first_use_to_its_last(engine: Engine) -> None:
    """VOL-07."""
    engine.cli(*SCRATCH)
    assert not is_mounted(engine)
    for name in ("one", "two"):
        engine.cli("run", "-d", "--name", name, "-v", "scratch:/s", *FOREVER)
    engine.cli("exec", "one", "touch", "/s/kept")
    engine.cli("rm", "-f", "one")
    engine.cli("run", "--rm", "-v", "scratch:/s", "busybox", "true")
    failed = engine.cli("run", "--rm", "-v", "scratch:/s", "busybox", "/nothing", check=False)
    assert failed.returncode == 127
    assert engine.out("exec", "two", "ls", "/s") == "kept"
    assert is_mounted(engine)
    engine.cli("stop", "-t", "0", "two")
    gone(engine)
    engine.cli("start", "two")
    assert engine.out("exec", "two", "ls", "/s") == "", "a tmpfs anew"
    engine.cli("kill", "two")
    gone(engine)


def test_a_start_that_fails_leaves_no_mount(engine: Engine) -> None:
    """VOL-07, VOL-08."""
    engine.cli(*SCRATCH)
    assert engine.cli("run", "--name", "bad", "-v", "scratch:/s", "busybox", "/nothing", check=False).returncode == 127
    gone(engine)


def test_files_of_a_container_that_does_not_run_are_those_of_its_volumes(engine: Engine, tmp_path: Path) -> None:
    """VOL-07, CTR-31: `docker cp` mounts a bind with options for as long as it looks."""
    (tmp_path / "file").write_text("of the device\n")
    bind = ("-o", "type=none", "-o", "o=bind", "-o", f"device={tmp_path}")
    engine.cli("volume", "create", *bind, "here")
    engine.cli("create", "--name", "still", "-v", "here:/h", *FOREVER)
    engine.cli("cp", "still:/h/file", str(tmp_path / "copy"))
    assert (tmp_path / "copy").read_text() == "of the device\n"
    engine.cli("cp", str(tmp_path / "copy"), "still:/h/back")
    assert (tmp_path / "back").read_text() == "of the device\n"
    gone(engine, "here")
    assert engine.cli("cp", "still:/h/none", str(tmp_path), check=False).returncode
    gone(engine, "here")


def test_what_ended_while_the_engine_was_away_is_given_back_at_the_start(engine: Engine) -> None:
    """VOL-07, VOL-08: and it is no drift."""
    engine.cli(*SCRATCH)
    for name in ("ends", "stays"):
        engine.cli("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", f"of-{name}")
        engine.cli("run", "-d", "--name", name, "-v", f"of-{name}:/s", "-v", "scratch:/t", *FOREVER)
    engine.cli("exec", "stays", "touch", "/s/kept")
    pid = engine.json("/containers/ends/json")["State"]["Pid"]
    engine.kill()
    subprocess.run(["kill", "-9", str(pid)], check=True)
    engine.start()
    gone(engine, "of-ends")
    assert is_mounted(engine, "of-stays")
    assert is_mounted(engine)
    assert engine.out("exec", "stays", "ls", "/s") == "kept"
    assert "mended" not in engine.log.read_text()
    engine.cli("rm", "-f", "stays")
    gone(engine)


def test_a_mount_that_nobody_uses_is_a_stray_one(engine: Engine) -> None:
    """WIN-05."""
    engine.cli(*SCRATCH)
    subprocess.run(["mount", "-t", "tmpfs", "stray", place(engine)], check=True)
    (outcome,) = engine.json("/drift")
    assert (outcome["difference"]["kind"], outcome["difference"]["deviation"]) == ("mount", "stray")
    engine.request("POST", "/drift/repair")
    assert not is_mounted(engine)


def test_nothing_is_mounted_when_the_containers_ended_with_the_engine() -> None:
    """VOL-07, SYS-13."""
    with running_engine("--live-restore=false") as engine:
        engine.cli(*SCRATCH)
        engine.cli("run", "-d", "--stop-timeout", "0", "-v", "scratch:/s", *FOREVER)
        mountpoint = place(engine)
        assert mountpoint in mount_points()
        engine.stop()
        assert mountpoint not in mount_points()
        engine.start()
