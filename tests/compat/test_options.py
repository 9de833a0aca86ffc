"""The options of `docker run`, each seen from inside the container."""

from __future__ import annotations

import pytest

from tests.support.engine import Engine

pytestmark = pytest.mark.root


def inside(engine: Engine, *words: str) -> str:
    """What `run --rm OPTIONS busybox sh -c SCRIPT` prints; the last word is the script."""
    *options, script = words
    return engine.out("run", "--rm", *options, "busybox", "sh", "-c", script)


def v1_or_v2(controller: str, v1: str, v2: str) -> str:
    return f"cat /sys/fs/cgroup/{controller}/{v1} 2>/dev/null || cat /sys/fs/cgroup/{v2}"


def test_memory_limit(engine: Engine) -> None:
    """RES: -m, with the double of it as swap limit by default (CTR-06)."""
    assert inside(engine, "-m", "64m", v1_or_v2("memory", "memory.limit_in_bytes", "memory.max")) == str(64 << 20)
    engine.cli("create", "--name", "limited", "-m", "64m", "busybox")
    assert engine.json("/containers/limited/json")["HostConfig"]["MemorySwap"] == 128 << 20


def test_cpus(engine: Engine) -> None:
    """RES: --cpus 0.5 is a quota of half a period."""
    shown = inside(engine, "--cpus", "0.5", v1_or_v2("cpu", "cpu.cfs_quota_us", "cpu.max"))
    assert shown.split()[0] == "50000"


def test_pids_limit(engine: Engine) -> None:
    """RES: the limit is in force: the next fork fails."""
    assert inside(engine, "--pids-limit", "50", v1_or_v2("pids", "pids.max", "pids.max")) == "50"
    crowd = engine.cli(
        "run", "--rm", "--pids-limit", "8", "busybox", "sh", "-c",
        "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 5 & done; wait", check=False,
    )  # fmt: skip
    assert "can't fork" in crowd.stderr


def test_user(engine: Engine) -> None:
    """CTR-05: by number, by name from the image's /etc/passwd, with a group; a name that is not there is refused."""
    assert inside(engine, "-u", "1234:4321", "id -u; id -g").split() == ["1234", "4321"]
    assert inside(engine, "-u", "nobody", "id -un; id -gn").split() == ["nobody", "nogroup"]
    assert inside(engine, "-u", "nobody", "--group-add", "77", "id -G").split() == ["65534", "77"]
    assert inside(engine, "-u", "nobody", "grep CapEff /proc/self/status").split()[1] == "0" * 16
    refused = engine.cli("run", "--rm", "-u", "nosuch", "busybox", "true", check=False)
    assert "unable to find user nosuch" in refused.stderr
    assert refused.returncode != 0


def test_working_directory_is_made(engine: Engine) -> None:
    """CTR-05: -w, made when it is missing."""
    assert inside(engine, "-w", "/made/for/this", "pwd") == "/made/for/this"


def test_environment(engine: Engine) -> None:
    """CTR-05: -e overrides the image, PATH HOME HOSTNAME TERM are there."""
    assert inside(engine, "-e", "A=1 2", "-e", "PATH=/bin:/x", 'echo "$A|$PATH|$HOME"') == "1 2|/bin:/x|/root"
    assert inside(engine, "--hostname", "box", "echo $HOSTNAME") == "box"


def test_hostname(engine: Engine) -> None:
    """CTR-06: --hostname in the kernel and in the files; else the beginning of the id."""
    shown = inside(engine, "--hostname", "box.example", "hostname; cat /etc/hostname; grep box.example /etc/hosts")
    assert shown.splitlines()[:2] == ["box.example", "box.example"]
    assert "box.example" in shown.splitlines()[2]
    container_id = engine.out("run", "-d", "busybox", "sleep", "1000")
    assert engine.out("exec", container_id, "hostname") == container_id[:12]


def test_capabilities_can_be_dropped_and_added(engine: Engine) -> None:
    """SEC: --cap-drop ALL leaves none, --cap-add gives one back; without CHOWN a chown fails."""
    shown = "grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status | cut -f2 | sort -u"
    assert inside(engine, "--cap-drop", "ALL", shown) == "0" * 16
    bounding = "grep CapBnd /proc/self/status | cut -f2"
    assert int(inside(engine, "--cap-drop", "ALL", "--cap-add", "NET_RAW", bounding), 16) == 1 << 13
    assert inside(engine, "--cap-drop", "CHOWN", "touch /f; chown 5 /f 2>/dev/null || echo refused") == "refused"


def test_read_only_root(engine: Engine) -> None:
    """CTR-42: nothing can be written but volumes and tmpfs."""
    script = "touch /f 2>/dev/null || echo refused; touch /data/f /scratch/f && echo allowed"
    assert inside(engine, "--read-only", "-v", "/data", "--tmpfs", "/scratch", script).split() == ["refused", "allowed"]


