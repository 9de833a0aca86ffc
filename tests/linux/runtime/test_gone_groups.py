"""A group that goes while it is used: systemd removes a scope when its last process ends, whoever looks at it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from engine.drivers.linux.runtime.container_groups import ContainerGroups
from engine.drivers.linux.runtime.host import HostFacts
from engine.errors import Fault, PortError

pytestmark = pytest.mark.root
NOBODYS_DEVICE = os.makedev(10, 254)
"""A minor of the misc device that nobody has: opening it is answered with ENODEV, as reading a file of a dead group."""


@pytest.fixture
def groups(tmp_path: Path) -> ContainerGroups:
    return ContainerGroups(str(tmp_path / "claims"), HostFacts(version=2, unified=str(tmp_path)))


async def test_to_thaw_a_group_that_has_gone_is_a_conflict(groups: ContainerGroups, tmp_path: Path) -> None:
    """CTR-11: whoever kills a container that ends at this very moment thaws it in vain; that is no failure."""
    with pytest.raises(PortError, match="is not running") as absent:
        await groups.set_frozen("absent", frozen=False)
    group = tmp_path / "docker/going"
    group.mkdir(parents=True)
    (group / "cgroup.freeze").touch()
    os.mknod(group / "cgroup.events", 0o600 | stat.S_IFCHR, NOBODYS_DEVICE)
    with pytest.raises(PortError, match="is not running") as going:
        await groups.set_frozen("going", frozen=False)
    assert absent.value.fault is going.value.fault is Fault.CONFLICT


async def test_to_update_a_group_that_has_gone_is_a_conflict(groups: ContainerGroups, tmp_path: Path) -> None:
    """RES: the limits are the next run's then."""
    group = tmp_path / "docker/going"
    group.mkdir(parents=True)
    os.mknod(group / "pids.max", 0o600 | stat.S_IFCHR, NOBODYS_DEVICE)
    with pytest.raises(PortError, match="is not running") as going:
        await groups.update("going", {"pids": {"limit": 7}})
    assert going.value.fault is Fault.CONFLICT


async def test_a_group_removed_while_its_claim_is_read_is_nobodys(groups: ContainerGroups, tmp_path: Path) -> None:
    """WIN-04: the next supervisor removes groups while the engine asks which there are. It ended the engine."""
    claims = tmp_path / "claims"
    claims.mkdir()
    (claims / "default").touch()
    (claims / "chosen").write_text("/mine/chosen")
    (claims / "removed").symlink_to("nothing")  # listed, and not to be opened
    assert await groups.claimed() == {"default": "/docker/default", "chosen": "/mine/chosen"}
