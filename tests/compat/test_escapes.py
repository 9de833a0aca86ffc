"""Published ways out of containers, each tried: refused, or harmless. docs/design/security.md has them as a table.

What a race decides is tried a number of times, and the assertion is on what must never be, whoever wins.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.engine import Engine
from tests.support.images import add, busybox_layer, image_of
from tests.support.registry import tool

pytestmark = pytest.mark.root
HOST_PROGRAMS = ("-v", "/usr:/usr:ro", "-v", "/lib:/lib:ro", "-v", "/lib64:/lib64:ro")
"""So that dynamic programs of the host run in a container of busybox."""


@contextlib.contextmanager
def detached(engine: Engine, *words: str) -> Iterator[str]:
    """A container that works in the background."""
    container = engine.out("run", "-d", *words)
    try:
        yield container
    finally:
        engine.cli("rm", "-f", container)


def attempt(engine: Engine, *command: str, **body: object) -> str | None:
    """What one container prints, None when it was not started. Without the CLI: races need many."""
    status, answer = engine.request("POST", "/containers/create", {"Image": "busybox", "Cmd": command, **body})
    assert status == 201, answer
    container = json.loads(answer)["Id"]
    try:
        if engine.request("POST", f"/containers/{container}/start")[0] != 204:
            return None
        assert engine.request("POST", f"/containers/{container}/wait")[0] == 200
        return printed(engine.request("GET", f"/containers/{container}/logs?stdout=1")[1])
    finally:
        engine.request("DELETE", f"/containers/{container}?force=1")


def attempt_exec(engine: Engine, container: str, *command: str, **body: object) -> str | None:
    wish = {"Cmd": command, "AttachStdout": True, **body}
    _, answer = engine.request("POST", f"/containers/{container}/exec", wish)
    status, output = engine.request("POST", f"/exec/{json.loads(answer)['Id']}/start", {})
    return printed(output) if status == 200 else None


def printed(stream: bytes) -> str:
    found = b""
    while stream:
        size = int.from_bytes(stream[4:8], "big")
        found, stream = found + stream[8 : 8 + size], stream[8 + size :]
    return found.decode()


def load(engine: Engine, reference: str, layer: bytes, **config: object) -> None:
    """An image of busybox and one layer more."""
    archive = engine.root / "evil.tar"
    archive.write_bytes(image_of(busybox_layer(), layer, **config).docker_archive(reference))
    engine.cli("load", "-q", "-i", str(archive))


def layer(*entries: tarfile.TarInfo) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for entry in entries:
            tar.addfile(entry, io.BytesIO(b"x" * entry.size))
    return out.getvalue()


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", **fields: int) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.mode = kind, link, 0o755
    for field, value in fields.items():
        setattr(made, field, value)
    return made


def test_no_descriptor_of_the_host_can_be_the_working_directory(engine: Engine) -> None:
    """CVE-2024-21626: WORKDIR /proc/self/fd/N, for the first process and for execs."""
    script = "ls -d ../../../../usr/bin/env || echo nothing"
    for number in range(3, 20):
        place = f"/proc/self/fd/{number}"
        assert attempt(engine, "sh", "-c", script, WorkingDir=place) in (None, "nothing\n"), number
    with detached(engine, "busybox", "sleep", "1000") as container:
        for number in range(3, 20):
            place = f"/proc/self/fd/{number}"
            shown = attempt_exec(engine, container, "sh", "-c", script, WorkingDir=place)
            assert shown in (None, "", "nothing\n") or "failed" in shown, number


def test_a_working_directory_that_is_a_link_stays_inside(engine: Engine, tmp_path: Path) -> None:
    """CTR-07: a link of the image to a path of the host means that path of the container."""
    load(engine, "linked", layer(entry("work", tarfile.SYMTYPE, str(tmp_path))), WorkingDir="/work", Cmd=["pwd"])
    done = engine.cli("run", "--rm", "linked", check=False)
    assert done.returncode != 0 or done.stdout.strip() == str(tmp_path)
    assert list(tmp_path.iterdir()) == []
    engine.cli("rmi", "linked")


def test_the_interpreter_of_the_supervisor_can_not_be_written(engine: Engine) -> None:
    """CVE-2019-5736: /proc/self/exe as the program is our interpreter, and read-only whatever a container may do. It is
    busy while it runs: so a change is tried that a busy file would let through."""
    script = (
        "import errno, os\ntry:\n os.utime('/proc/self/exe')\nexcept OSError as e:\n print(errno.errorcode[e.errno])"
    )
    arguments = ("-S", "-E", "-I", "-c", script)
    shown = engine.out("run", "--rm", *HOST_PROGRAMS, "busybox", "/proc/self/exe", *arguments)
    assert shown == "EROFS"
    with detached(engine, "--privileged", *HOST_PROGRAMS, "busybox", "sleep", "1000") as container:
        assert engine.out("exec", container, "/proc/self/exe", *arguments) == "EROFS"


def test_an_exec_on_its_way_can_not_be_looked_into(engine: Engine) -> None:
    """CVE-2019-5736, CVE-2016-9962: until it is the program, an exec shows neither its binary nor its descriptors."""
    script = "while :; do for p in /proc/[0-9]*; do readlink $p/exe; ls -l $p/fd; done 2>/dev/null; done >/seen"
    with detached(engine, "busybox", "sh", "-c", script) as container:
        for _ in range(12):
            engine.cli("exec", container, "true")
        seen = engine.out("exec", container, "sort", "-u", "/seen")
    assert "/bin/busybox" in seen
    assert "python" not in seen
    assert str(engine.root) not in seen


def test_a_console_that_is_a_link_is_refused(engine: Engine) -> None:
    """CVE-2025-52565: /dev/console as a symbolic link to a masked file."""
    engine.cli("run", "--rm", "-v", "devices:/d", "busybox", "ln", "-s", "/proc/version", "/d/console")
    place = ("-v", "devices:/dev", "-v", "/dev/pts:/dev/pts")
    done = engine.cli("run", "--rm", "-t", *place, "busybox", "true", check=False)
    assert done.returncode in (125, 128)
    assert "/dev/console is a symbolic link" in done.stderr


def test_devices_of_the_host_are_left_as_they_are(engine: Engine) -> None:
    """CTR-43: a bind of the host's /dev is not furnished."""
    before = {name: os.stat(f"/dev/{name}") for name in ("null", "zero", "tty")}
    shown = engine.out("run", "--rm", "-v", "/dev:/dev", "busybox", "sh", "-c", "ls /dev | wc -l; cat /dev/null")
    assert int(shown) >= len(os.listdir("/dev")) - 1
    for name, found in before.items():
        now = os.stat(f"/dev/{name}")
        assert (now.st_ino, now.st_mode, now.st_ctime_ns) == (found.st_ino, found.st_mode, found.st_ctime_ns)


