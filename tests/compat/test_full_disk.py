"""A full file system: requests are refused in words, nothing half-made is left, nothing known is lost."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.engine import Engine
from tests.support.images import image_of, layer_of
from tests.support.outside import standing_in
from tests.support.registry import running_registry, tool

pytestmark = pytest.mark.root
DISK_BYTES = 96 << 20
IMAGE = image_of(layer_of({"big": os.urandom(1 << 20)}), Cmd=["/big"])


class Disk:
    """A small ext4 file system under an engine's data root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._ballast = root / "ballast"

    def fill(self, *, reserve: bool = False) -> None:
        """Leave not one block; not even those that the write-ahead logs have beyond their end, unless `reserve`."""
        if not reserve:
            for log in self.root.glob("*.db-wal"):
                frames = struct.unpack_from("I", log.with_name(log.name[:-3] + "shm").read_bytes(), 16)[0]
                os.truncate(log, 32 + frames * (24 + 4096))  # the shared index says how many frames count
        with self._ballast.open("ab", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                with contextlib.suppress(OSError):
                    while file.write(b"\0" * size):
                        pass
            with contextlib.suppress(OSError):
                os.fsync(file.fileno())

    def free(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def small() -> Iterator[tuple[Engine, Disk]]:
    engine = Engine()
    image = engine.root / "disk.img"
    engine.data_root.mkdir()
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    # No blocks kept back for root: full means full.
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
    mounted = subprocess.run(["mount", "-o", "loop", str(image), str(engine.data_root)], check=False)
    if mounted.returncode:
        engine.close()
        pytest.skip("no loop devices here")
    try:
        engine.start()
        engine.load_busybox()
        yield engine, Disk(engine.data_root)
    finally:
        with contextlib.suppress(FileNotFoundError):
            (engine.data_root / "ballast").unlink()
        try:
            engine.close()
        finally:
            subprocess.run(["umount", str(engine.data_root)], check=True)
            subprocess.run(["rm", "-rf", str(engine.root)], check=True)


def test_a_full_disk_refuses_work_in_words_and_loses_nothing(small: tuple[Engine, Disk], tmp_path: Path) -> None:
    """Create, start, stop and pull on a full disk, and all of them once there is room again."""
    engine, disk = small
    engine.cli("create", "--name", "waiting", "busybox", "echo", "started at last")
    engine.cli("run", "-d", "--name", "ends", "-i", "busybox", "sh", "-c", "read line; exit 7")
    engine.cli("run", "-d", "--name", "talks", "busybox", "sh", "-c", "echo before; exec sleep 1000")
    engine.wait_for(lambda: engine.out("logs", "talks") == "before")
    with standing_in(engine.name), running_registry(tmp_path) as registry:
        registry.push("app", "v1", IMAGE)
        name = f"{registry.address}/app:v1"
        containers, images = engine.json("/containers/json?all=1"), engine.json("/images/json")
        ending = engine.json("/containers/ends/json")["State"]["Pid"]
        disk.fill()

        for words in (("create", "busybox", "true"), ("run", "busybox", "true"), ("start", "waiting"), ("pull", name)):
            done = engine.cli(*words, check=False)
            assert done.returncode != 0, words
            assert "no space left on device" in done.stderr, (words, done.stderr)

        # Reading goes on, and nothing came of what was refused.
        now = engine.json("/containers/json?all=1")
        assert {row["Id"]: row["State"] for row in now} == {row["Id"]: row["State"] for row in containers}
        assert engine.json("/images/json") == images
        assert engine.out("logs", "talks") == "before"
        # An exit that can not be written down stays known to the supervisor.
        with sending_a_line(engine, "ends"):
            engine.wait_for(lambda: not alive(ending))
            disk.free()
        assert engine.out("wait", "ends", timeout_s=60) == "7"
        assert engine.out("start", "-a", "waiting") == "started at last"
        engine.cli("pull", "-q", name)
        engine.cli("run", "--rm", "busybox", "true")
        engine.cli("stop", "-t", "0", "talks")
    verified = engine.replay("verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_what_the_log_has_room_for_goes_on_on_a_full_disk(small: tuple[Engine, Disk]) -> None:
    """A stop is carried out and its exit is known, also to an engine that starts while the disk is full."""
    engine, disk = small
    engine.cli("run", "-d", "--init", "--name", "ends", "busybox", "sleep", "1000")
    disk.fill(reserve=True)
    engine.cli("stop", "ends")
    assert engine.json("/containers/ends/json")["State"]["ExitCode"] == 143
    engine.kill()
    engine.start()
    assert engine.json("/containers/ends/json")["State"]["Status"] == "exited"


def test_a_disk_that_is_full_at_a_restart_is_said_and_outlived(small: tuple[Engine, Disk]) -> None:
    """The engine is killed while the disk is full; whatever it can do then, with room again it is whole."""
    engine, disk = small
    engine.cli("run", "-d", "--name", "kept", "busybox", "sleep", "1000")
    pid = engine.json("/containers/kept/json")["State"]["Pid"]
    disk.fill()
    engine.kill()
    refusal = ""
    try:
        engine.start()
    except AssertionError as error:
        refusal = str(error)
        engine.process = None
        assert "no space left on device" in refusal.lower(), refusal
        assert "Traceback" not in refusal, refusal
    disk.free()
    if refusal:
        engine.start()
    assert engine.json("/containers/kept/json")["State"]["Pid"] == pid
    engine.wait_for(lambda: engine.cli("run", "--rm", "busybox", "true", check=False).returncode == 0)
    assert engine.replay("verify").returncode == 0


@pytest.mark.parametrize("way", ["load", "pull"])
def test_an_image_that_does_not_fit_gives_its_space_back(small: tuple[Engine, Disk], tmp_path: Path, way: str) -> None:
    """IMG: as a blob it fits, unpacked it does not: that is said, the container goes on, and all is as before."""
    engine, disk = small
    pid = engine.json(f"/containers/{engine.out('run', '-d', 'busybox', 'sleep', '1000')}/json")["State"]["Pid"]
    room = os.statvfs(disk.root)
    part = os.urandom(room.f_bavail * room.f_frsize * 3 // 10)
    image = image_of(layer_of({"first": part}), layer_of({"second": part[::-1]}))
    before = free_bytes(disk.root)
    with standing_in(engine.name), running_registry(tmp_path) as registry:
        name = f"{registry.address}/large:v1"
        if way == "pull":
            registry.push("large", "v1", image)
            done = engine.cli("pull", name, check=False)
        else:
            archive = tmp_path / "large.tar"
            archive.write_bytes(image.docker_archive(name))
            done = engine.cli("load", "-i", str(archive), check=False)
        assert done.returncode != 0
        assert "no space left on device" in done.stderr + done.stdout
        assert engine.out("images", "-q", f"{registry.address}/large") == ""
        engine.wait_for(lambda: before - free_bytes(disk.root) < 1 << 20, timeout_s=60)
        assert alive(pid)
        assert engine.out("run", "--rm", "busybox", "echo", "room") == "room"
        assert engine.replay("verify").returncode == 0


def free_bytes(path: Path) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


@contextlib.contextmanager
def sending_a_line(engine: Engine, name: str) -> Iterator[None]:
    """Attach, and send the line that the container waits for; the client stays until it is told of the exit."""
    words = [tool("docker"), "attach", "--sig-proxy=false", name]
    client = subprocess.Popen(words, env=engine.environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert client.stdin is not None
    client.stdin.write(b"go\n")
    client.stdin.close()
    try:
        yield
        assert client.wait(60) == 7
    finally:
        client.kill()
        client.wait()


def alive(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
