"""Limits as a user meets them: set, refused, dropped with a warning, changed while the container runs."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.support.engine import Engine

pytestmark = pytest.mark.root
MIB = 1 << 20
V2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()


def has(v1: str, controller: str) -> bool:
    """Whether this host can limit it: a file of version 1, a controller of version 2."""
    if V2:
        return controller in Path("/sys/fs/cgroup/cgroup.controllers").read_text().split()
    return Path("/sys/fs/cgroup", v1).exists()


def read(engine: Engine, name: str, controller: str, v1: str, v2: str) -> str:
    """A file of a running container's own cgroup, as the container sees it."""
    path = f"/sys/fs/cgroup/{v2}" if V2 else f"/sys/fs/cgroup/{controller}/{v1}"
    return engine.out("exec", name, "cat", path)


def run(engine: Engine, name: str, *options: str) -> None:
    engine.cli("run", "-d", "--name", name, *options, "busybox", "sleep", "1000")


def create(engine: Engine, **host: Any) -> tuple[int, dict[str, Any]]:
    status, body = engine.request("POST", "/containers/create", {"Image": "busybox", "HostConfig": host})
    return status, json.loads(body)


def update(engine: Engine, name: str, **body: Any) -> tuple[int, dict[str, Any]]:
    status, answer = engine.request("POST", f"/containers/{name}/update", body)
    return status, json.loads(answer)


def disk() -> str:
    """A disk of this host."""
    for entry in sorted(Path("/sys/block").iterdir()):
        node = Path("/dev", entry.name)
        if node.exists() and (entry / "device").exists():
            return str(node)
    pytest.skip("this host shows no disk")


# -- set ---------------------------------------------------------------------------------------------------------------


def test_memory_swap_and_reservation(engine: Engine) -> None:
    """RES-02: swap is twice the memory unless said otherwise; -1 is without limit."""
    run(engine, "box-m", "-m", "64m", "--memory-reservation", "32m")
    assert read(engine, "box-m", "memory", "memory.limit_in_bytes", "memory.max") == str(64 * MIB)
    assert read(engine, "box-m", "memory", "memory.soft_limit_in_bytes", "memory.low") == str(32 * MIB)
    told = engine.json("/containers/box-m/json")["HostConfig"]
    assert (told["Memory"], told["MemorySwap"], told["MemoryReservation"]) == (64 * MIB, 128 * MIB, 32 * MIB)
    if engine.json("/info")["SwapLimit"]:
        swap = read(engine, "box-m", "memory", "memory.memsw.limit_in_bytes", "memory.swap.max")
        assert swap == str(64 * MIB if V2 else 128 * MIB)
    engine.cli("create", "--name", "unlimited", "-m", "64m", "--memory-swap", "-1", "busybox")
    assert engine.json("/containers/unlimited/json")["HostConfig"]["MemorySwap"] == -1


def test_cpu_time_and_cpus(engine: Engine) -> None:
    """RES-03: shares, period and quota, and the CPUs themselves."""
    run(engine, "box-c", "-c", "512", "--cpu-period", "50000", "--cpu-quota", "25000", "--cpuset-cpus", "0")
    assert read(engine, "box-c", "cpu", "cpu.shares", "cpu.weight") == ("59" if V2 else "512")
    if V2:
        assert read(engine, "box-c", "cpu", "", "cpu.max") == "25000 50000"
    else:
        assert read(engine, "box-c", "cpu", "cpu.cfs_quota_us", "") == "25000"
        assert read(engine, "box-c", "cpu", "cpu.cfs_period_us", "") == "50000"
    assert read(engine, "box-c", "cpuset", "cpuset.cpus", "cpuset.cpus") == "0"
    assert engine.out("exec", "box-c", "grep", "Cpus_allowed_list", "/proc/self/status").split()[-1] == "0"