def test_a_null_device_that_is_swapped_unmasks_nothing(engine: Engine) -> None:
    """CVE-2025-31133: while /dev/null of a shared /dev is swapped for a link, containers start masked or not at all."""
    swap = "while :; do ln -sf /proc/sysrq-trigger /d/new; mv /d/new /d/null; done"
    look = "wc -c < /proc/timer_list; wc -c < /proc/keys"
    with detached(engine, "-v", "devices:/d", "busybox", "sh", "-c", swap):
        for _ in range(12):
            shown = attempt(engine, "sh", "-c", look, HostConfig={"Binds": ["devices:/dev"]})
            assert shown is None or set(shown.split()) == {"0"}


def test_what_lies_at_proc_is_the_kernels(engine: Engine, tmp_path: Path) -> None:
    """CVE-2019-16884, CVE-2019-19921, CVE-2025-52881: nothing made up may stand in for procfs or one of its files."""
    for place in ("/proc", "/proc/sys", "/proc/self/attr", "/proc/version"):
        done = engine.cli("run", "--rm", "-v", f"{tmp_path}:{place}", "busybox", "true", check=False)
        assert done.returncode in (125, 126, 127, 128)
        assert "cannot be mounted because it is" in done.stderr, place
    assert "cannot be mounted" in engine.cli("run", "--tmpfs", "/proc/sys", "busybox", check=False).stderr
    (tmp_path / "cpuinfo").write_text("made up\n")
    assert engine.out("run", "--rm", "-v", f"{tmp_path}/cpuinfo:/proc/cpuinfo", "busybox", "cat", "/proc/cpuinfo")
    assert engine.out("run", "--rm", "-v", "/proc:/proc", "busybox", "cat", "/proc/version")
    load(engine, "proclink", layer(entry("fake", tarfile.DIRTYPE), entry("proc", tarfile.SYMTYPE, "fake")))
    refused = engine.cli("run", "--rm", "proclink", "true", check=False)
    assert 'filesystem "proc" must be mounted on ordinary directory' in refused.stderr
    engine.cli("rm", "-f", *engine.out("ps", "-aq").split())
    engine.cli("rmi", "proclink")


