"""Limits of read-write layers and of volumes, on xfs mounted with `pquota`: a kernel without it skips these."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from engine.aggregates.values.ids import ContainerID, VolumeName
from engine.drivers.linux.storage import quota
from engine.drivers.linux.storage.store import LinuxStorage
from engine.drivers.linux.volume.local import LocalVolumes
from tests.contracts.test_storage_layers import unpacked
from tests.support.engine import Engine
from tests.support.images import layer_of

pytestmark = pytest.mark.root
DISK_BYTES = 400 << 20
FULL = "No space left on device"


def mount_xfs(image: Path, place: Path) -> None:
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    for command in (["mkfs.xfs", "-q", str(image)], ["mount", "-o", "loop,pquota", str(image), str(place)]):
        if shutil.which(command[0]) is None or subprocess.run(command, check=False).returncode:
            pytest.skip("no xfs with project quotas here")


@pytest.fixture
def xfs(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "data"
    place.mkdir()
    mount_xfs(tmp_path / "disk.img", place)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
async def storage(xfs: Path) -> AsyncIterator[LinuxStorage]:
    storage = LinuxStorage(str(xfs))
    yield storage
    await storage.workers.retire(idle_s=0)


async def test_a_read_write_layer_takes_what_it_was_given_and_no_more(xfs: Path, storage: LinuxStorage) -> None:
    """IMG-23: each its own, beside a volume's, and also after a restart; without a limit there is none."""
    assert quota.supported(str(xfs))
    chain = await unpacked(storage, layer_of({"f": b"x"}))
    uppers = []
    for number, limit in enumerate((4 << 20, 8 << 20, 0)):
        container_id = ContainerID(f"{number}" * 64)
        again = LinuxStorage(str(xfs))
        made = await again.rootfs.prepare(container_id, chain, volatile=False, limit_bytes=limit)
        uppers.append(Path(made.upper))
    volume = Path(await LocalVolumes(storage.places, storage.workers).create(VolumeName("kept"), {"size": "6M"}))
    assert quota.supported(str(xfs)), "asking again takes nobody's limit away"

    def written(upper: Path) -> int:
        for number in range(12):
            try:
                (upper / f"{number}").write_bytes(bytes(1 << 20))
            except OSError:
                return number
        return 12

    small, larger, free, kept = map(written, (*uppers, volume))
    assert 2 <= small < 4, "a little goes to the directories"
    assert 6 <= larger < 8
    assert free == 12
    assert 5 <= kept <= 6, "a volume is empty"


@pytest.fixture
def engine(tmp_path: Path, xfs: Path) -> Iterator[Engine]:
    """Whose data root is the file system: mounted there once more."""
    engine = Engine()
    try:
        engine.data_root.mkdir()
        subprocess.run(["mount", "--bind", str(xfs), str(engine.data_root)], check=True)
        engine.start()
        engine.load_busybox()
        yield engine
    finally:
        engine.close()
        subprocess.run(["umount", str(engine.data_root)], check=True)
        subprocess.run(["rm", "-rf", str(engine.root)], check=True)


def test_a_container_says_that_its_disk_is_full_and_the_others_have_theirs(engine: Engine) -> None:
    """IMG-23: `--storage-opt size=`."""
    write = ("busybox", "dd", "if=/dev/zero", "of=/big", "bs=1M", "count=30")
    limited = engine.cli("run", "--name", "small", "--storage-opt", "size=20M", *write, check=False)
    assert FULL in limited.stderr
    assert engine.cli("run", "--rm", *write).returncode == 0
    assert engine.cli("start", "-a", "small", check=False).returncode, "it is as full as before"
    refused = engine.cli("create", "--storage-opt", "colour=white", "busybox", check=False)
    assert "Unknown option colour" in refused.stderr


def test_a_volume_holds_what_it_was_made_for_and_no_more(engine: Engine) -> None:
    """VOL-07: `--opt size=`, also after a restart; a volume made at the first use has its own."""
    engine.cli("volume", "create", "--opt", "size=8M", "small")
    fill = ("sh", "-c", "dd if=/dev/zero of=/data/$(date +%s%N) bs=1M count=6")
    assert engine.cli("run", "--rm", "-v", "small:/data", "busybox", *fill).returncode == 0
    engine.restart()
    full = engine.cli("run", "--rm", "-v", "small:/data", "busybox", *fill, check=False)
    assert FULL in full.stderr
    assert engine.cli("run", "--rm", "-v", "free:/data", "busybox", *fill).returncode == 0
    assert engine.cli("run", "--rm", "-v", "free:/data", "busybox", *fill).returncode == 0
    option = ("--mount", "type=volume,src=made,dst=/data,volume-opt=size=4M")
    assert FULL in engine.cli("run", "--rm", *option, "busybox", *fill, check=False).stderr
    assert "invalid size" in engine.cli("volume", "create", "--opt", "size=much", check=False).stderr
