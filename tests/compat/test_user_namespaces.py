"""userns-remap: the root of a container is another user of the host, and sees nothing of it."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.engine import Engine, running_engine
from tests.support.images import add

pytestmark = pytest.mark.root
BASE = 231072
OWNER = f"{BASE}.{BASE}"


def copy_of_etc(place: Path, **files: str) -> Path:
    """An /etc to change: tests do not touch the host's."""
    shutil.copytree("/etc", place, symlinks=True)
    for name, content in files.items():
        (place / name).write_text(content)
    return place


@pytest.fixture(scope="module")
def module_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    given = f"nobody:{BASE}:65536\n"
    etc = copy_of_etc(tmp_path_factory.mktemp("etc") / "etc", subuid=given, subgid=f"nogroup:{BASE}:65536\n")
    with running_engine("--userns-remap", "nobody:nogroup", etc=etc, owner=OWNER) as engine:
        yield engine


def status(engine: Engine, container: str) -> dict[str, str]:
    pid = engine.out("inspect", "-f", "{{.State.Pid}}", container)
    text = Path(f"/proc/{pid}/status").read_text()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def test_root_inside_is_another_user_outside(engine: Engine) -> None:
    """SEC-10: uid_map, the process on the host, the engine's roots, info; each container has a namespace of its own."""
    assert "name=userns" in engine.json("/info")["SecurityOptions"]
    assert engine.json("/info")["DockerRootDir"] == str(engine.root / "data" / OWNER)
    maps = engine.out("run", "--rm", "busybox", "sh", "-c", "cat /proc/self/uid_map /proc/self/gid_map; id -u; id -g")
    assert maps.split() == ["0", str(BASE), "65536"] * 2 + ["0", "0"]
    for name in ("one", "two"):
        engine.cli("run", "-d", "--name", name, "busybox", "sleep", "1000")
    found = status(engine, "one")
    assert found["Uid"].split() == found["Gid"].split() == [str(BASE)] * 4
    assert (found["CapEff"], found["Seccomp"]) == ("00000000a80425fb", "2")
    one, two = (engine.out("exec", name, "readlink", "/proc/self/ns/user") for name in ("one", "two"))
    assert len({one, two, os.readlink("/proc/self/ns/user")}) == 3
    assert engine.out("exec", "one", "cat", "/proc/self/uid_map").split() == ["0", str(BASE), "65536"]


def test_files_belong_to_the_containers_root(engine: Engine) -> None:
    """SEC-10: The image's files, generated ones, volumes filled from the image and tmpfs; on disk the image's stay as
    they are, and volumes are the mapped user's."""
    script = (
        "stat -c '%u' / /bin /etc/passwd /etc/hosts /etc/resolv.conf /etc/hostname /vol /vol/passwd /scratch"
        " /dev /dev/null /dev/shm /proc/self/status; echo 1.2.3.4 more >> /etc/hosts && chown 5:6 /vol/passwd"
        " && echo done"
    )
    options = ("--name", "files", "-v", "filled:/vol", "-v", "etc:/etc", "--tmpfs", "/scratch:uid=7")
    engine.cli("volume", "create", "filled")
    engine.cli("run", "--rm", "-v", "filled:/vol", "busybox", "cp", "/etc/passwd", "/vol/passwd")
    shown = engine.out("run", *options, "busybox", "sh", "-c", script).split()
    assert shown == ["0"] * 8 + ["7"] + ["0"] * 4 + ["done"]
    mountpoint = {name: Path(engine.json(f"/volumes/{name}")["Mountpoint"]) for name in ("filled", "etc")}
    assert (mountpoint["filled"].stat().st_uid, (mountpoint["filled"] / "passwd").stat().st_uid) == (BASE, BASE + 5)
    assert (mountpoint["filled"] / "passwd").stat().st_gid == BASE + 6
    assert (mountpoint["etc"] / "passwd").stat().st_uid == BASE
    layers = json.loads(engine.out("inspect", "-f", "{{json .GraphDriver.Data}}", "files"))
    assert all(os.stat(path).st_uid == 0 for path in [layers["UpperDir"], *layers["LowerDir"].split(":")])
    assert engine.out("diff", "files").split() == ["A", "/scratch", "A", "/vol"]


def test_the_hosts_files_are_strangers(engine: Engine, tmp_path: Path) -> None:
    """SEC-10: A bind keeps the host's owners: what root alone may read there, the container's root may not."""
    (tmp_path / "secret").write_text("of the host")
    (tmp_path / "secret").chmod(0o600)
    tmp_path.chmod(0o755)
    script = "stat -c %u /host/secret; cat /host/secret; touch /host/new; chown 0 /host/secret"
    done = engine.cli("run", "--rm", "-v", f"{tmp_path}:/host", "busybox", "sh", "-c", script, check=False)
    assert done.stdout == "65534\n"
    assert done.stderr.count("Permission denied") + done.stderr.count("not permitted") == 3


