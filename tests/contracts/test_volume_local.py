"""Contract of Volumes, over the local driver."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.aggregates.values.ids import VolumeName
from engine.drivers.linux.storage import kernel
from engine.drivers.linux.storage.places import Places
from engine.drivers.linux.storage.workers import Workers
from engine.drivers.linux.volume.local import LocalVolumes, is_mount_point
from engine.errors import Fault, PortError

pytestmark = pytest.mark.root
NAME = VolumeName("sea")


@pytest.fixture
def volumes(tmp_path: Path) -> Iterator[LocalVolumes]:
    yield LocalVolumes(Places(str(tmp_path)), Workers())
    data = str(tmp_path / "volumes/sea/_data")
    while os.path.isdir(data) and is_mount_point(data):
        kernel.umount(data)


async def test_a_volume_is_a_directory_until_it_is_removed(volumes: LocalVolumes, tmp_path: Path) -> None:
    """VOL-06."""
    path = await volumes.create(NAME, {})
    assert path == str(tmp_path / "volumes/sea/_data") == await volumes.create(NAME, {})
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o755
    assert stat.S_IMODE(os.stat(tmp_path / "volumes/sea").st_mode) == 0o701
    Path(path, "f").write_bytes(b"12345")
    assert await volumes.usages([NAME]) == {NAME: 5}
    assert await volumes.list() == (NAME,)
    await volumes.remove(NAME)
    await volumes.remove(NAME)
    assert await volumes.list() == ()


async def test_a_name_may_be_as_long_as_the_file_system_has_them(volumes: LocalVolumes) -> None:
    name = VolumeName("v" * 255)
    path = await volumes.create(name, {})
    await volumes.remove(name)
    assert not Path(path).exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"colour": "white"}, 'invalid option: "colour"'),
        ({"device": "tmpfs"}, 'missing required option: "type"'),
        ({"type": "tmpfs"}, 'missing required option: "device"'),
        ({"size": "1g"}, "quota size requested but no quota support"),
    ],
)
async def test_options_that_make_no_sense_are_refused(
    volumes: LocalVolumes, options: dict[str, str], words: str
) -> None:
    """VOL-07."""
    with pytest.raises(PortError) as refused:
        await volumes.create(NAME, options)
    assert (refused.value.fault, refused.value.message) == (Fault.INVALID, words)


async def test_a_name_that_could_be_a_path_is_refused(volumes: LocalVolumes) -> None:
    for name in ("../etc", "a/b", ".x"):
        with pytest.raises(PortError) as refused:
            await volumes.create(VolumeName(name), {})
        assert refused.value.fault is Fault.INVALID


async def test_a_tmpfs_is_mounted_at_first_use_and_gone_after_the_last(volumes: LocalVolumes) -> None:
    """VOL-07."""
    options = {"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=1000,noexec"}
    path = await volumes.create(NAME, options)
    assert not is_mount_point(path)
    assert await volumes.mount(NAME, options) == await volumes.mount(NAME, options) == path
    assert os.stat(path).st_uid == 1000
    assert os.statvfs(path).f_flag & os.ST_NOEXEC
    with pytest.raises(PortError) as refused:
        await volumes.remove(NAME)
    assert refused.value.fault is Fault.CONFLICT
    await volumes.unmount(NAME, options)
    await volumes.unmount(NAME, options)
    assert not is_mount_point(path)


async def test_a_bind_shows_the_device_and_can_be_read_only(volumes: LocalVolumes, tmp_path: Path) -> None:
    """VOL-07."""
    (tmp_path / "shore").mkdir()
    (tmp_path / "shore/shell").write_text("x")
    options = {"type": "none", "device": str(tmp_path / "shore"), "o": "bind,ro"}
    path = await volumes.mount(NAME, options)
    assert os.listdir(path) == ["shell"]
    with pytest.raises(OSError, match="Read-only"):
        Path(path, "new").write_text("")
    await volumes.unmount(NAME, options)
    assert (tmp_path / "shore/shell").exists()


async def test_a_mount_that_fails_says_why_and_leaves_nothing(volumes: LocalVolumes) -> None:
    options = {"type": "none", "device": "/nowhere/at/all", "o": "bind,password=whale"}
    with pytest.raises(PortError, match="failed to mount local volume: .*no such file or directory") as refused:
        await volumes.mount(NAME, options)
    assert "whale" not in refused.value.message
    await volumes.remove(NAME)


async def test_an_empty_volume_is_filled_from_the_image_once(volumes: LocalVolumes, tmp_path: Path) -> None:
    """VOL-06."""
    low, high = tmp_path / "low", tmp_path / "high"
    for directory in (low / "srv/www", high / "srv/www"):
        directory.mkdir(parents=True)
    (low / "srv/www/below").write_text("1")
    (low / "srv/www/hidden").write_text("2")
    (high / "srv/www/above").write_text("3")
    os.mknod(high / "srv/www/hidden", stat.S_IFCHR, 0)
    os.link(high / "srv/www/above", high / "srv/www/twin")
    os.symlink("above", high / "srv/www/link")
    os.setxattr(high / "srv/www/above", "user.note", b"n")
    os.chown(high / "srv/www", 33, 34)
    os.chmod(high / "srv/www", 0o2770)
    os.symlink("/srv/www", high / "alias")
    path = await volumes.create(NAME, {})
    await volumes.fill(NAME, (str(high), str(low)), "/alias")
    assert sorted(os.listdir(path)) == ["above", "below", "link", "twin"]
    assert os.stat(f"{path}/above").st_ino == os.stat(f"{path}/twin").st_ino
    assert os.getxattr(f"{path}/above", "user.note") == b"n"
    found = os.stat(path)
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (33, 34, 0o2770)
    os.unlink(f"{path}/below")
    await volumes.fill(NAME, (str(high), str(low)), "/srv/www")
    assert not os.path.exists(f"{path}/below")


async def test_a_fill_that_was_cut_short_begins_again(volumes: LocalVolumes, tmp_path: Path) -> None:
    image = tmp_path / "image"
    (image / "data").mkdir(parents=True)
    (image / "data/whole").write_text("x")
    path = await volumes.create(NAME, {})
    Path(path, "half").write_text("")
    (tmp_path / "volumes/sea/filling").touch()
    await volumes.fill(NAME, (str(image),), "/data")
    assert os.listdir(path) == ["whole"]
    other = VolumeName("other")
    path = await volumes.create(other, {})
    await volumes.fill(other, (str(image),), "/none")
    assert os.listdir(path) == []