def test_processes_and_oom_score(engine: Engine) -> None:
    """RES-04: 0 and -1 are no limit."""
    run(engine, "box-p", "--pids-limit", "50", "--oom-score-adj", "500")
    assert read(engine, "box-p", "pids", "pids.max", "pids.max") == "50"
    assert engine.out("exec", "box-p", "cat", "/proc/self/oom_score_adj") == "500"
    run(engine, "free", "--pids-limit", "-1")
    assert read(engine, "free", "pids", "pids.max", "pids.max") == "max"
    assert engine.json("/containers/free/json")["HostConfig"]["PidsLimit"] is None


def test_block_io_by_device(engine: Engine) -> None:
    """RES-05: bytes and operations per second, by device number in the kernel and by path in what is told."""
    if not has("blkio/blkio.throttle.read_bps_device", "io"):
        pytest.skip("this kernel throttles no devices")
    device = disk()
    number = Path("/sys/block", Path(device).name, "dev").read_text().strip()
    run(
        engine, "io", "--device-read-bps", f"{device}:1mb", "--device-write-bps", f"{device}:2mb",
        "--device-read-iops", f"{device}:100", "--device-write-iops", f"{device}:200",
    )  # fmt: skip
    if V2:
        assert read(engine, "io", "", "", "io.max") == f"{number} rbps=1048576 wbps=2097152 riops=100 wiops=200"
    else:
        for file, rate in (
            ("read_bps", 1048576), ("write_bps", 2097152), ("read_iops", 100), ("write_iops", 200),
        ):  # fmt: skip
            shown = read(engine, "io", "blkio", f"blkio.throttle.{file}_device", "")
            assert shown == f"{number} {rate}"
    assert engine.json("/containers/io/json")["HostConfig"]["BlkioDeviceReadBps"] == [
        {"Path": device, "Rate": 1048576}
    ]


def test_a_device_that_is_not_there_fails_the_start(engine: Engine) -> None:
    """RES-05: in the words of moby's stat."""
    if not has("blkio/blkio.throttle.read_bps_device", "io"):
        pytest.skip("this kernel throttles no devices")
    failed = engine.cli("run", "--name", "no", "--device-read-bps", "/dev/nosuch:1mb", "busybox", "true", check=False)
    assert "stat /dev/nosuch: no such file or directory" in failed.stderr
    assert engine.json("/containers/no/json")["State"]["Status"] == "created"


# -- refused and dropped -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ({"Memory": 4096}, "Minimum memory limit allowed is 6MB"),
        ({"Memory": 64 * MIB, "MemorySwap": 32 * MIB}, "Minimum memoryswap limit should be larger than memory limit"),
        ({"MemorySwap": 64 * MIB}, "You should always set the Memory limit when using Memoryswap limit, see usage"),
        ({"Memory": 8 * MIB, "MemoryReservation": 9 * MIB}, "can not be less than memory reservation limit"),
        ({"NanoCpus": 9999 * 10**9}, "CPUs available"),
        ({"NanoCpus": 10**9, "CpuQuota": 5000}, "Nano CPUs and CPU Quota cannot both be set"),
        ({"CpuPeriod": 10}, "CPU cfs period can not be less than 1ms"),
        ({"CpusetCpus": "4000"}, "Requested CPUs are not available - requested 4000, available: 0"),
        ({"CpusetCpus": "1-9223372036854775807"}, "value of out range, maximum is 8192"),
        ({"CpusetMems": "x"}, "Invalid value x for cpuset mems: invalid format: x"),
        ({"OomScoreAdj": 1001}, "range for oom score adj is [-1000, 1000]"),
        ({"Ulimits": [{"Name": "nofile", "Soft": 9, "Hard": 8}]}, "ulimit soft limit must be less than or equal"),
    ],
)
def test_limits_that_make_no_sense_are_refused(engine: Engine, host: dict[str, Any], words: str) -> None:
    """RES-02..06: 400 in Docker's words, and no container."""
    status, body = create(engine, **host)
    assert status == 400
    assert words in body["message"]
    assert not engine.json("/containers/json?all=1")