def test_a_mount_point_that_is_swapped_for_a_link_stays_inside(engine: Engine, tmp_path: Path) -> None:
    """CVE-2021-30465: a second volume mounted below a first one, in which another container swaps the directory."""
    (tmp_path / "marker").touch()
    swap = f"mkdir -p /v/sub; ln -s {tmp_path} /v/link; while :; do mv /v/sub /v/x; mv /v/link /v/sub; "
    swap += "mv /v/sub /v/link; mv /v/x /v/sub; done"
    look = f"ls {tmp_path} /usr/bin/env 2>/dev/null | grep -E 'marker|env'"
    with detached(engine, "-v", "shared:/v", "busybox", "sh", "-c", swap):
        for _ in range(12):
            binds = {"Binds": ["shared:/data", "other:/data/sub"]}
            assert attempt(engine, "sh", "-c", look, HostConfig=binds) in (None, "")
    assert [path.name for path in tmp_path.iterdir()] == ["marker"]


def test_copies_follow_no_link_out_of_the_container(engine: Engine, tmp_path: Path) -> None:
    """CVE-2018-15664: a path of the container that turns into a link while files are copied in and out."""
    victim, source = tmp_path / "victim", tmp_path / "source"
    for folder in (victim, source):
        folder.mkdir()
    (victim / "secret").write_text("of the host")
    (source / "file").write_text("from outside")
    swap = (
        f"mkdir -p /w/a; ln -s {victim} /w/b; while :; do mv /w/a /w/c; mv /w/b /w/a; mv /w/a /w/b; mv /w/c /w/a; done"
    )
    with detached(engine, "busybox", "sh", "-c", swap) as container:
        for _ in range(5):
            engine.cli("cp", str(source / "file"), f"{container}:/w/a/", check=False)
            out = subprocess.run(
                [tool("docker"), "cp", f"{container}:/w/a/secret", "-"],
                env=engine.environment, capture_output=True, check=False,
            )  # fmt: skip
            assert b"of the host" not in out.stdout
    assert sorted(path.name for path in victim.iterdir()) == ["secret"]


def test_copying_runs_no_code_of_the_container(engine: Engine) -> None:
    """CVE-2019-14271: modules where the interpreter would look for its own are not imported inside the container."""
    names = ("traceback", "stringprep", "lzma", "bz2", "gzip", "_strptime", "encodings/idna", "encodings/cp437", "pwd")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for folder in sys.path:
            if folder.startswith("/") and not folder.endswith(".zip"):
                for name in names:
                    add(tar, f"{folder[1:]}/{name}.py", b"open('/evil', 'w')\n")
    load(engine, "modules", out.getvalue())
    engine.cli("create", "--name", "target", "modules", "sleep", "1000")
    for turn in ("stopped", "running"):
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:xz") as tar:
            add(tar, turn, b"x")
        assert engine.request("PUT", "/containers/target/archive?path=/tmp", archive.getvalue())[0] == 200
        assert engine.request("GET", "/containers/target/archive?path=/etc")[0] == 200
        assert engine.request("GET", "/containers/target/archive?path=/evil")[0] == 404
        engine.cli("start", "target")
    engine.cli("rm", "-f", "target")
    engine.cli("rmi", "modules")