def test_it_is_root_in_its_own_namespaces(engine: Engine) -> None:
    """SEC-10: Network, hostname and sysctls of its own can be changed; terminals, devices and limits work as ever."""
    can = ("--cap-add", "NET_ADMIN", "--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined")
    script = (
        "ip addr add 10.9.9.9/32 dev lo && ip link set eth0 mtu 1400 && hostname new && hostname"
    )
    assert engine.out("run", "--rm", *can, "busybox", "sh", "-c", script) == "new"
    options = ("--sysctl", "net.ipv4.ip_forward=0", "--sysctl", "kernel.msgmax=1234", "--memory", "64m", "--read-only")
    script = "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax; touch /x; echo x > /dev/null"
    script += "; head -c 1 /dev/zero | wc -c"
    done = engine.cli("run", "--rm", *options, "busybox", "sh", "-c", script)
    assert done.stdout.split() == ["0", "1234", "1"]
    assert "Read-only file system" in done.stderr
    assert engine.out("run", "--rm", "-t", "busybox", "sh", "-c", "tty; stat -c %u $(tty) /dev/console").split() == [
        "/dev/pts/0", "0", "0",
    ]  # fmt: skip
    assert (
        engine.out("run", "--rm", "-u", "nobody", "busybox", "sh", "-c", "echo to the pipe > /dev/stdout")
        == "to the pipe"
    )
    assert (
        engine.out("run", "--rm", "--device", "/dev/null:/dev/void", "busybox", "sh", "-c", "echo > /dev/void; echo x")
        == "x"
    )
    shown = engine.out("run", "--rm", "--oom-score-adj", "500", "busybox", "cat", "/proc/self/oom_score_adj")
    assert shown == "500"


def test_what_is_mounted_stays_as_it_is(engine: Engine, tmp_path: Path) -> None:
    """SEC-10: with every capability inside, a read-only bind stays read-only and a masked path masked."""
    tmp_path.chmod(0o777)
    can = ("--cap-add", "ALL", "--security-opt", "seccomp=unconfined", "-v", f"{tmp_path}:/host:ro")
    script = (
        "mount -o remount,rw,bind /host && echo writable; umount /host && echo off; umount /proc/sys && echo off;"
        "umount /proc/timer_list && echo off; mount -t tmpfs x /mnt && echo mounted; touch /host/x; echo end"
    )
    shown = engine.cli("run", "--rm", *can, "-v", "/mnt", "busybox", "sh", "-c", script).stdout.split()
    assert shown == ["mounted", "end"]
    assert list(tmp_path.iterdir()) == []


def test_networks_work_as_ever(engine: Engine) -> None:
    """SEC-10: Names, published ports, none, and namespaces shared between containers."""
    engine.cli("network", "create", "sea")
    engine.cli(
        "run",
        "-d",
        "--name",
        "web",
        "--network",
        "sea",
        "-p",
        "127.0.0.1:8099:80",
        "busybox",
        "httpd",
        "-f",
        "-p",
        "80",
        "-h",
        "/etc",
    )
    assert engine.out("run", "--rm", "--network", "sea", "busybox", "wget", "-qO-", "http://web/hostname").strip()
    served = engine.in_namespace("busybox", "wget", "-qO-", "http://127.0.0.1:8099/hostname")
    assert served.stdout.strip() == engine.out("exec", "web", "hostname")
    assert "127.0.0.1" in engine.out("run", "--rm", "--network", "none", "busybox", "ip", "addr")
    own = {kind: engine.out("exec", "web", "readlink", f"/proc/self/ns/{kind}") for kind in ("net", "pid", "user")}
    for option, kind in (("--network", "net"), ("--pid", "pid")):
        script = f"readlink /proc/self/ns/{kind}; readlink /proc/self/ns/user"
        shown = engine.out("run", "--rm", option, "container:web", "busybox", "sh", "-c", script)
        assert shown.split() == [own[kind], own["user"]]


def test_execs_are_in_it(engine: Engine) -> None:
    """SEC-10: As root, as another user, with a terminal, with input; with the container's capabilities."""
    engine.cli("run", "-d", "--name", "held", "busybox", "sleep", "1000")
    assert engine.out("exec", "held", "id", "-u") == "0"
    assert engine.out("exec", "-u", "nobody", "held", "sh", "-c", "id -u > /dev/stdout") == "65534"
    assert engine.out("exec", "-t", "held", "tty").strip() == "/dev/pts/0"
    assert engine.out("exec", "-i", "held", "cat", data="in\n") == "in"
    assert engine.out("exec", "held", "grep", "CapEff", "/proc/self/status").split()[1] == "00000000a80425fb"
    engine.cli("exec", "held", "sh", "-c", "echo x > /made && chown 3:4 /made")
    assert engine.out("exec", "held", "stat", "-c", "%u:%g", "/made") == "3:4"


