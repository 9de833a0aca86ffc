"""What `--security-opt`, namespaces and devices can be told to be, through the clients."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.drivers.linux import apparmor
from tests.support.engine import Engine, running_engine

pytestmark = pytest.mark.root
FORBIDS_MKDIR = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
}


def test_a_profile_of_a_file_is_sent_and_obeyed(engine: Engine, tmp_path: Path) -> None:
    """SEC-03: the CLI sends the text of the file; execs are held by it too; unconfined and builtin by name."""
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps(FORBIDS_MKDIR))
    option = ("--security-opt", f"seccomp={profile}")
    done = engine.cli("run", "--rm", *option, "busybox", "mkdir", "/x", check=False)
    assert (done.returncode, "not supported" in done.stderr) == (1, True)
    engine.cli("run", "-d", "--name", "held", *option, "busybox", "sleep", "1000")
    assert "not supported" in engine.cli("exec", "held", "mkdir", "/x", check=False).stderr
    for name, mode in (("unconfined", "0"), ("builtin", "2")):
        shown = engine.out("run", "--rm", "--security-opt", f"seccomp={name}", "busybox", "cat", "/proc/self/status")
        assert f"Seccomp:\t{mode}" in shown


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ("{", "decoding seccomp profile failed"),
        ('{"defaultAction": "SCMP_ACT_NONSENSE"}', "SCMP_ACT_NONSENSE"),
        ('{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "x", "names": ["y"], "action": "A"}]}', "'names'"),
        (
            '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]}',
            "SCMP_ACT_NOTIFY is not implemented",
        ),
    ],
)
def test_a_bad_profile_starts_nothing(engine: Engine, profile: str, words: str) -> None:
    """SEC-03: in Docker's words, and the container stays as it was."""
    host = {"SecurityOpt": [f"seccomp={profile}"]}
    _, body = engine.request("POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"], "HostConfig": host})
    container = json.loads(body)["Id"]
    status, body = engine.request("POST", f"/containers/{container}/start")
    assert status >= 400
    assert words in json.loads(body)["message"]
    assert engine.json(f"/containers/{container}/json")["State"]["Status"] == "created"


def test_the_engines_own_profile_is_a_files(tmp_path: Path) -> None:
    """SEC-03, SEC-06, SEC-13: --seccomp-profile and --no-new-privileges hold for all, and info tells."""
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps(FORBIDS_MKDIR))
    with running_engine("--seccomp-profile", str(profile), "--no-new-privileges") as engine:
        options = engine.json("/info")["SecurityOptions"]
        assert f"name=seccomp,profile={profile}" in options
        assert "name=no-new-privileges" in options
        assert "not supported" in engine.cli("run", "--rm", "busybox", "mkdir", "/x", check=False).stderr
        status = ("busybox", "grep", "NoNewPrivs", "/proc/self/status")
        assert engine.out("run", "--rm", *status).split()[1] == "1"
        assert engine.out("run", "--rm", "--security-opt", "no-new-privileges=false", *status).split()[1] == "0"