EVIL = (
    (entry("../../../../../../{place}/a", size=1),),
    (entry("/{place}/b", size=1),),
    (entry("l", tarfile.SYMTYPE, "/{place}"), entry("l/c", size=1)),
    (entry("l", tarfile.SYMTYPE, "../../../../../../../{place}"), entry("l/d", size=1)),
    (entry("h", tarfile.LNKTYPE, "/{place}/victim"), entry("h", size=1)),
    (entry("h", tarfile.LNKTYPE, "../../../../../../../{place}/victim"), entry("h", size=1)),
    (entry("s", tarfile.SYMTYPE, "/{place}/victim"), entry("h", tarfile.LNKTYPE, "s"), entry("h", size=1)),
    (entry("s", tarfile.SYMTYPE, "/{place}/victim"), entry("s", size=1)),
)
"""Archives aimed at `victim` and its folder: by parents, absolute names, links, hard links, links to links."""


def aimed(entries: tuple[tarfile.TarInfo, ...], place: Path) -> bytes:
    found = []
    for each in entries:
        made = entry(each.name.format(place=str(place)[1:]), each.type, each.linkname.format(place=str(place)[1:]))
        made.size = each.size
        found.append(made)
    return layer(*found)


def test_archives_write_nowhere_else(engine: Engine, tmp_path: Path) -> None:
    """IMG, CTR-33: the same entries as a layer, and copied into a stopped and a running container."""
    (tmp_path / "victim").write_text("untouched")
    archives = [aimed(entries, tmp_path) for entries in EVIL]
    for number, archive in enumerate(archives):
        image = image_of(busybox_layer(), archive).docker_archive(f"evil:{number}")
        engine.request("POST", "/images/load", image)
    engine.cli("create", "--name", "target", "busybox", "sleep", "1000")
    for _ in ("stopped", "running"):
        for archive in archives:
            engine.request("PUT", "/containers/target/archive?path=/tmp", archive)
        engine.cli("start", "target")
    assert [path.name for path in tmp_path.iterdir()] == ["victim"]
    assert (tmp_path / "victim").read_text() == "untouched"
    for row in engine.json("/images/json"):
        for tag in row["RepoTags"]:
            if tag.startswith("evil:"):
                engine.request("DELETE", f"/images/{tag}")


def test_device_nodes_of_an_image_open_nothing(engine: Engine) -> None:
    """SEC-12: a node that came in a layer, or was copied in, is refused by the device rules."""
    nodes = (
        entry("mem", tarfile.CHRTYPE, devmajor=1, devminor=1),
        entry("disk", tarfile.BLKTYPE, devmajor=8, devminor=0),
        entry("vda", tarfile.BLKTYPE, devmajor=254, devminor=0),
    )
    load(engine, "nodes", layer(*nodes))
    script = "for n in /mem /disk /vda; do head -c 1 $n 2>&1 | wc -c; head -c 1 $n; done"
    done = engine.cli("run", "--rm", "nodes", "sh", "-c", script, check=False)
    assert done.stderr.count("Operation not permitted") == 3
    engine.cli("rmi", "nodes")


