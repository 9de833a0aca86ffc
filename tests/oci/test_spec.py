"""The OCI spec of a container: Docker's defaults as Docker documents them, and what each option changes."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from engine.aggregates.decider import Rejected
from engine.aggregates.values import capabilities
from engine.aggregates.values.config import ContainerConfig, HostConfig, Ulimit
from engine.aggregates.values.mounts import MountPoint
from engine.aggregates.values.security import security_option
from engine.oci.resources import DeviceNode
from engine.oci.spec import (
    HostTraits,
    Identity,
    Shared,
    SpecInput,
    build_spec,
    capability_set,
    environment,
    no_new_privileges,
)

ID = "4f5e" * 16
PROFILE = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": []}
TRAITS = HostTraits(machine="x86_64", kernel=(6, 1), cgroup_v2=True, profile=PROFILE, init_path="/usr/bin/tini")
GIVEN = SpecInput(
    container_id=ID,
    config=ContainerConfig(hostname="4f5e4f5e4f5e", cmd=("sh",)),
    env=(),
    host=HostConfig(shm_size=64 << 20, cgroupns_mode="private", ipc_mode="private"),
    identity=Identity(home="/root"),
    mounts=(),
    files={"/etc/hosts": "/state/hosts"},
    shared=Shared(),
    devices=(),
    traits=TRAITS,
)
DEFAULT_CAPABILITIES = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SYS_CHROOT",
    "CAP_MKNOD",
    "CAP_AUDIT_WRITE",
    "CAP_SETFCAP",
]
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def spec_of(given: SpecInput = GIVEN, *, config: dict | None = None, host: dict | None = None, **changes: Any) -> dict:
    """The spec of the default container with changes."""
    changed = replace(
        given, config=replace(given.config, **(config or {})), host=replace(given.host, **(host or {})), **changes
    )
    return build_spec(changed)


def types_of(spec: dict[str, Any]) -> dict[str, str]:
    return {namespace["type"]: namespace.get("path", "") for namespace in spec["linux"]["namespaces"]}


def mount_at(spec: dict[str, Any], destination: str) -> dict[str, Any] | None:
    return next((mount for mount in spec["mounts"] if mount["destination"] == destination), None)


def test_a_default_container_is_what_docker_documents() -> None:
    """The whole document, spelled out: a change of any default must be meant."""
    hardened = ["nosuid", "noexec", "nodev"]
    device = {"allow": True, "type": "c"}
    assert spec_of() == {
        "ociVersion": "1.0.2",
        "hostname": "4f5e4f5e4f5e",
        "root": {"path": "rootfs", "readonly": False},
        "process": {
            "args": ["sh"],
            "cwd": "/",
            "env": [PATH, "HOSTNAME=4f5e4f5e4f5e", "HOME=/root"],
            "user": {"uid": 0, "gid": 0},
            "terminal": False,
            "noNewPrivileges": False,
            "capabilities": {
                "bounding": DEFAULT_CAPABILITIES,
                "effective": DEFAULT_CAPABILITIES,
                "permitted": DEFAULT_CAPABILITIES,
            },
            "rlimits": [],
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": hardened},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
            },
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            },
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*hardened, "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", *hardened]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": hardened},
            {
                "destination": "/dev/shm",
                "type": "tmpfs",
                "source": "shm",
                "options": [*hardened, "mode=1777", "size=67108864"],
            },
            {
                "destination": "/etc/hosts",
                "type": "bind",
                "source": "/state/hosts",
                "options": ["rbind", "rprivate"],
            },
        ],
        "linux": {
            "cgroupsPath": f"/docker/{ID}",
            "namespaces": [
                {"type": "mount"},
                {"type": "uts"},
                {"type": "network"},
                {"type": "pid"},
                {"type": "ipc"},
                {"type": "cgroup"},
            ],
            "resources": {
                "devices": [
                    {"allow": False, "access": "rwm"},
                    {**device, "access": "m"},
                    {"allow": True, "type": "b", "access": "m"},
                    *({**device, "access": "rwm", "major": 1, "minor": minor} for minor in (3, 5, 7, 8, 9)),
                    *({**device, "access": "rwm", "major": 5, "minor": minor} for minor in (0, 1, 2)),
                    {**device, "access": "rwm", "major": 136},
                ]
            },
            "devices": [],
            "sysctl": {},
            "maskedPaths": [
                "/proc/acpi",
                "/proc/asound",
                "/proc/interrupts",
                "/proc/kcore",
                "/proc/keys",
                "/proc/latency_stats",
                "/proc/sched_debug",
                "/proc/scsi",
                "/proc/timer_list",
                "/proc/timer_stats",
                "/sys/devices/virtual/powercap",
                "/sys/firmware",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            "seccomp": {
                "defaultAction": "SCMP_ACT_ERRNO",
                "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": [],
            },
        },
    }


def test_a_privileged_container_has_everything() -> None:
    node = DeviceNode(path="/dev/kvm", kind="c", major=10, minor=232, mode=0o660)
    spec = spec_of(host={"privileged": True}, devices=(node,))
    assert spec["process"]["capabilities"]["bounding"] == list(capabilities.ALL)
    assert (spec["linux"]["maskedPaths"], spec["linux"]["readonlyPaths"]) == ([], [])
    assert "seccomp" not in spec["linux"]
    assert spec["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    assert "ro" not in mount_at(spec, "/sys")["options"] + mount_at(spec, "/sys/fs/cgroup")["options"]
    assert spec["linux"]["devices"][0]["path"] == "/dev/kvm"


@pytest.mark.parametrize(
    ("add", "drop", "gained", "lost"),
    [
        ((), (), set(), set()),
        (("NET_ADMIN",), (), {"CAP_NET_ADMIN"}, set()),
        (("cap_sys_time",), ("chown",), {"CAP_SYS_TIME"}, {"CAP_CHOWN"}),
        ((), ("ALL",), set(), set(DEFAULT_CAPABILITIES)),
        (("CHOWN",), ("ALL",), set(), set(DEFAULT_CAPABILITIES) - {"CAP_CHOWN"}),
        (("ALL",), (), set(capabilities.ALL) - set(DEFAULT_CAPABILITIES), set()),
        (("ALL",), ("MKNOD",), set(capabilities.ALL) - set(DEFAULT_CAPABILITIES), {"CAP_MKNOD"}),
        (("ALL",), ("ALL",), set(capabilities.ALL) - set(DEFAULT_CAPABILITIES), set()),
        (("MKNOD",), ("MKNOD",), set(), set()),
    ],
)
def test_capabilities_are_added_and_dropped(add: tuple, drop: tuple, gained: set[str], lost: set[str]) -> None:
    names = capability_set(HostConfig(cap_add=add, cap_drop=drop))
    assert set(names) == (set(DEFAULT_CAPABILITIES) | gained) - lost
    assert list(names) == [name for name in capabilities.ALL if name in names], "in the kernel's order"


def test_an_exec_may_be_privileged_where_its_container_is_not() -> None:
    assert capability_set(HostConfig(), privileged=True) == capabilities.ALL
    assert list(capability_set(HostConfig(), privileged=False)) == DEFAULT_CAPABILITIES


def test_a_read_only_container_has_a_read_only_root() -> None:
    assert spec_of(host={"readonly_rootfs": True})["root"]["readonly"] is True


@pytest.mark.parametrize(
    ("host", "shared", "absent", "joined"),
    [
        ({"pid_mode": "host"}, Shared(), "pid", {}),
        ({"ipc_mode": "host"}, Shared(), "ipc", {}),
        ({"uts_mode": "host"}, Shared(), "uts", {}),
        ({"network_mode": "host"}, Shared(host_network=True), "network", {}),
        ({"cgroupns_mode": "host"}, Shared(), "cgroup", {}),
        ({"pid_mode": "container:x"}, Shared(pid="/proc/7/ns/pid"), "user", {"pid": "/proc/7/ns/pid"}),
        ({"ipc_mode": "container:x"}, Shared(ipc="/proc/7/ns/ipc"), "user", {"ipc": "/proc/7/ns/ipc"}),
        ({"network_mode": "container:x"}, Shared(network="/proc/7/ns/net"), "user", {"network": "/proc/7/ns/net"}),
    ],
)
def test_namespaces_are_own_joined_or_the_hosts(host: dict, shared: Shared, absent: str, joined: dict) -> None:
    found = types_of(spec_of(host=host, shared=shared))
    everything = {"mount", "uts", "network", "pid", "ipc", "cgroup"}
    assert set(found) == everything - {absent}
    assert {kind: path for kind, path in found.items() if path} == joined


def test_a_container_with_the_hosts_uts_has_no_hostname_of_its_own() -> None:
    spec = spec_of(config={"domainname": "example.org"}, host={"uts_mode": "host"})
    assert spec["hostname"] == ""
    assert spec["linux"]["sysctl"] == {}


def test_the_domain_name_is_a_sysctl_and_one_asked_for_as_such_wins() -> None:
    """CTR-02: every runtime writes sysctls; the field of the name's own is unknown to many."""
    config = {"domainname": "example.org"}
    assert spec_of(config=config)["linux"]["sysctl"] == {"kernel.domainname": "example.org"}
    asked = {"sysctls": {"kernel.domainname": "other"}}
    assert spec_of(config=config, host=asked)["linux"]["sysctl"] == {"kernel.domainname": "other"}


