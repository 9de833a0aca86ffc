"""RES-01: who owns the cgroups."""

from __future__ import annotations

import pytest

from engine.bootstrap import with_cgroup_driver
from engine.config import ConfigError, DaemonConfig
from engine.drivers.ports.host import HostFacts

NOTHING = frozenset[str]()


def host(version: str, *, systemd: bool) -> HostFacts:
    return HostFacts(
        name="", kernel_version="", operating_system="", os_version="", architecture="", machine="", cpus=1,
        memory_bytes=0, cgroup_version=version, controllers=NOTHING, limits=NOTHING, security=NOTHING,
        ip_forwarding=True, open_files=0, systemd=systemd,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("version", "systemd", "asked", "driver"),
    [
        ("2", True, "", "systemd"),
        ("2", True, "cgroupfs", "cgroupfs"),
        ("2", True, "systemd", "systemd"),
        ("2", False, "", "cgroupfs"),
        ("1", True, "", "cgroupfs"),
    ],
)
def test_the_driver_is_the_one_asked_for_or_the_one_that_suits(
    version: str, systemd: bool, asked: str, driver: str
) -> None:
    config = with_cgroup_driver(DaemonConfig(cgroup_driver=asked), host(version, systemd=systemd))
    assert config.cgroup_driver == driver


@pytest.mark.parametrize(("version", "systemd"), [("1", True), ("2", False)])
def test_systemd_must_be_there_to_own_anything(version: str, systemd: bool) -> None:
    with pytest.raises(ConfigError, match="requires cgroup v2 and a host that runs systemd"):
        with_cgroup_driver(DaemonConfig(cgroup_driver="systemd"), host(version, systemd=systemd))


def test_systemds_parent_is_a_slice() -> None:
    with pytest.raises(ConfigError, match=r'should be a valid slice named as "xxx.slice"'):
        with_cgroup_driver(DaemonConfig(cgroup_parent="/x"), host("2", systemd=True))
    with_cgroup_driver(DaemonConfig(cgroup_parent="/x"), host("1", systemd=False))
