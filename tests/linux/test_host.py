"""Facts about the host, read from a /proc of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.drivers.linux.host import LinuxHost

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 8:2 / /srv rw shared:2 - btrfs /dev/sdb rw
31 22 8:3 / /srv/with\\040space rw shared:3 - zfs pool rw
40 22 8:4 / /covered rw - tmpfs none rw
41 40 8:5 / /covered rw - xfs /dev/sdc rw
50 22 0:30 / /over rw - overlay overlay rw,lowerdir=/a - b
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "extfs"), ("/no/such/folder", "extfs"), ("/srv", "btrfs"), ("/srv/x/y", "btrfs"), ("/srvx", "extfs"),
        ("/srv/with space/x", "zfs"), ("/covered/x", "xfs"), ("/over/x", "overlayfs"),
    ],
)  # fmt: skip
def test_the_file_system_of_a_path_is_told_in_dockers_words(tmp_path: Path, path: str, kind: str) -> None:
    """SYS-15: `Backing Filesystem` of `docker info`."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text(MOUNTS)
    assert LinuxHost(tmp_path).file_system(path) == kind


def test_where_nothing_can_be_read_nothing_is_claimed(tmp_path: Path) -> None:
    assert LinuxHost(tmp_path).file_system("/srv") == "<unknown>"