@pytest.mark.parametrize(
    ("mode", "shared", "source"),
    [
        ("private", Shared(), "shm"),
        ("shareable", Shared(), "shm"),
        ("host", Shared(), "/dev/shm"),
        ("container:x", Shared(ipc="/proc/7/ns/ipc", shm="/proc/7/root/dev/shm"), "/proc/7/root/dev/shm"),
        ("none", Shared(), None),
    ],
)
def test_shared_memory_is_of_whose_ipc_it_is(mode: str, shared: Shared, source: str | None) -> None:
    mount = mount_at(spec_of(host={"ipc_mode": mode}, shared=shared), "/dev/shm")
    assert (mount["source"] if mount is not None else None) == source


def point(destination: str, **given: Any) -> MountPoint:
    return MountPoint(**{"type": "bind", "destination": destination, "source": "/src"} | given)


def test_mounts_are_made_from_the_shallowest_to_the_deepest() -> None:
    deep = [point(path) for path in ("/a/b/c", "/z", "/a", "/a/b")]
    destinations = [mount["destination"] for mount in spec_of(mounts=tuple(deep))["mounts"]]
    assert [path for path in destinations if path[1] in "az"] == ["/z", "/a", "/a/b", "/a/b/c"]


def test_a_subpath_and_an_images_layers_are_left_to_the_native_runtime_to_resolve() -> None:
    """VOL-13: a path put together here could be a symbolic link by the time it is mounted."""
    mount = mount_at(spec_of(mounts=(point("/m", type="volume", subpath="sub", lowers=("/a", "/b")),)), "/m")
    assert (mount["source"], mount["subpath"], mount["lowers"]) == ("/src", "sub", ["/a", "/b"])