def test_what_the_kernel_lacks_is_dropped_with_a_warning(engine: Engine) -> None:
    """RES-08: the container is there, the value is not, and the answer says so."""
    lacking = {"OomKillDisable": True, "MemorySwappiness": 10} if V2 else {"BlkioWeight": 300}
    if not V2 and Path("/sys/fs/cgroup/blkio/blkio.weight").exists():
        pytest.skip("this kernel lacks nothing that is asked for")
    status, body = create(engine, **lacking)
    assert status == 201
    assert len(body["Warnings"]) == len(lacking)
    assert all("discarded" in warning for warning in body["Warnings"])
    told = engine.json(f"/containers/{body['Id']}/json")["HostConfig"]
    assert all(not told[key] for key in lacking)
    assert create(engine, Memory=64 * MIB)[1]["Warnings"] == []


def test_published_ports_on_the_hosts_network_are_warned_of(engine: Engine) -> None:
    """RES-08."""
    _, body = create(engine, NetworkMode="host", PortBindings={"80/tcp": [{"HostPort": "8080"}]})
    assert body["Warnings"] == ["Published ports are discarded when using host network mode"]


def test_info_tells_what_this_host_can_limit(engine: Engine) -> None:
    """RES-08: each flag by the file behind it."""
    info = engine.json("/info")
    assert info["CgroupVersion"] == ("2" if V2 else "1")
    for key, v1, controller in (
        ("MemoryLimit", "memory/memory.limit_in_bytes", "memory"),
        ("CpuCfsQuota", "cpu/cpu.cfs_quota_us", "cpu"),
        ("CPUShares", "cpu/cpu.shares", "cpu"),
        ("CPUSet", "cpuset/cpuset.cpus", "cpuset"),
        ("PidsLimit", "pids", "pids"),
    ):
        assert info[key] == has(v1, controller), key
    assert info["OomKillDisable"] == (not V2 and has("memory/memory.oom_control", ""))
    assert any("cgroup v1 is deprecated" in warning for warning in info["Warnings"]) == (not V2)


# -- changed -----------------------------------------------------------------------------------------------------------


def test_limits_of_a_running_container_change_at_once(engine: Engine) -> None:
    """CTR-28: in both directions, whatever order the kernel wants, and it is told what is."""
    run(engine, "box-u", "-m", "64m", "--cpus", "1")
    for memory, swap in ((256, 512), (32, 64)):
        assert update(engine, "box-u", Memory=memory * MIB, MemorySwap=swap * MIB) == (200, {"Warnings": None})
        assert read(engine, "box-u", "memory", "memory.limit_in_bytes", "memory.max") == str(memory * MIB)
    engine.cli("update", "--cpus", "0.5", "--pids-limit", "40", "--cpuset-cpus", "0", "-c", "512", "box-u")
    assert read(engine, "box-u", "cpu", "cpu.cfs_quota_us", "cpu.max").split()[0] == "50000"
    assert read(engine, "box-u", "pids", "pids.max", "pids.max") == "40"
    assert read(engine, "box-u", "cpuset", "cpuset.cpus", "cpuset.cpus") == "0"
    engine.cli("update", "--pids-limit", "-1", "box-u")
    assert read(engine, "box-u", "pids", "pids.max", "pids.max") == "max"
    told = engine.json("/containers/box-u/json")["HostConfig"]
    assert (told["Memory"], told["MemorySwap"], told["NanoCpus"], told["PidsLimit"]) == (
        32 * MIB, 64 * MIB, 500_000_000, 0,
    )  # fmt: skip


def test_an_update_that_the_kernel_refuses_leaves_nothing_behind(engine: Engine) -> None:
    """CTR-28: memory in use cannot be taken away; then no other limit of the request is in force either."""
    hold = "a=$(head -c 30000000 /dev/zero | tr '\\0' x); echo held; sleep 1000; true"
    engine.cli("run", "-d", "--name", "full", "-m", "128m", "--memory-swap", "128m", "busybox", "sh", "-c", hold)
    engine.wait_for(lambda: "held" in engine.out("logs", "full"))
    status, body = update(engine, "full", Memory=8 * MIB, MemorySwap=8 * MIB, PidsLimit=33)
    assert status == 500
    assert body["message"].startswith("Cannot update container ")
    assert "unable to set memory limit to 8388608 (current usage: " in body["message"]
    assert read(engine, "full", "memory", "memory.limit_in_bytes", "memory.max") == str(128 * MIB)
    assert read(engine, "full", "pids", "pids.max", "pids.max") != "33"
    told = engine.json("/containers/full/json")
    assert (told["HostConfig"]["Memory"], told["HostConfig"]["PidsLimit"]) == (128 * MIB, None)
    assert told["State"]["Running"]
    assert "update failed" in engine.replay("log").stdout


