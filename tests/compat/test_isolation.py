"""What a container can see and do, compared with runc on the same spec: ours is Docker's sandbox, not a likeness.

The engine runs each script twice, once with its own runtime and once with runc as an added one. A container tells of
itself in sections (REPORT), and every section must be the same, for every set of options.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.aggregates.values import capabilities
from tests.support.engine import Engine, running_engine
from tests.support.registry import tool

pytestmark = pytest.mark.root
RUNTIMES = ("native", "runc")


@pytest.fixture(scope="module")
def module_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with running_engine("--add-runtime", f"runc={modest_runc(tmp_path_factory.mktemp('runc') / 'runc')}") as engine:
        yield engine


def modest_runc(script: Path) -> str:
    """runc refuses a container that asks for a capability that the host has not got, where ours (as Docker's own
    listing of capabilities) leaves it out. On such a host it is not asked for it."""
    bounding = re.search(r"CapBnd:\s+(\w+)", Path("/proc/self/status").read_text())
    assert bounding is not None
    missing = [name for number, name in enumerate(capabilities.ALL) if not int(bounding[1], 16) >> number & 1]
    if not missing:
        return tool("runc")
    edits = " ".join(f"-e 's/,\"{name}\"//g' -e 's/\"{name}\",//g'" for name in missing)
    script.write_text(
        "#!/bin/sh\n"
        "for word; do case $last in\n"
        f'  --bundle) sed -i {edits} "$word/config.json";; --process) sed -i {edits} "$word";;\n'
        "  esac; last=$word; done\n"
        f'exec {shlex.quote(tool("runc"))} "$@"\n'
    )
    script.chmod(0o755)
    return str(script)


def inside(engine: Engine, runtime: str, *words: str) -> str:
    *options, script = words
    name = () if options in (["--uts", "host"], ["--net", "host"]) else ("--hostname", "same")
    return engine.out("run", "--rm", "--runtime", runtime, *name, *options, "busybox", "sh", "-c", script)


DEVICES = (
    "c 1 1", "c 1 3", "c 1 5", "c 1 7", "c 1 8", "c 1 9", "c 1 11", "c 4 0", "c 4 1", "c 5 0", "c 5 1", "c 5 2",
    "c 10 200", "c 10 229", "c 10 235", "c 136 0", "b 8 0", "b 254 0",
)  # fmt: skip
"""No loop device: with privileges, opening one makes the kernel add eight of them, and another container sees them."""
PLACES = "/ /dev /dev/shm /dev/pts /dev/mqueue /proc /sys /tmp /etc /etc/hosts /etc/hostname /etc/resolv.conf /root"
HIDDEN = (
    "/proc/kcore /proc/keys /proc/latency_stats /proc/timer_list /proc/timer_stats /proc/sched_debug /proc/acpi "
    "/proc/scsi /proc/asound /proc/interrupts /sys/firmware /sys/devices/virtual/powercap"
)
WRITTEN = (
    "/proc/sys/kernel/hostname /proc/sys/net/core/somaxconn /proc/sysrq-trigger /proc/irq /proc/bus /proc/fs "
    "/sys/kernel/profiling /sys/fs/cgroup/memory /dev /dev/shm / /etc/hosts /proc/1/oom_score_adj"
)
SYSCTLS = (
    "kernel/hostname kernel/domainname kernel/shmmax kernel/msgmax fs/mqueue/msg_max net/core/somaxconn "
    "net/ipv4/ip_unprivileged_port_start net/ipv4/ping_group_range"
)
REPORT = {
    # SEC-01, SEC-03, SEC-06, SEC-09: all five sets, no_new_privs, mode and number of filters, ids, groups, signals.
    "process": "grep -vE '^(Name|State|Pid|PPid|[TN]gid|Vm|Rss|Huge|SigQ|.*ctxt|(Cpus|Mems)_allowed:)' /proc/1/status",
    "child": "grep -E '^(Cap|NoNew|Seccomp|Speculation|[UG]id|Groups|Sig[BI]|Umask)' /proc/self/status; umask",
    # RES-04, RES-06
    "limits": "cat /proc/self/limits /proc/self/oom_score_adj /proc/self/coredump_filter",
    "identity": "cat /proc/self/?id_map /proc/self/setgroups; cut -d' ' -f4-8,18,19,40,41 /proc/1/stat",
    # SEC-12: nodes, what the cgroup allows, and what it answers.
    "nodes": "cd /dev; for f in $(find . -path ./shm -prune -o -print | sort); do"
    " stat -c '%n %F %a %t:%T %u:%g' $f; readlink $f; done",
    "device rules": "cat /sys/fs/cgroup/devices/devices.list 2>/dev/null | sort",
    "device answers": "cd /tmp; node() { rm -f node; mknod node $@ 2>&1; for way in '<' '>>'; do"
    ' echo "$@ $way $(sh -c "true $way node" 2>&1)"; done; }; ' + "; ".join(f"node {device}" for device in DEVICES),
    # SEC-02, SEC-07, SEC-08
    "places": f"for f in {PLACES}; do stat -c '%n %F %a %u:%g' $f; done",
    "hidden": f"for f in {HIDDEN}; do echo $f $(stat -c '%F %a %t:%T' $f 2>&1) $(ls $f 2>&1 | wc -l); done",
    "written": f"for f in {WRITTEN}; do [ -w $f ] && echo yes $f || echo no $f; done",
    "mounts": "sed 's/[0-9a-f]\\{64\\}/ID/g' /proc/self/mountinfo",
    # CTR-38
    "namespaces": "cd /proc/self/ns; for n in *; do echo $n $(readlink $n); done",
    # On a hybrid host runc leaves the unified hierarchy alone when it has no controllers.
    "cgroups": "sed 's/[0-9a-f]\\{64\\}/ID/' /proc/1/cgroup | grep -v ^0::",
    "settings": f"cd /proc/sys; for f in {SYSCTLS}; do echo $f $(cat $f 2>&1); done",
    "environment": "env | sort; tty; true",
}


SCRIPT = "; ".join(f"echo '== {name}'; ({probe})" for name, probe in REPORT.items())


def told(engine: Engine, text: str) -> dict[str, list[str]]:
    """The sections of a report, without what differs from container to container."""
    sections: dict[str, list[str]] = {}
    for line in text.replace("\r", "").splitlines():
        if line.startswith("== "):
            sections[line[3:]] = []
        else:
            sections[list(sections)[-1]].append(line)
    assert list(sections) == list(REPORT)
    assert engine.process is not None
    ours = Path(f"/proc/{engine.process.pid}/ns")
    hosts = {os.readlink(ours / kind) for kind in os.listdir(ours)}
    kinds = [line.split() for line in sections["namespaces"]]
    sections["namespaces"] = [f"{kind} {'shared' if place in hosts else 'own'}" for kind, place in kinds]
    sections["mounts"] = sorted(filter(None, map(mount, sections["mounts"])))
    return sections


def mount(line: str) -> str:
    """Place, options, propagation, type, source and options of the file system of a line of mountinfo. The tmpfs above
    the cgroups of version 1 is left out: the specification says `ro`, some releases of runc leave it writable. So is
    what is below a bind mount of all of /tmp: the root file system that is put together just then."""
    fields = line.split()
    place, options = fields[4:6]
    rest = fields[fields.index("-") + 1 :]
    if (place == "/sys/fs/cgroup" and rest[0] == "tmpfs") or place.startswith("/host-tmp/"):
        return ""
    source = "" if rest[0] == "overlay" else rest[1]
    inner = ",".join(sorted(each for each in rest[2].split(",") if "dir=" not in each))
    # Which group of peers is chance, and so is the place of a directory of the engine's on the host's file system.
    peers = [re.sub(r":\d+", "", field) for field in fields[6 : fields.index("-")]]
    root = fields[3] if rest[0] in ("proc", "sysfs", "cgroup", "cgroup2") else ""
    return " ".join((place, options, *peers, rest[0], source, inner, root))


SETS = pytest.mark.parametrize(
    "options",
    [
        "", "--privileged", "--privileged --read-only", "--privileged -u nobody", "--cap-drop ALL",
        "--cap-add SYS_ADMIN --cap-drop CHOWN", "--cap-add ALL --cap-drop NET_RAW", "-u nobody", "-u 1234:5",
        "-u 0:7 --group-add 8", "-u 1234 --group-add 99 --group-add 33 --cap-add NET_ADMIN", "--read-only",
        "--security-opt no-new-privileges", "--security-opt seccomp=unconfined",
        "--security-opt systempaths=unconfined", "--privileged --security-opt no-new-privileges",
        "-u nobody --cap-drop ALL --security-opt no-new-privileges --read-only --tmpfs /tmp",
        "--ulimit nofile=100:200 --ulimit core=0 --ulimit nproc=77", "--oom-score-adj 500",
        "--device /dev/loop0 --device /dev/zero:/dev/nought:r", "--device-cgroup-rule c\\ 10:229\\ rwm",
        "--tmpfs /run:size=1m,mode=700,uid=33,exec --shm-size 8m", "--mount type=tmpfs,dst=/t,tmpfs-mode=1770",
        "-v /tmp:/host-tmp:rslave,ro -v /etc/hostname:/x", "-v vol:/data:ro -v /anonymous",
        "--mount type=bind,src=/sys,dst=/b,bind-recursive=disabled", "--ipc host", "--ipc none", "--ipc shareable",
        "--pid host", "--uts host", "--net host", "--net none", "--cgroupns host", "--cgroupns private",
        "--privileged --cgroupns private", "--init", "-t", "-i", "-w /new/place --domainname some.where",
        "--sysctl net.core.somaxconn=77 --sysctl kernel.msgmax=9999", "--cgroup-parent /mine",
        "-m 64m --cpus 0.5 --pids-limit 50 --cpuset-cpus 0 --cpu-shares 100",
    ],
)  # fmt: skip


@SETS
def test_a_container_is_the_same_by_either_runtime(engine: Engine, options: str) -> None:
    """SEC-01..09, SEC-12, RES-04, RES-06, RES-07, CTR-38: with every option that changes what it is held by."""
    ours, theirs = (told(engine, inside(engine, runtime, *shlex.split(options), SCRIPT)) for runtime in RUNTIMES)
    for name in REPORT:
        assert ours[name] == theirs[name], name


@pytest.mark.parametrize("options", ["", "-u 1234:5", "--privileged", "-t", "-w /etc -e A=B"])
def test_an_exec_is_the_same_by_either_runtime(engine: Engine, options: str) -> None:
    """EXE-06, SEC-01: held as the container is, and more only with --privileged."""
    script = "; ".join(REPORT[name] for name in ("child", "limits", "written", "environment"))
    script += "; pwd; ls /proc/self/fd"
    shown = []
    for runtime in RUNTIMES:
        container = ("--name", runtime, "--hostname", "same", "--cap-drop", "CHOWN", "--ulimit", "nofile=99:99")
        engine.cli("run", "-d", "--runtime", runtime, *container, "busybox", "sleep", "1000")
        shown.append(engine.out("exec", *shlex.split(options), runtime, "sh", "-c", script))
    assert shown[0] == shown[1]


def test_the_default_sandbox_is_dockers(engine: Engine) -> None:
    """SEC-01, SEC-02, SEC-03, SEC-12: fourteen capabilities, a filter, masked and read-only places, few devices."""
    shown = told(engine, inside(engine, "native", SCRIPT))
    process = "\n".join(shown["process"])
    assert re.search(r"CapEff:\s+00000000a80425fb", process)
    assert re.search(r"CapAmb:\s+0+$", process, re.MULTILINE)
    assert re.search(r"Seccomp:\s+2", process)
    places = {line.split()[0]: line.split()[1].split(",") for line in shown["mounts"]}
    for path in ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/acpi", "/proc/scsi", "/sys/firmware"):
        assert path in places or not Path(path).exists(), path
    for path in ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"):
        assert not Path(path).exists() or "ro" in places[path], path
    assert inside(engine, "native", "mkdir /sys/fs/cgroup/x 2>/dev/null || echo refused") == "refused"
    nodes = {line.split()[0] for line in shown["nodes"]}
    assert {"./null", "./zero", "./full", "./random", "./urandom", "./tty", "./ptmx", "./mqueue"} <= nodes
    assert not nodes & {"./fuse", "./sda", "./vda", "./loop0", "./mem", "./kmsg"}


def test_what_a_vpn_needs_is_allowed(engine: Engine) -> None:
    """SEC-12: the tun device, which runc allows whatever the specification says."""
    made = "mkdir -p /dev/net && mknod /dev/net/tun c 10 200 && (: < /dev/net/tun)"
    shown = engine.cli("run", "--rm", "--cap-add", "NET_ADMIN", "busybox", "sh", "-c", made, check=False)
    assert "not permitted" not in shown.stderr


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