@pytest.mark.parametrize(
    ("given", "kind", "source", "options"),
    [
        ({}, "bind", "/src", ["rbind", "rprivate"]),
        ({"rw": False}, "bind", "/src", ["rbind", "rprivate", "ro"]),
        ({"propagation": "rshared"}, "bind", "/src", ["rbind", "rshared"]),
        ({"non_recursive": True}, "bind", "/src", ["bind", "rprivate"]),
        ({"type": "tmpfs", "options": ("size=1m",)}, "tmpfs", "tmpfs", ["nosuid", "nodev", "noexec", "size=1m"]),
        (
            {"type": "tmpfs", "options": ("size=1m",), "from_spec": True, "rw": False},
            "tmpfs",
            "tmpfs",
            ["nosuid", "nodev", "noexec", "ro", "size=1m"],
        ),
    ],
)
def test_a_mount_is_made_as_it_was_asked(given: dict, kind: str, source: str, options: list[str]) -> None:
    old_kernel = replace(TRAITS, kernel=(5, 10))  # without recursive read-only
    mount = mount_at(spec_of(mounts=(point("/m", **given),), traits=old_kernel), "/m")
    assert mount == {"destination": "/m", "type": kind, "source": source, "options": options}


@pytest.mark.parametrize(
    ("kernel", "given", "recursive"),
    [
        ((5, 12), {"rw": False}, True),
        ((5, 11), {"rw": False}, False),
        ((5, 12), {"rw": False, "read_only_non_recursive": True}, False),
        ((5, 12), {}, False),
    ],
)
def test_read_only_includes_what_is_below_where_the_kernel_can(kernel: tuple, given: dict, recursive: bool) -> None:
    spec = spec_of(mounts=(point("/m", **given),), traits=replace(TRAITS, kernel=kernel))
    assert ("rro" in mount_at(spec, "/m")["options"]) is recursive