def test_a_file_of_holes_takes_no_room(engine: Engine) -> None:
    """IMG: a layer of a few bytes that says it holds a terabyte."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        hole = entry("holes")
        content = b"1\n1099511627775\n1\n".ljust(512, b"\0") + b"x"
        hole.size = len(content)
        hole.pax_headers = {
            "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "holes",
            "GNU.sparse.realsize": str(1 << 40),
        }  # fmt: skip
        tar.addfile(hole, io.BytesIO(content))
    before = os.statvfs(engine.root).f_bavail
    archive = engine.root / "evil.tar"
    archive.write_bytes(image_of(busybox_layer(), out.getvalue()).docker_archive("holes"))
    loaded = engine.cli("load", "-q", "-i", str(archive), check=False)
    if loaded.returncode == 0:
        shown = engine.out("run", "--rm", "holes", "sh", "-c", "stat -c '%s %b' /holes")
        size, blocks = map(int, shown.split())
        assert size == 1 << 40
        assert blocks < 1000
        engine.cli("rmi", "holes")
    assert before - os.statvfs(engine.root).f_bavail < (256 << 20) // os.statvfs(engine.root).f_frsize


def test_setuid_programs_of_a_volume_give_nothing_with_no_new_privileges(engine: Engine) -> None:
    """SEC-06: with the option a setuid program stays who it was; without it, it does not."""
    engine.cli(
        "run", "--rm", "-v", "tools:/t", *HOST_PROGRAMS, "busybox", "sh", "-c", "cp /usr/bin/id /t; chmod 4755 /t/id"
    )
    run = ("run", "--rm", "-u", "nobody", "-v", "tools:/t", *HOST_PROGRAMS)
    assert engine.out(*run, "--security-opt", "no-new-privileges", "busybox", "/t/id", "-u") == "65534"
    assert engine.out(*run, "busybox", "/t/id", "-u") == "0"


def test_no_release_agent_can_be_set(engine: Engine) -> None:
    """CVE-2022-0492: neither by the cgroup mounts that are there nor by new ones."""
    script = (
        "for f in $(find /sys/fs/cgroup -name release_agent -o -name notify_on_release);"
        "do echo /x > $f && echo wrote; done;"
        "mkdir -p /tmp/c; for o in memory rdma pids; do mount -t cgroup -o $o cgroup /tmp/c && echo mounted; done;"
        "mount -t cgroup2 cgroup /tmp/c && echo mounted;"
        "unshare -UrmC mount -t cgroup -o rdma cgroup /tmp/c && echo mounted;"
        "mkdir /sys/fs/cgroup/x && echo made; echo end"
    )
    assert engine.cli("run", "--rm", "busybox", "sh", "-c", script).stdout == "end\n"


@pytest.mark.parametrize(
    "name",
    [
        "net.//.kernel.core_pattern", "net.ipv4.//.//.kernel.core_pattern", "net//../kernel/core_pattern",
        "net/../kernel/core_pattern", "fs.mqueue.//.//.kernel.core_pattern",
    ],
)  # fmt: skip
def test_a_sysctl_leads_to_no_parameter_of_the_host(engine: Engine, name: str) -> None:
    """CVE-2022-0811: a name that begins as one of a namespace and climbs out of it."""
    parameter = Path("/proc/sys/kernel/core_pattern")
    before = parameter.read_text()
    host = {"Sysctls": {name: "|/tmp/ishmael-was-here"}}
    endpoint = {"DriverOpts": {"com.docker.network.endpoint.sysctls": f"net.ipv4.conf.IFNAME.//.//.//.{name[-19:]}=x"}}
    try:
        for extra in ({"HostConfig": host}, {"NetworkingConfig": {"EndpointsConfig": {"bridge": endpoint}}}):
            body = {"Image": "busybox", "Cmd": ["true"], **extra}
            status, answer = engine.request("POST", "/containers/create?name=climber", body)
            assert status == 400, answer
        assert parameter.read_text() == before
    finally:
        parameter.write_text(before)


def test_the_session_keyring_is_the_containers(engine: Engine) -> None:
    """SEC: keys of the host's session are not in reach, even without a filter; an exec has the container's."""
    open_ = ("--security-opt", "seccomp=unconfined", "--security-opt", "systempaths=unconfined")
    script = "grep -o '_ses.[0-9a-f]*\\|_ses$' /proc/keys | sort -u"
    with detached(engine, *open_, "busybox", "sh", "-c", f"{script} > /own; sleep 1000") as container:
        engine.wait_for(lambda: engine.cli("exec", container, "test", "-s", "/own", check=False).returncode == 0)
        assert f"_ses.{container}" in engine.out("exec", container, "cat", "/own").split()
        assert f"_ses.{container}" in engine.out("exec", container, "sh", "-c", script).split()


def test_nothing_inheritable_and_no_group_of_the_host(engine: Engine) -> None:
    """CVE-2022-29162, CVE-2022-24769: inheritable and ambient sets are empty, the first and the exec's alike."""
    shown = "grep -E '^(CapInh|CapAmb|Groups)' /proc/self/status"
    with detached(engine, "-u", "nobody", "busybox", "sleep", "1000") as container:
        for text in (
            engine.out("exec", container, "sh", "-c", shown),
            engine.out("run", "--rm", "busybox", "sh", "-c", shown),
        ):
            fields = {name: value.split() for name, _, value in (line.partition(":") for line in text.splitlines())}
            assert fields["CapInh"] == fields["CapAmb"] == ["0" * 16]
            assert fields["Groups"] in (["65534"], ["0"])