def test_an_update_against_what_is_set_is_a_conflict(engine: Engine) -> None:
    """CTR-28: 409 in Docker's words."""
    run(engine, "box-n", "--cpus", "1", "-m", "64m")
    for given, words in (
        ({"CpuQuota": 5000}, "CPU Quota cannot be updated as NanoCPUs has already been set"),
        ({"CpuPeriod": 5000}, "CPU Period cannot be updated as NanoCPUs has already been set"),
        ({"Memory": 256 * MIB}, "Memory limit should be smaller than already set memoryswap limit"),
    ):
        status, body = update(engine, "box-n", **given)
        assert (status, words in body["message"]) == (409, True), body
    engine.cli("run", "-d", "--rm", "--name", "box-r", "busybox", "sleep", "1000")
    status, body = update(engine, "box-r", RestartPolicy={"Name": "always"})
    assert (status, "AutoRemove is enabled" in body["message"]) == (409, True)


def test_an_update_waits_for_the_next_start_of_a_stopped_container(engine: Engine) -> None:
    """CTR-28."""
    engine.cli("create", "--name", "later", "-m", "64m", "busybox", "sleep", "1000")
    assert update(engine, "later", Memory=32 * MIB)[0] == 200
    engine.cli("start", "later")
    assert read(engine, "later", "memory", "memory.limit_in_bytes", "memory.max") == str(32 * MIB)


def test_what_an_update_can_not_change_is_said(engine: Engine) -> None:
    """CTR-28: dropped, with a warning."""
    run(engine, "box-w")
    status, body = update(engine, "box-w", CgroupParent="/elsewhere", CpuShares=100)
    assert status == 200
    assert body["Warnings"] == ["CgroupParent: cannot be changed by an update. Discarded."]
    assert engine.json("/containers/box-w/json")["HostConfig"]["CpuShares"] == 100


# -- watched -----------------------------------------------------------------------------------------------------------

CPU_KEYS = {"cpu_usage", "system_cpu_usage", "online_cpus", "throttling_data"}
USAGE_KEYS = {"total_usage", "usage_in_kernelmode", "usage_in_usermode"}


class Stream:
    """`GET /containers/{name}/stats`, a document at a time."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(60)
        self._sock.connect(str(engine.socket))
        self._sock.sendall(f"GET /containers/{name}/stats HTTP/1.1\r\nHost: docker\r\n\r\n".encode())
        self._response = http.client.HTTPResponse(self._sock)
        self._response.begin()

    def next(self) -> dict[str, Any] | None:
        """None at the end of the stream."""
        line = self._response.readline()
        return json.loads(line) if line else None

    def close(self) -> None:
        self._response.close()
        self._sock.close()


def test_a_document_of_stats_has_dockers_keys(engine: Engine) -> None:
    """CTR-26: those of this host's cgroup version, and figures of two readings a second apart."""
    run(engine, "busy", "-m", "64m", "--pids-limit", "30")
    document = engine.json("/containers/busy/stats?stream=0")
    assert set(document) == {
        "name", "id", "os_type", "read", "preread", "cpu_stats", "precpu_stats", "memory_stats", "pids_stats",
        "blkio_stats", "networks", "num_procs", "storage_stats",
    }  # fmt: skip
    assert set(document["cpu_stats"]) == set(document["precpu_stats"]) == CPU_KEYS
    assert set(document["cpu_stats"]["cpu_usage"]) == USAGE_KEYS | (set() if V2 else {"percpu_usage"})
    assert document["cpu_stats"]["system_cpu_usage"] > document["precpu_stats"]["system_cpu_usage"]
    assert document["read"] > document["preread"] > "2000"
    memory = document["memory_stats"]
    assert {"usage", "limit", "stats"} <= set(memory)
    assert memory["limit"] == 64 * MIB
    assert len(memory["stats"]) == (31 if V2 else 32)
    assert ("anon" in memory["stats"], "total_rss" in memory["stats"]) == (V2, not V2)
    assert document["pids_stats"] == {"current": 1, "limit": 30}
    assert set(document["networks"]) == {"eth0"}
    assert len(document["blkio_stats"]) == 8
    assert (document["blkio_stats"]["io_wait_time_recursive"] is None) == V2