@pytest.mark.parametrize("destination", ["/dev/shm", "/etc/hosts", "/proc", "/sys/fs/cgroup"])
def test_a_mount_of_the_users_takes_the_place_of_a_default(destination: str) -> None:
    spec = spec_of(mounts=(point(destination),))
    found = [mount["source"] for mount in spec["mounts"] if mount["destination"] == destination]
    assert found == ["/src"]


@pytest.mark.parametrize(
    ("host", "traits", "used"),
    [
        ({}, TRAITS, False),
        ({"init": True}, TRAITS, True),
        ({}, replace(TRAITS, init=True), True),
        ({"init": False}, replace(TRAITS, init=True), False),
        ({"init": True, "pid_mode": "host"}, TRAITS, False),
    ],
)
def test_an_init_is_the_first_process_where_it_is_wanted(host: dict, traits: HostTraits, used: bool) -> None:
    spec = spec_of(config={"entrypoint": ("entry",)}, host=host, traits=traits)
    assert spec["process"]["args"] == (["/sbin/docker-init", "--"] if used else []) + ["entry", "sh"]
    mount = mount_at(spec, "/sbin/docker-init")
    assert (mount is not None) is used
    assert mount is None or (mount["source"], mount["options"]) == ("/usr/bin/tini", ["bind", "ro"])


def test_a_process_runs_as_who_was_looked_up() -> None:
    spec = spec_of(
        config={"working_dir": "/srv", "tty": True},
        host={"oom_score_adj": 500},
        identity=Identity(uid=1000, gid=100, additional_gids=(4, 20), home="/home/u"),
    )
    assert spec["process"]["user"] == {"uid": 1000, "gid": 100, "additionalGids": [4, 20]}
    assert (spec["process"]["cwd"], spec["process"]["terminal"], spec["process"]["oomScoreAdj"]) == ("/srv", True, 500)


@pytest.mark.parametrize(
    ("env", "tty", "merged"),
    [
        ((), False, [PATH, "HOSTNAME=box", "HOME=/root"]),
        ((), True, [PATH, "HOSTNAME=box", "TERM=xterm", "HOME=/root"]),
        (("A=1", "B="), False, [PATH, "HOSTNAME=box", "A=1", "B=", "HOME=/root"]),
        (("PATH=/bin", "HOME=/h"), False, ["PATH=/bin", "HOSTNAME=box", "HOME=/h"]),
        (("A=1", "A=2"), False, [PATH, "HOSTNAME=box", "A=2", "HOME=/root"]),
        (("A=1=2",), False, [PATH, "HOSTNAME=box", "A=1=2", "HOME=/root"]),
        (("PATH", "HOSTNAME"), False, ["HOME=/root"]),
        (("A=1", "A"), False, [PATH, "HOSTNAME=box", "HOME=/root"]),
        (("TERM=dumb",), True, [PATH, "HOSTNAME=box", "TERM=dumb", "HOME=/root"]),
    ],
)
def test_variables_are_dockers_own_with_the_users_over_them(env: tuple, tty: bool, merged: list[str]) -> None:
    assert environment(env, "box", "/root", tty=tty) == merged