def test_an_engine_with_a_bad_profile_does_not_start(tmp_path: Path) -> None:
    """SEC-03: said at the start, not with the first container."""
    (tmp_path / "bad.json").write_text("{")
    for path, words in ((tmp_path / "bad.json", "decoding seccomp profile failed"), (tmp_path / "no", "no such file")):
        command = [
            sys.executable, "-m", "engine", "-H", f"unix://{tmp_path}/s", "--data-root", str(tmp_path / "d"),
            "--exec-root", str(tmp_path / "e"), "--pidfile", str(tmp_path / "p"), "--seccomp-profile", str(path),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 1
        assert words in done.stderr


def test_paths_can_be_masked_and_made_read_only_by_name(engine: Engine) -> None:
    """SEC-08: what is given replaces the defaults; an empty list is a choice too."""
    script = ["sh", "-c", "wc -c < /etc/passwd; touch /tmp/x && echo t; echo 1 > /proc/sys/kernel/domainname && echo s"]
    body = {"Image": "busybox", "Cmd": script, "Tty": True}
    host = {"MaskedPaths": ["/etc/passwd", "/nosuch"], "ReadonlyPaths": ["/tmp"]}
    _, answer = engine.request("POST", "/containers/create", {**body, "HostConfig": host})
    container = json.loads(answer)["Id"]
    engine.request("POST", f"/containers/{container}/start")
    engine.request("POST", f"/containers/{container}/wait")
    shown = engine.out("logs", container)
    assert shown.splitlines()[0] == "0"
    assert "Read-only file system" in shown
    assert shown.split()[-1] == "s"
    inspected = engine.json(f"/containers/{container}/json")["HostConfig"]
    assert inspected["MaskedPaths"] == ["/etc/passwd", "/nosuch"]
    assert inspected["ReadonlyPaths"] == ["/tmp"]


def test_unknown_security_options_are_refused(engine: Engine) -> None:
    """SEC-05, SEC-13: what nobody knows is said; labels are taken, and mean nothing without SELinux, as in Docker."""
    for option in ("nonsense=1", "apparmor=", "systempaths=x", "no-new-privileges=x", "label="):
        host = {"SecurityOpt": [option]}
        status, body = engine.request("POST", "/containers/create", {"Image": "busybox", "HostConfig": host})
        assert (status, "invalid --security-opt" in json.loads(body)["message"]) == (400, True), option
    for option in ("label=disable", "label=type:x"):
        engine.cli("run", "--rm", "--security-opt", option, "busybox", "true")
    assert engine.out("info", "-f", "{{.SecurityOptions}}").count("selinux") == 0


def test_namespaces_of_others(engine: Engine) -> None:
    """CTR-38: pid, ipc and network of a container that runs; shareable, private and none; the host's."""
    engine.cli(
        "run", "-d", "--name", "donor", "--ipc", "shareable", "busybox", "sh", "-c", "echo x >/dev/shm/w; sleep 999"
    )
    own = {
        kind: engine.out("exec", "donor", "readlink", f"/proc/self/ns/{kind}") for kind in ("pid", "ipc", "net", "uts")
    }
    for option, kind in (("--pid", "pid"), ("--ipc", "ipc"), ("--network", "net")):
        shown = engine.out("run", "--rm", option, "container:donor", "busybox", "readlink", f"/proc/self/ns/{kind}")
        assert shown == own[kind]
    assert engine.out("run", "--rm", "--ipc", "container:donor", "busybox", "cat", "/dev/shm/w") == "x"
    shm = engine.out("run", "--rm", "--ipc", "none", "busybox", "sh", "-c", "grep -c ' /dev/shm ' /proc/mounts; true")
    assert shm == "0"
    for option, kind in (("--pid", "pid"), ("--ipc", "ipc"), ("--uts", "uts"), ("--network", "net")):
        shown = engine.out("run", "--rm", option, "host", "busybox", "readlink", f"/proc/self/ns/{kind}")
        expected = os.readlink(f"/proc/self/ns/{kind}")
        if kind == "net":
            expected = engine.in_namespace("readlink", "/proc/self/ns/net").stdout.strip()
        assert shown == expected
    assert engine.out(
        "run", "--rm", "--cgroupns", "host", "busybox", "readlink", "/proc/self/ns/cgroup"
    ) == os.readlink("/proc/self/ns/cgroup")
    engine.cli("run", "-d", "--name", "closed", "busybox", "sleep", "999")
    refused = engine.cli("run", "--rm", "--ipc", "container:closed", "busybox", "true", check=False)
    assert "non-shareable IPC (hint: use IpcMode:shareable for the donor container)" in refused.stderr


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("NetworkMode", "cannot join network namespace of a non running container: container ended is exited"),
        ("PidMode", "is not running"),
        ("IpcMode", "is not running"),
    ],
)
def test_a_donor_must_run(engine: Engine, mode: str, words: str) -> None:
    """CTR-38: 409 at the start."""
    engine.cli("run", "--name", "ended", "busybox", "true")
    body = {"Image": "busybox", "HostConfig": {mode: "container:ended"}}
    container = json.loads(engine.request("POST", "/containers/create", body)[1])["Id"]
    status, answer = engine.request("POST", f"/containers/{container}/start")
    assert status == 409
    assert words in json.loads(answer)["message"]


def test_devices_and_rules(engine: Engine) -> None:
    """CTR-43, SEC-12: a device at its own or another place, with the access asked for; a rule alone makes no node."""
    shown = engine.out(
        "run", "--rm", "--device", "/dev/null:/dev/void:r", "busybox", "stat", "-c", "%t:%T", "/dev/void"
    )
    assert shown == "1:3"
    script = "mknod /dev/loopy b 7 99; head -c 1 /dev/loopy"
    without = engine.cli("run", "--rm", "busybox", "sh", "-c", script, check=False)
    allowed = engine.cli("run", "--rm", "--device-cgroup-rule", "b 7:* r", "busybox", "sh", "-c", script, check=False)
    assert "Operation not permitted" in without.stderr
    assert "Operation not permitted" not in allowed.stderr
    for host, words in (
        ({"Devices": [{"PathOnHost": "/nosuch", "PathInContainer": "/x", "CgroupPermissions": "r"}]}, "no such file"),
        (
            {"Devices": [{"PathOnHost": "/etc/passwd", "PathInContainer": "/x", "CgroupPermissions": "r"}]},
            "not a device",
        ),
        ({"DeviceCgroupRules": ["x 1:1 r"]}, "invalid device cgroup rule format"),
    ):
        _, body = engine.request(
            "POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"], "HostConfig": host}
        )
        status, answer = engine.request("POST", f"/containers/{json.loads(body)['Id']}/start")
        assert status >= 400
        assert words in json.loads(answer)["message"]