def test_tmpfs(engine: Engine) -> None:
    """CTR-39: --tmpfs with its options, and --mount type=tmpfs; nothing can be run from either."""
    shown = inside(
        engine, "--tmpfs", "/scratch:size=1m,mode=700", "grep ' /scratch ' /proc/mounts; stat -c %a /scratch"
    )
    assert shown.startswith("tmpfs /scratch tmpfs rw,nosuid,nodev,noexec")
    assert "size=1024k" in shown
    assert shown.endswith("700")
    shown = inside(engine, "--mount", "type=tmpfs,dst=/scratch,tmpfs-size=2097152", "grep ' /scratch ' /proc/mounts")
    assert shown.startswith("tmpfs /scratch tmpfs rw,nosuid,nodev,noexec")
    assert "size=2048k" in shown


def test_shared_memory_and_ulimits(engine: Engine) -> None:
    """CTR-06, RES: /dev/shm of 64 MiB by default, --shm-size, --ulimit."""
    assert inside(engine, "df -k /dev/shm | tail -1").split()[1] == "65536"
    assert inside(engine, "--shm-size", "1m", "df -k /dev/shm | tail -1").split()[1] == "1024"
    assert inside(engine, "--ulimit", "nofile=100:200", "ulimit -Sn; ulimit -Hn").split() == ["100", "200"]


def test_entrypoint_and_labels(engine: Engine) -> None:
    """CTR-05: an entry point on the command line drops the image's command."""
    assert engine.out("run", "--rm", "--entrypoint", "echo", "busybox", "one", "two") == "one two"
    assert engine.out("run", "--rm", "--entrypoint", "hostname", "-h", "x", "busybox") == "x"
    engine.cli("create", "--name", "tagged", "--label", "a=b", "busybox")
    assert engine.out("inspect", "-f", '{{index .Config.Labels "a"}}', "tagged") == "b"


def test_extra_hosts_and_name_servers(engine: Engine) -> None:
    """CTR-40, NET-27."""
    shown = inside(
        engine, "--add-host", "friend:192.0.2.7", "--dns", "192.0.2.53", "--dns-search", "example.org",
        "cat /etc/hosts /etc/resolv.conf",
    )  # fmt: skip
    assert "192.0.2.7\tfriend" in shown
    assert "nameserver 192.0.2.53" in shown
    assert "search example.org" in shown


def test_sysctls_and_devices(engine: Engine) -> None:
    """CTR-43, RES: --sysctl for the container's namespaces, --device with its rights."""
    assert inside(engine, "--sysctl", "net.ipv4.ip_unprivileged_port_start=99",
                  "cat /proc/sys/net/ipv4/ip_unprivileged_port_start") == "99"  # fmt: skip
    assert inside(engine, "--device", "/dev/null:/dev/nothing:r", "stat -c %F /dev/nothing") == "character special file"


def test_privileged(engine: Engine) -> None:
    """SEC: all capabilities, no filter, devices of the host."""
    shown = inside(engine, "--privileged", "grep -E 'CapEff|^Seccomp:' /proc/self/status; ls /dev | wc -l")
    lines = shown.splitlines()
    assert int(lines[0].split()[1], 16) > 0xA80425FB
    assert lines[1].split()[1] == "0"
    assert int(lines[2]) > 16


def test_shared_namespaces(engine: Engine) -> None:
    """CTR-38: another container's processes, network and System V memory; the host's on request."""
    engine.cli("run", "-d", "--name", "donor", "--ipc", "shareable", "busybox", "sleep", "1000")
    assert "sleep 1000" in inside(engine, "--pid", "container:donor", "ps")
    addresses = "ip -4 addr show eth0 | grep inet"
    assert inside(engine, "--network", "container:donor", addresses) == engine.out(
        "exec", "donor", "sh", "-c", addresses
    )
    ipc = engine.out("exec", "donor", "readlink", "/proc/self/ns/ipc")
    assert inside(engine, "--ipc", "container:donor", "readlink /proc/self/ns/ipc") == ipc
    import os

    assert inside(engine, "--pid", "host", "readlink /proc/self/ns/pid") == os.readlink("/proc/self/ns/pid")
    assert inside(engine, "--uts", "host", "readlink /proc/self/ns/uts") == os.readlink("/proc/self/ns/uts")


def test_options_that_exclude_each_other_are_refused(engine: Engine) -> None:
    """CTR-07, by the command line's own way."""
    refused = engine.cli("run", "--rm", "--restart", "always", "busybox", "true", check=False)
    assert refused.returncode != 0
    refused = engine.cli("run", "--memory", "1k", "busybox", "true", check=False)
    assert "Minimum memory limit allowed is 6MB" in refused.stderr
    assert engine.out("ps", "-aq") == ""
