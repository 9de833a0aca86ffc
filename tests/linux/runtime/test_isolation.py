"""What a process sees from inside its container: the whole of Docker's default confinement, one fact at a time."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace

from engine.aggregates.values.config import ContainerConfig, HostConfig, Ulimit
from engine.aggregates.values.mounts import MountPoint
from engine.drivers.ports.runtime import Launch
from engine.oci import spec as oci
from tests.support.containers import Harbour, logged

pytestmark = pytest.mark.root
PRIVATE = HostConfig(cgroupns_mode="private", ipc_mode="private", shm_size=64 << 20)


async def inside(port: Harbour, script: str, **options: object) -> str:
    launch = port.launch("sh", "-c", "exec 2>&1; " + script, **options)  # type: ignore[arg-type]  # keywords vary
    await port.run(launch)
    return logged(launch)


async def status(port: Harbour, **options: object) -> dict[str, str]:
    text = await inside(port, "cat /proc/self/status", **options)
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


async def test_fourteen_capabilities_and_a_filter(port: Harbour) -> None:
    found = await status(port)
    assert [found[f"Cap{name}"] for name in ("Eff", "Prm", "Bnd")] == ["00000000a80425fb"] * 3
    assert found["CapAmb"] == found["CapInh"] == "0" * 16
    assert (found["Seccomp"], found["NoNewPrivs"]) == ("2", "0")


async def test_another_user_has_no_effective_capability(port: Harbour) -> None:
    found = await status(port, identity=oci.Identity(uid=1000, gid=1000, additional_gids=(1000, 2000)))
    assert found["Uid"].split() == found["Gid"].split() == ["1000"] * 4
    assert found["Groups"].split() == ["1000", "2000"]
    assert (found["CapEff"], found["CapBnd"]) == ("0" * 16, "00000000a80425fb")
    assert found["Seccomp"] == "2"


async def test_no_new_privileges(port: Harbour) -> None:
    assert (await status(port, host=replace(PRIVATE, security_opt=("no-new-privileges",))))["NoNewPrivs"] == "1"


async def test_unconfined_has_no_filter(port: Harbour) -> None:
    assert (await status(port, host=replace(PRIVATE, security_opt=("seccomp=unconfined",))))["Seccomp"] == "0"


async def test_the_filter_refuses_what_dockers_refuses(port: Harbour) -> None:
    text = await inside(port, "mount -t tmpfs x /tmp 2>&1; unshare -U true 2>&1; swapoff /x 2>&1; dmesg 2>&1 | head -1")
    assert text.count("Operation not permitted") + text.count("permission denied") >= 4


async def test_masked_paths_are_empty_and_readonly_ones_are_not_writable(port: Harbour) -> None:
    text = await inside(
        port,
        "ls /sys/firmware | wc -l; cat /proc/interrupts | wc -c; cat /proc/keys | wc -c; cat /proc/timer_list | wc -c;"
        "echo 1 > /proc/sys/kernel/panic; mkdir /sys/x; mkdir /sys/fs/cgroup/x",
    )
    assert text.split()[:4] == ["0"] * 4
    assert text.count("Read-only file system") == 3


async def test_the_usual_devices_and_no_others(port: Harbour) -> None:
    text = await inside(
        port, "ls -F /dev | tr '\\n' ' '; echo; mknod /dev/mine b 7 0; cat /dev/mine; head -c 3 /dev/zero | wc -c"
    )
    # As runc: a link to /proc/kcore only where the kernel has one.
    core = "core@ " if os.path.exists("/proc/kcore") else ""
    names = core + "fd@ full mqueue/ null ptmx@ pts/ random shm/ stderr@ stdin@ stdout@ tty urandom zero"
    assert text.splitlines()[0].split() == names.split()
    assert "Operation not permitted" in text
    assert text.splitlines()[-1] == "3"


async def test_the_hosts_mounts_and_descriptors_stay_outside(port: Harbour, tmp_path: Path) -> None:
    text = await inside(port, "cat /proc/self/mountinfo; echo; ls /proc/self/fd | wc -l")
    mounts, _, descriptors = text.rpartition("\n\n")
    points = {line.split()[4] for line in mounts.splitlines()}
    assert all(point == "/" or point.startswith(("/proc", "/sys", "/dev")) for point in points)
    assert descriptors.strip() == "4"  # 0, 1, 2 and the directory that ls reads


async def test_namespaces_are_its_own(port: Harbour) -> None:
    text = await inside(
        port, "for n in pid ipc uts net mnt cgroup; do readlink /proc/self/ns/$n; done; echo $$; hostname"
    )
    lines = text.splitlines()
    assert all(os.readlink(f"/proc/self/ns/{line.partition(':')[0]}") != line for line in lines[:6])
    assert lines[6] == "1"


async def test_only_loopback_and_it_is_up(port: Harbour) -> None:
    text = await inside(port, "ip -o addr; ping -c1 -W2 127.0.0.1 | grep -c '1 packets received'")
    assert "127.0.0.1/8" in text
    assert text.splitlines()[-1] == "1"


def own_group(port: Harbour) -> str:
    """Where a container finds its pids controller."""
    return "/sys/fs/cgroup/pids" if port.runtime.facts.version == 1 else "/sys/fs/cgroup"


async def test_cgroup_tree_shows_only_its_own_group(port: Harbour) -> None:
    script = f"cat /proc/1/cgroup; cat {own_group(port)}/pids.max"
    text = await inside(port, script, host=replace(PRIVATE, pids_limit=77))
    assert all(line.endswith(":/") for line in text.splitlines()[:-1])
    assert text.splitlines()[-1] == "77"


async def test_without_a_cgroup_namespace_v1_binds_its_group(port: Harbour) -> None:
    if port.runtime.facts.version != 1:
        pytest.skip("v2 shows the host's tree there, as runc does")
    host = replace(PRIVATE, cgroupns_mode="host", pids_limit=78)
    text = await inside(port, "cat /sys/fs/cgroup/pids/pids.max; cat /proc/self/cgroup | grep pids", host=host)
    assert text.startswith("78\n")
    assert "/docker/" in text


async def test_readonly_rootfs_with_writable_tmpfs_and_volume(port: Harbour, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    mounts = (
        MountPoint(type="bind", source=str(tmp_path / "source"), destination="/data/deep"),
        MountPoint(type="tmpfs", destination="/scratch", options=("size=1m", "mode=1777")),
    )
    host = replace(PRIVATE, readonly_rootfs=True)
    script = "touch /x; touch /etc/x; touch /data/deep/x /scratch/x && echo written; df -k /scratch | tail -1"
    text = await inside(port, script, host=host, mounts=mounts)
    assert text.count("Read-only file system") == 2
    assert "written" in text
    assert " 1024 " in text
    assert (tmp_path / "source/x").exists()


async def test_a_readonly_bind_of_a_file_shows_and_refuses_writes(port: Harbour, tmp_path: Path) -> None:
    (tmp_path / "note").write_text("moby\n")
    mount = MountPoint(type="bind", source=str(tmp_path / "note"), destination="/etc/note", rw=False)
    text = await inside(port, "cat /etc/note; echo x > /etc/note", mounts=(mount,))
    assert text.startswith("moby\n")
    assert "Read-only file system" in text


async def test_a_link_in_the_image_can_not_lead_a_mount_outside(port: Harbour, tmp_path: Path, layer: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "source").mkdir()
    (tmp_path / "source/secret").write_text("x")
    launch = port.launch(
        "sh",
        "-c",
        f"ls {outside}/sub",
        mounts=(MountPoint(type="bind", source=str(tmp_path / "source"), destination="/evil/sub"),),
    )
    os.symlink(outside, Path(launch.rootfs.upper) / "evil")
    await port.run(launch)
    assert logged(launch) == "secret\n"
    assert list(outside.iterdir()) == []


async def test_working_directory_environment_limits_and_umask(port: Harbour) -> None:
    config = ContainerConfig(working_dir="/made/up")
    host = replace(PRIVATE, ulimits=(Ulimit(name="nofile", soft=100, hard=200),), oom_score_adj=500)
    text = await inside(
        port,
        "pwd; echo $GREETING; ulimit -n; ulimit -Hn; umask; cat /proc/self/oom_score_adj",
        config=config,
        host=host,
        env=("GREETING=call me=Ishmael",),
    )
    assert text.splitlines() == ["/made/up", "call me=Ishmael", "100", "200", "0022", "500"]


async def test_sysctls_and_shm_size(port: Harbour) -> None:
    host = replace(PRIVATE, sysctls={"net.ipv4.ip_forward": "1", "kernel.msgmax": "4096"}, shm_size=1 << 20)
    text = await inside(
        port, "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax; df -k /dev/shm | tail -1", host=host
    )
    assert text.splitlines()[:2] == ["1", "4096"]
    assert " 1024 " in text


async def test_privileged_has_everything(port: Harbour) -> None:
    host = replace(PRIVATE, privileged=True)
    found = await status(port, host=host)
    assert int(found["CapEff"], 16).bit_count() >= 39
    assert found["Seccomp"] == "0"
    text = await inside(
        port,
        f"mkdir {own_group(port)}/mine && rmdir {own_group(port)}/mine && echo rw;"
        "mount -t tmpfs x /tmp && echo mounted; grep -q . /proc/interrupts && echo unmasked",
        host=host,
    )
    assert text.split() == ["rw", "mounted", "unmasked"]


async def donor(port: Harbour) -> tuple[Launch, int]:
    launch = port.launch(
        "sh", "-c", "echo shared > /dev/shm/word; exec sleep 60", host=replace(PRIVATE, ipc_mode="shareable")
    )
    return launch, await port.runtime.start(launch)


async def test_namespaces_of_another_container_are_joined(port: Harbour) -> None:
    first, pid = await donor(port)
    shared = oci.Shared(
        pid=f"/proc/{pid}/ns/pid",
        ipc=f"/proc/{pid}/ns/ipc",
        network=f"/proc/{pid}/ns/net",
        shm=f"/proc/{pid}/root/dev/shm",
    )
    text = await inside(
        port,
        "cat /proc/1/comm; readlink /proc/self/ns/ipc; cat /dev/shm/word; readlink /proc/self/ns/net",
        shared=shared,
    )
    assert text.splitlines() == [
        "sleep",
        os.readlink(f"/proc/{pid}/ns/ipc"),
        "shared",
        os.readlink(f"/proc/{pid}/ns/net"),
    ]


async def test_with_the_hosts_pids_everything_of_the_container_ends_with_its_first_process(port: Harbour) -> None:
    launch = port.launch("sh", "-c", "sleep 61 & echo $!", host=replace(PRIVATE, pid_mode="host"))
    await port.runtime.start(launch)
    await port.exit_of(launch)
    await port.runtime.drained(launch.container_id, 1)
    with trio.fail_after(5):
        while os.path.exists(f"/proc/{logged(launch).strip()}"):
            await trio.sleep(0.02)


async def test_shared_propagation_carries_a_mount_back(port: Harbour, tmp_path: Path) -> None:
    place = tmp_path / "shared"
    place.mkdir()
    subprocess.run(["mount", "--bind", place, place], check=True)
    try:
        subprocess.run(["mount", "--make-shared", place], check=True)
        (place / "sub").mkdir()
        launch = port.launch(
            "sh",
            "-c",
            "mount -t tmpfs x /m/sub && touch /m/sub/seen && sleep 60",
            host=replace(PRIVATE, privileged=True),
            mounts=(MountPoint(type="bind", source=str(place), destination="/m", propagation="rshared"),),
        )
        launch.spec["linux"]["rootfsPropagation"] = "shared"
        await port.runtime.start(launch)
        with trio.fail_after(5):
            while not (place / "sub/seen").exists():
                await trio.sleep(0.02)
        assert "overlay" not in "".join(
            line for line in Path("/proc/self/mountinfo").read_text().splitlines() if launch.container_id in line
        )
    finally:
        subprocess.run(["umount", "-R", "-l", place], check=False)


async def test_many_layers_are_mounted(port: Harbour, tmp_path: Path) -> None:
    launch = port.launch("sh", "-c", "ls /marks | wc -l")
    layers = []
    for number in range(100):
        marks = tmp_path / f"layers/{number:064d}/diff/marks"
        marks.mkdir(parents=True)
        (marks / str(number)).touch()
        layers.append(str(marks.parent))
    rootfs = replace(launch.rootfs, lowers=(*layers, *launch.rootfs.lowers))
    assert await port.run(replace(launch, rootfs=rootfs)) == (0, "100\n")