def test_one_shot_is_one_reading_of_now(engine: Engine) -> None:
    """CTR-26: it has nothing before it, and does not wait for a second."""
    run(engine, "busy", "--network", "host")
    document = engine.json("/containers/busy/stats?stream=0&one-shot=1")
    assert document["preread"] == "0001-01-01T00:00:00Z"
    assert document["precpu_stats"]["cpu_usage"]["total_usage"] == 0
    assert document["cpu_stats"]["cpu_usage"]["total_usage"] > 0
    assert "networks" not in document, "the host's own interfaces are not the container's"


def test_a_stream_goes_on_over_a_restart_and_ends_with_the_container(engine: Engine) -> None:
    """CTR-26: empty documents while it does not run, the end when it is removed."""
    run(engine, "busy")
    stream = Stream(engine, "busy")
    first, second = stream.next(), stream.next()
    assert first is not None
    assert second is not None
    assert first["preread"] == "0001-01-01T00:00:00Z"
    assert second["preread"] == first["read"]
    assert second["precpu_stats"] == first["cpu_stats"]
    engine.cli("stop", "-t", "0", "busy")
    engine.wait_for(lambda: (stream.next() or {}).get("memory_stats") == {})
    engine.cli("start", "busy")
    engine.wait_for(lambda: (stream.next() or {}).get("pids_stats") == {"current": 1} or V2)
    engine.cli("rm", "-f", "busy")
    engine.wait_for(lambda: stream.next() is None)
    stream.close()


def test_a_container_that_does_not_run_has_one_empty_document(engine: Engine) -> None:
    """CTR-26: in a stream, too."""
    engine.cli("create", "--name", "idle", "busybox", "true")
    stream = Stream(engine, "idle")
    document = stream.next()
    assert document is not None
    assert (document["read"], document["memory_stats"], document["pids_stats"]) == ("0001-01-01T00:00:00Z", {}, {})
    assert document["cpu_stats"] == {
        "cpu_usage": dict.fromkeys(USAGE_KEYS, 0),
        "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
    }
    assert stream.next() is None
    stream.close()
    assert engine.json("/containers/idle/stats?stream=0")["memory_stats"] == {}


# -- out of memory -----------------------------------------------------------------------------------------------------


def test_an_eater_in_a_group_of_the_containers_own_counts(engine: Engine) -> None:
    """CTR-19: a container that makes cgroups was short of memory when one of them was."""
    group = "/sys/fs/cgroup" if V2 else "/sys/fs/cgroup/memory"
    prepare = "mkdir init; echo 1 > init/cgroup.procs; echo +memory > cgroup.subtree_control;" if V2 else ""
    limit = "memory.max" if V2 else "memory.limit_in_bytes"
    eat = "echo $$ > inner/cgroup.procs; head -c 100000000 /dev/zero | tail > /dev/null"
    script = (
        f"cd {group}; {prepare} mkdir inner; echo 16777216 > inner/{limit}; echo 0 > inner/memory.swap.max;"
        f"sh -c '{eat}'; sleep 0"
    )
    engine.cli("run", "--name", "nested", "--privileged", "--cgroupns", "private", "busybox", "sh", "-c", script)
    told = engine.json("/containers/nested/json")["State"]
    assert (told["OOMKilled"], told["ExitCode"]) == (True, 0)


def test_a_limit_that_the_host_does_not_have(engine: Engine) -> None:
    """RES-06: in runc's words."""
    failed = engine.cli("run", "--rm", "--ulimit", "nofile=99999999999", "busybox", "true", check=False)
    assert failed.returncode == 125
    assert "error setting rlimit type 7: operation not permitted" in failed.stderr