@pytest.mark.parametrize("running", [False, True], ids=["stopped", "running"])
def test_copies_know_the_containers_owners(engine: Engine, running: bool) -> None:
    """SEC-10: docker cp both ways, into the root and into a volume: archives hold the ids of the container."""
    engine.cli("create", "--name", "target", "-v", "data:/data", "busybox", "sleep", "1000")
    if running:
        engine.cli("start", "target")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo("file")
        member.uid, member.gid, member.size = 12, 13, 1
        tar.addfile(member, io.BytesIO(b"x"))
        add(tar, "roots", b"x")
    for place in ("/tmp", "/data"):
        sent, answer = engine.request("PUT", f"/containers/target/archive?path={place}", archive.getvalue())
        assert sent == 200, answer
        got, body = engine.request("GET", f"/containers/target/archive?path={place}/file")
        assert got == 200, body
        with tarfile.open(fileobj=io.BytesIO(body)) as tar:
            assert [(member.uid, member.gid) for member in tar] == [(12, 13)]
    engine.cli("start", "target")
    shown = engine.out("exec", "target", "stat", "-c", "%u:%g", "/tmp/file", "/data/file", "/tmp/roots", "/data/roots")
    assert shown.split() == ["12:13", "12:13", "0:0", "0:0"]
    assert (Path(engine.json("/volumes/data")["Mountpoint"]) / "file").stat().st_uid == BASE + 12


def test_an_image_made_of_it_has_the_containers_owners(engine: Engine) -> None:
    """SEC-10: A commit is an image like any other: nothing of the map is in it."""
    engine.cli("run", "--name", "maker", "busybox", "sh", "-c", "echo x > /made && chown 3:4 /made")
    engine.cli("commit", "maker", "made")
    assert engine.out("run", "--rm", "--userns", "host", "made", "stat", "-c", "%u:%g", "/made") == "3:4"
    engine.cli("rm", "maker")
    engine.cli("rmi", "made")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--privileged",), "privileged mode is incompatible with user namespaces."),
        (("--network", "host"), "cannot share the host's network namespace when user namespaces are enabled"),
        (("--pid", "host"), "cannot share the host PID namespace when user namespaces are enabled"),
        (("--userns", "nonsense"), "invalid USER mode"),
        (("--mount", "type=image,src=busybox,dst=/i"), "not implemented with user namespaces"),
    ],
)
def test_what_does_not_go_together_is_refused(engine: Engine, options: tuple[str, ...], words: str) -> None:
    """SEC-10: In Docker's words."""
    done = engine.cli("create", *options, "busybox", check=False)
    assert done.returncode in (1, 125)
    assert words.lower() in done.stderr.lower()


def test_the_hosts_user_namespace_for_one_container(engine: Engine) -> None:
    """SEC-10: --userns=host: privileged, the host's network and pids are its again; files are the same."""
    options = ("--userns", "host", "--privileged", "--network", "host", "--pid", "host")
    script = "cat /proc/self/uid_map; readlink /proc/self/ns/user; stat -c %u / /bin/busybox /etc/hosts"
    shown = engine.out("run", "--rm", *options, "busybox", "sh", "-c", script).split()
    assert shown[:3] == ["0", "0", "4294967295"]
    assert shown[3] == os.readlink("/proc/self/ns/user")
    assert shown[4:] == ["0", "0", str(BASE)]
    engine.cli("run", "-d", "--name", "donor", "busybox", "sleep", "1000")
    mixed = engine.cli(
        "run", "--rm", "--userns", "host", "--network", "container:donor", "busybox", "true", check=False
    )
    assert "belongs to another user namespace" in mixed.stderr


def test_it_goes_on_over_a_restart_of_the_engine(engine: Engine) -> None:
    """SEC-10: Adopted, stopped, started again: the files are still its own."""
    engine.cli("run", "-d", "--name", "lasting", "busybox", "sh", "-c", "echo $$ >> /starts; sleep 1000")
    engine.restart()
    assert engine.out("exec", "lasting", "id", "-u") == "0"
    engine.cli("restart", "-t", "0", "lasting")
    engine.wait_for(lambda: engine.out("exec", "lasting", "cat", "/starts").split() == ["1", "1"])


def test_the_default_user_is_made(tmp_path: Path) -> None:
    """SEC-10: `default` is dockremap, made when missing, with ids behind everybody's."""
    etc = copy_of_etc(tmp_path / "etc", subuid="somebody:100000:65536\n", subgid="somebody:100000:65536\n")
    with running_engine("--userns-remap", "default", etc=etc, owner="165536.165536") as engine:
        shown = engine.out("run", "--rm", "busybox", "cat", "/proc/self/uid_map")
        assert shown.split() == ["0", "165536", "65536"]
    assert "dockremap:165536:65536\n" in (etc / "subuid").read_text()
    assert "dockremap:" in (etc / "passwd").read_text()
