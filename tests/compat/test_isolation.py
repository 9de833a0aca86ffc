"""What a container can see and do, compared with runc on the same spec: ours is Docker's sandbox, not a likeness.

The engine runs each script twice, once with its own runtime and once with runc as an added one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.engine import Engine, running_engine
from tests.support.registry import tool

pytestmark = pytest.mark.root
RUNTIMES = ("native", "runc")


@pytest.fixture(scope="module")
def module_engine() -> Iterator[Engine]:
    with running_engine("--add-runtime", f"runc={tool('runc')}") as engine:
        yield engine


def inside(engine: Engine, runtime: str, *words: str) -> str:
    *options, script = words
    return engine.out(
        "run", "--rm", "--runtime", runtime, "--hostname", "same", *options, "busybox", "sh", "-c", script
    )


def same(engine: Engine, *words: str) -> str:
    """What both runtimes print alike."""
    if "--privileged" in words and not host_has_every_capability():
        pytest.skip("runc refuses a privileged container where the host lacks a capability")
    ours, theirs = (inside(engine, runtime, *words) for runtime in RUNTIMES)
    assert ours == theirs
    return ours


def host_has_every_capability() -> bool:
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    bounding = re.search(r"CapBnd:\s+(\w+)", Path("/proc/self/status").read_text())
    assert bounding is not None
    return int(bounding[1], 16) == (1 << last + 1) - 1


OPTIONS = pytest.mark.parametrize(
    "options",
    [(), ("--privileged",), ("--cap-drop", "ALL"), ("--cap-add", "SYS_ADMIN"), ("-u", "nobody"), ("--read-only",),
     ("--security-opt", "no-new-privileges"), ("--security-opt", "seccomp=unconfined"),
     ("--security-opt", "systempaths=unconfined")],
    ids=" ".join,
)  # fmt: skip


@OPTIONS
def test_credentials_and_filter(engine: Engine, options: tuple[str, ...]) -> None:
    """SEC-01, SEC-02, SEC-03: capability sets, seccomp mode, no_new_privs, ids and groups, umask."""
    shown = same(engine, *options, "grep -E '^(Cap|Seccomp:|NoNewPrivs|Uid|Gid|Groups|Umask)' /proc/self/status")
    if not options:
        assert re.search(r"CapEff:\s+00000000a80425fb", shown), "Docker's fourteen"
        assert re.search(r"Seccomp:\s+2", shown)


@OPTIONS
def test_mounts(engine: Engine, options: tuple[str, ...]) -> None:
    """SEC-06..09: the same mounts with the same options, in the same places; masked and read-only paths among them."""
    if "--privileged" in options and not host_has_every_capability():
        pytest.skip("runc refuses a privileged container where the host lacks a capability")
    ours, theirs = (mounts(inside(engine, runtime, *options, "cat /proc/self/mountinfo")) for runtime in RUNTIMES)
    assert ours == theirs
    if options == ():
        places = {entry[0] for entry in ours}
        for path in ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/acpi", "/proc/scsi", "/sys/firmware"):
            assert path in places or not Path(path).exists(), path
        for path in ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"):
            assert any(entry[0] == path and "ro" in entry[1] for entry in ours) or not Path(path).exists(), path
        assert inside(engine, "native", "mkdir /sys/fs/cgroup/x 2>/dev/null || echo refused") == "refused"


def mounts(table: str) -> list[tuple[str, frozenset[str], str]]:
    """(place, options, type) of each mount; what differs by container or by the order of making is left out, and so is
    the tmpfs above the cgroups of version 1: the specification says `ro`, some releases of runc leave it writable."""
    found = []
    for line in table.splitlines():
        fields = line.split()
        rest = fields[fields.index("-") + 1 :]
        if fields[4] == "/sys/fs/cgroup" and rest[0] == "tmpfs":
            continue
        found.append((fields[4], frozenset(fields[5].split(",")), rest[0]))
    return sorted(found, key=lambda entry: (entry[0], entry[2]))


@OPTIONS
def test_devices(engine: Engine, options: tuple[str, ...]) -> None:
    """SEC-12: /dev has the same nodes, links and modes."""
    listing = "cd /dev; for f in $(find . | sort); do stat -c '%n %F %a %t:%T %u:%g' $f; readlink $f; done; true"
    if "--privileged" in options:
        listing = "ls /dev | sort"
    shown = same(engine, *options, f"{listing}")
    assert "sda" not in shown or "--privileged" in options


def test_limits_and_process(engine: Engine) -> None:
    """RES, CTR-38: limits, oom score, session, environment, working directory, cgroup view."""
    same(engine, "ulimit -a; cat /proc/self/oom_score_adj; env | sort; pwd; ls -la /proc/self/fd | wc -l")
    # On a hybrid host runc leaves the unified hierarchy alone when it has no controllers.
    same(engine, "sed 's/[0-9a-f]\\{64\\}/ID/' /proc/1/cgroup | grep -v ^0:: || true")
    same(engine, "ps -o user,args; cat /proc/1/cmdline | tr '\\0' ' '; cut -d' ' -f5,6 /proc/1/stat")
    same(
        engine,
        "--sysctl",
        "net.core.somaxconn=77",
        "cat /proc/sys/net/core/somaxconn; hostname; cat /proc/sys/kernel/domainname",
    )


FORBIDDEN = (
    "mount -t tmpfs none /mnt", "mount -o remount,rw /sys", "umount /proc/sys", "umount /etc/hosts", "dmesg",
    "unshare -m true", "unshare -n true", "unshare -U true", "nsenter -t 1 -m true", "hostname evil",
    ": >> /proc/sysrq-trigger", ": >> /proc/sys/kernel/panic", ": >> /sys/kernel/profiling",
    "mknod /tmp/x b 8 0 && head -c 1 /tmp/x", "mknod /tmp/y c 1 1 && head -c 1 /tmp/y",
    "[ $(head -c 1 /proc/kcore | wc -c) = 1 ]", "[ $(head -c 1 /proc/keys | wc -c) = 1 ]",
    "ls /sys/firmware | grep .", "ip link add v0 type veth", "ip link set eth0 down", "ip addr add 10.9.9.9/8 dev eth0",
    "sysctl -w net.ipv4.ip_forward=1",
    "ls /proc/1/root/../../ | grep -v -E '^(bin|dev|etc|proc|root|sys|tmp|var)$'",
)  # fmt: skip
"""Each would succeed in a container that is not one. Nothing here can harm a host that lets it through."""
ATTEMPTS = "".join(f"({command}) >/dev/null 2>&1 && echo {n}\n" for n, command in enumerate(FORBIDDEN)) + "echo end"


def worked(shown: str) -> list[str]:
    """The commands that succeeded, told by their numbers before the `end`."""
    *numbers, end = shown.split()
    assert end == "end"
    return [FORBIDDEN[int(number)] for number in numbers]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_what_must_not_work_does_not(engine: Engine, runtime: str) -> None:
    """SEC: one container tries it all; nothing succeeds, with either runtime."""
    assert worked(inside(engine, runtime, ATTEMPTS)) == []


def test_nothing_of_the_host_is_seen(engine: Engine, tmp_path: Path) -> None:
    """SEC: no host process, no host mount, no host file, no host interface, no host ipc object."""
    (tmp_path / "secret").write_text("of the host")
    assert inside(engine, "native", "ps -o pid,comm | wc -l").strip() in ("2", "3", "4")
    table = inside(engine, "native", "cat /proc/self/mountinfo /proc/mounts")
    assert str(tmp_path) not in table
    roots = [line.split()[4] for line in table.splitlines() if " - " in line]
    assert not [root for root in roots if root.startswith(("/tmp", "/home", "/root", "/var", "/work"))]
    assert inside(engine, "native", f"ls {tmp_path} 2>/dev/null; ls /proc/1/root/tmp") == ""
    assert inside(engine, "native", "ls /sys/class/net | sort").split() == ["eth0", "lo"]
    assert inside(engine, "native", "ls /proc | grep -c '^[0-9]'") in ("2", "3", "4")
    kinds = ("mnt", "pid", "ipc", "uts", "net")
    own = {kind: Path(f"/proc/self/ns/{kind}").readlink().name for kind in kinds}
    for kind in kinds:
        assert inside(engine, "native", f"readlink /proc/self/ns/{kind}") != own[kind]


def test_exec_is_held_like_the_container(engine: Engine) -> None:
    """SEC, EXE-06: the same sets, filter, mounts and cgroup in an exec; more only with --privileged."""
    engine.cli("run", "-d", "--name", "held", "busybox", "sleep", "1000")
    status = "grep -E '^(Cap|Seccomp:|NoNewPrivs)' /proc/self/status; cat /proc/self/cgroup"
    first = engine.out("exec", "held", "sh", "-c", status.replace("self", "1"))
    assert engine.out("exec", "held", "sh", "-c", status) == first
    more = engine.out("exec", "--privileged", "held", "grep", "CapEff", "/proc/self/status")
    assert int(more.split()[1], 16) > 0xA80425FB
    assert worked(engine.out("exec", "held", "sh", "-c", ATTEMPTS)) == []


def test_a_foreign_runtime_runs_whole_lives(engine: Engine) -> None:
    """The port: exit codes, input, exec, logs, stop by runc as well."""
    assert engine.out("run", "-i", "--rm", "--runtime", "runc", "busybox", "cat", data="x\n") == "x"
    assert engine.cli("run", "--rm", "--runtime", "runc", "busybox", "sh", "-c", "exit 5", check=False).returncode == 5
    assert engine.cli("run", "--rm", "--runtime", "runc", "busybox", "nosuch", check=False).returncode == 127
    engine.cli("run", "-d", "--runtime", "runc", "--name", "other", "busybox", "sh", "-c", "echo up; sleep 1000")
    engine.wait_for(lambda: engine.out("logs", "other") == "up")
    assert engine.out("exec", "other", "sh", "-c", "echo in").endswith("in")
    engine.cli("stop", "-t", "0", "other")
    assert engine.out("inspect", "-f", "{{.State.ExitCode}} {{.HostConfig.Runtime}}", "other") == "137 runc"