def test_devices_of_others_are_refused(engine: Engine) -> None:
    """CTR-43: neither GPUs nor CDI: Docker's words where no driver is registered."""
    gpus = engine.cli("run", "--rm", "--gpus", "all", "busybox", "true", check=False)
    assert 'could not select device driver "" with capabilities: [[gpu]]' in gpus.stderr
    cdi = engine.cli("run", "--rm", "--device", "vendor.com/class=one", "busybox", "true", check=False)
    assert 'could not select device driver "cdi" with capabilities: []' in cdi.stderr


def test_sysctls_of_a_namespace_only(engine: Engine) -> None:
    """RES-07: what the kernel has once is refused."""
    options = ("--sysctl", "net.ipv4.ip_forward=0", "--sysctl", "fs.mqueue.msg_max=7")
    script = "cat /proc/sys/net/ipv4/ip_forward /proc/sys/fs/mqueue/msg_max"
    assert engine.out("run", "--rm", *options, "busybox", "sh", "-c", script).split() == ["0", "7"]
    for options, words in (
        ({"Sysctls": {"vm.swappiness": "1"}}, "is not in a separate kernel namespace"),
        ({"Sysctls": {"kernel/hostname": "x"}}, "conflicts with the OCI"),
        ({"NetworkMode": "host", "Sysctls": {"net/core/somaxconn": "1"}}, "not allowed in host network namespace"),
        ({"Sysctls": {"net...kernel": "1"}}, "is not the name of a kernel parameter"),
        ({"IpcMode": "host", "Sysctls": {"kernel.sem": "1"}}, "not allowed in the hosts ipc namespace"),
    ):
        status, body = engine.request("POST", "/containers/create", {"Image": "busybox", "HostConfig": options})
        assert (status, words in json.loads(body)["message"]) == (400, True)


@pytest.fixture
def confining() -> Iterator[Engine]:
    if not apparmor.parser_of():
        pytest.skip("no AppArmor here: the Debian guest has it")
    with running_engine() as engine:
        yield engine


@pytest.mark.guest
def test_apparmor_confines(confining: Engine) -> None:
    """SEC-04: docker-default by default, another by name, none for the privileged; in execs too; told by inspect."""
    engine = confining
    label = ("busybox", "cat", "/proc/self/attr/current")
    assert "name=apparmor" in engine.json("/info")["SecurityOptions"]
    assert engine.out("run", "--rm", *label) == "docker-default (enforce)"
    assert apparmor.is_loaded("docker-default")
    assert engine.out("run", "--rm", "--security-opt", "apparmor=unconfined", *label) == "unconfined"
    assert engine.out("run", "--rm", "--privileged", *label) == "unconfined"
    engine.cli("run", "-d", "--name", "held", "busybox", "sleep", "1000")
    assert engine.out("inspect", "-f", "{{.AppArmorProfile}}", "held") == "docker-default"
    for options in ((), ("-t",), ("--privileged",)):
        assert engine.out("exec", *options, "held", *label[1:]).strip() == "docker-default (enforce)"
    missing = engine.cli("run", "--rm", "--security-opt", "apparmor=nosuch", "busybox", "true", check=False)
    assert "unable to apply apparmor profile" in missing.stderr
    # What capabilities and seccomp let through, the profile does not.
    open_ = ("--cap-add", "SYS_ADMIN", "--security-opt", "systempaths=unconfined")
    script = "mount -t tmpfs x /tmp; echo 1 > /proc/sys/vm/drop_caches; echo 1 > /proc/sys/kernel/panic; echo end"
    shown = engine.cli("run", "--rm", *open_, "busybox", "sh", "-c", script)
    assert shown.stderr.lower().count("permission denied") == 3, shown.stderr
    engine.cli("kill", "-s", "KILL", "held")
    engine.wait_for(lambda: engine.out("inspect", "-f", "{{.State.Status}}", "held") == "exited")


def test_what_is_hidden_is_told(engine: Engine) -> None:
    """SEC-08, CTR-22: the defaults too; nothing of the privileged is hidden."""

    def told(*options: str) -> tuple[list[str] | None, list[str] | None]:
        host = json.loads(engine.out("inspect", engine.out("create", *options, "busybox")))[0]["HostConfig"]
        return host["MaskedPaths"], host["ReadonlyPaths"]

    masked, readonly = told()
    assert {"/proc/kcore", "/sys/firmware"} < set(masked or ())
    assert "/proc/sys" in (readonly or ())
    assert told("--privileged") == (None, None)
    assert told("--security-opt", "systempaths=unconfined") == ([], [])