@pytest.mark.parametrize(
    ("options", "privileged", "daemon", "expected"),
    [
        ((), False, False, False),
        ((), False, True, True),
        ((), True, True, False),
        (("no-new-privileges",), False, False, True),
        (("no-new-privileges:true",), False, False, True),
        (("no-new-privileges=false",), False, True, False),
    ],
)
def test_no_new_privileges_is_the_containers_or_the_daemons(
    options: tuple, privileged: bool, daemon: bool, expected: bool
) -> None:
    host = HostConfig(security_opt=options, privileged=privileged)
    assert no_new_privileges(host, replace(TRAITS, no_new_privileges=daemon)) is expected


@pytest.mark.parametrize("option", ["seccomp=unconfined", "seccomp:unconfined"])
def test_seccomp_can_be_switched_off(option: str) -> None:
    assert "seccomp" not in spec_of(host={"security_opt": (option,)})["linux"]
    assert "seccomp" not in spec_of(traits=replace(TRAITS, profile=None))["linux"]


def test_a_profile_of_the_users_is_used_also_by_the_privileged() -> None:
    option = 'seccomp={"defaultAction": "SCMP_ACT_LOG"}'
    for privileged in (False, True):
        spec = spec_of(host={"security_opt": (option,), "privileged": privileged})
        assert spec["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_LOG"
    assert spec_of(host={"security_opt": ("seccomp=builtin",)})["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_ERRNO"
    with pytest.raises(Rejected, match="decoding seccomp profile failed"):
        spec_of(host={"security_opt": ("seccomp={",)})


def test_the_files_of_the_system_can_be_opened_or_chosen() -> None:
    opened = spec_of(host={"security_opt": ("systempaths=unconfined",)})["linux"]
    assert (opened["maskedPaths"], opened["readonlyPaths"]) == ([], [])
    chosen = spec_of(host={"masked_paths": ("/proc/a",), "readonly_paths": ()})["linux"]
    assert (chosen["maskedPaths"], chosen["readonlyPaths"]) == (["/proc/a"], [])


def test_the_value_of_a_security_option_may_hold_any_sign() -> None:
    host = HostConfig(security_opt=("apparmor=a:b=c", "label:disable"))
    assert security_option(host, "apparmor") == "a:b=c"
    assert security_option(host, "label") == "disable"
    assert security_option(host, "seccomp") == ""


def test_sysctls_and_annotations_are_passed_on() -> None:
    spec = spec_of(host={"sysctls": {"net.core.somaxconn": "1"}, "annotations": {"a": "b"}})
    assert spec["linux"]["sysctl"] == {"net.core.somaxconn": "1"}
    assert spec["annotations"] == {"a": "b"}


def test_a_container_has_its_own_limits_and_else_the_daemons() -> None:
    traits = replace(TRAITS, ulimits=(Ulimit(name="nofile", soft=1, hard=2), Ulimit(name="core", soft=0, hard=0)))
    limits = spec_of(host={"ulimits": (Ulimit(name="nofile", soft=5, hard=6),)}, traits=traits)["process"]["rlimits"]
    assert limits == [
        {"type": "RLIMIT_NOFILE", "soft": 5, "hard": 6},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
    ]


@pytest.mark.parametrize(
    ("own", "daemon", "path"),
    [("", "", f"/docker/{ID}"), ("", "/ci/", f"/ci/{ID}"), ("/mine", "/ci", f"/mine/{ID}")],
)
def test_the_cgroup_is_below_its_parent(own: str, daemon: str, path: str) -> None:
    spec = spec_of(host={"cgroup_parent": own}, traits=replace(TRAITS, cgroup_parent=daemon))
    assert spec["linux"]["cgroupsPath"] == path


def test_a_device_is_made_and_allowed() -> None:
    node = DeviceNode(path="/dev/fuse", kind="c", major=10, minor=229, mode=0o666, access="rw")
    linux = spec_of(devices=(node,))["linux"]
    assert linux["resources"]["devices"][-1] == {"allow": True, "type": "c", "access": "rw", "major": 10, "minor": 229}
    assert linux["devices"] == [
        {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666, "uid": 0, "gid": 0}
    ]
