"""Pure translations: limits to writes, device rules to programs, options to flags, users to numbers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.drivers.linux.runtime import cgroup_plan
from engine.drivers.linux.runtime.device_program import DeviceRule, compile_rules
from engine.drivers.linux.runtime.host import Hierarchy, HostFacts
from engine.drivers.linux.runtime.mount_options import mount_entry
from engine.drivers.linux.runtime.users import read_merged, resolve_identity
from engine.errors import Fault, PortError
from tests.support.containers import GROUP, PASSWD

V2 = HostFacts(version=2, unified="/cg", controllers=frozenset({"memory", "cpu", "pids", "io"}), memory_swap=True)
V1 = HostFacts(
    version=1,
    hierarchies=tuple(
        Hierarchy(name=name, mountpoint=f"/cg/{name}", options=name, controllers=tuple(name.split(",")))
        for name in ("cpu,cpuacct", "memory", "pids", "devices", "cpuset")
    ),
    memory_swap=True,
)
RESOURCES = {
    "memory": {"limit": 64 << 20, "swap": 128 << 20, "reservation": 32 << 20},
    "cpu": {"shares": 1024, "quota": 50000, "period": 100000, "cpus": "0"},
    "pids": {"limit": -1},
}


def test_limits_on_v2() -> None:
    assert dict(cgroup_plan.limit_writes(V2, "/docker/x", RESOURCES)) == {
        "/cg/docker/x/memory.max": b"67108864",
        "/cg/docker/x/memory.low": b"33554432",
        "/cg/docker/x/memory.swap.max": b"67108864",
        "/cg/docker/x/cpu.weight": b"100",
        "/cg/docker/x/cpu.max": b"50000 100000",
        "/cg/docker/x/cpuset.cpus": b"0",
        "/cg/docker/x/pids.max": b"max",
    }


def test_limits_on_v1() -> None:
    writes = dict(cgroup_plan.limit_writes(V1, "/docker/x", RESOURCES))
    assert writes["/cg/memory/docker/x/memory.memsw.limit_in_bytes"] == b"134217728"
    assert writes["/cg/cpu,cpuacct/docker/x/cpu.cfs_quota_us"] == b"50000"
    assert writes["/cg/pids/docker/x/pids.max"] == b"max"


def test_a_group_plan_names_every_hierarchy_and_denies_devices_first() -> None:
    group = cgroup_plan.group_plan(V1, "/docker/x", {"devices": [{"allow": False, "access": "rwm"}]})
    assert [tree["controller"] for tree in group["trees"]] == ["cpu,cpuacct", "memory", "pids", "devices", "cpuset"]
    assert group["writes"][0] == ("/cg/devices/docker/x/devices.deny", b"a")
    assert group["into"] == ""
    assert cgroup_plan.group_plan(V2, "/docker/x", {})["into"] == "/cg/docker/x"


def test_a_device_program_ends_with_the_last_rule_that_names_everything() -> None:
    everything = compile_rules([DeviceRule(allow=False), DeviceRule(allow=True)])
    assert len(everything) == 8 * 8
    assert len(compile_rules([DeviceRule(allow=False), DeviceRule(allow=True, type="c", major=1, minor=3)])) == 8 * 13


def test_mount_options_are_split_into_flags_attributes_and_data() -> None:
    entry = mount_entry(
        {"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "size=1m", "ro"]}
    )
    assert (entry["flags"], entry["data"]) == (3, "size=1m")
    bind = mount_entry({"destination": "/b", "type": "bind", "source": "/s", "options": ["rbind", "rro", "rslave"]})
    assert (bind["attributes"], bind["attributes_recursive"], bind["recursive"]) == (1, True, True)
    assert bind["propagation"] == [1 << 19 | 16384]


def read(path: str) -> bytes:
    return {"/etc/passwd": PASSWD, "/etc/group": GROUP}[path].encode()


@pytest.mark.parametrize(
    ("user", "groups", "expected"),
    [
        ("", (), (0, 0, (0,), "/root")),
        ("sailor", (), (1000, 1000, (1000, 2000), "/home/sailor")),
        ("1000", (), (1000, 1000, (1000, 2000), "/home/sailor")),
        ("sailor:root", (), (1000, 0, (0,), "/home/sailor")),
        ("77:88", (), (77, 88, (88,), "/")),
        ("0", ("crew", "99"), (0, 0, (0, 2000, 99), "/root")),
    ],
)
def test_users_are_found_as_docker_finds_them(user: str, groups: tuple[str, ...], expected: tuple[object, ...]) -> None:
    found = resolve_identity(user, groups, read)
    assert (found.uid, found.gid, found.additional_gids, found.home) == expected


@pytest.mark.parametrize(
    ("user", "words"),
    [
        ("ahab", "unable to find user ahab: no matching entries in passwd file"),
        ("0:ahabs", "unable to find group ahabs: no matching entries in group file"),
        ("4294967295", "uids and gids must be in range 0-2147483647"),
    ],
)
def test_unknown_users_are_refused_in_dockers_words(user: str, words: str) -> None:
    with pytest.raises(PortError, match=words) as caught:
        resolve_identity(user, (), read)
    assert caught.value.fault is Fault.INVALID


@pytest.mark.root
def test_layers_are_merged_with_whiteouts_and_links_inside_the_root(tmp_path: Path) -> None:
    upper, middle, lowest = (tmp_path / name for name in ("upper", "middle", "lowest"))
    for layer in (upper, middle, lowest):
        (layer / "etc").mkdir(parents=True)
    (lowest / "etc/passwd").write_text("low")
    (lowest / "etc/group").write_text("group")
    layers = [str(upper), str(middle), str(lowest)]
    assert read_merged(layers, "/etc/passwd") == b"low"
    os.mknod(middle / "etc/group", 0o020000, 0)
    assert read_merged(layers, "/etc/group") == b""
    (upper / "etc/passwd").symlink_to("/../../run/users")
    assert read_merged(layers, "/etc/passwd") == b""
    (lowest / "run").mkdir()
    (lowest / "run/users").write_text("linked")
    assert read_merged(layers, "/etc/passwd") == b"linked"
    (upper / "etc/loop").symlink_to("loop")
    assert read_merged(layers, "/etc/loop") == b""
