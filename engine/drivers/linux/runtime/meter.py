"""LinuxMeter: what containers use, read from their cgroups (v1 or v2) and network namespaces. Never writes.

A host full of containers is sampled every second: the files of those that will be asked for again are kept open, and
all containers are read in one turn of one thread.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Mapping

import trio

from engine.drivers.linux.runtime.driver import LinuxRuntime
from engine.drivers.linux.runtime.host import HostFacts
from engine.drivers.ports.runtime import Sample

NETWORK_COLUMNS = (
    (0, "rx_bytes"), (1, "rx_packets"), (2, "rx_errors"), (3, "rx_dropped"),
    (8, "tx_bytes"), (9, "tx_packets"), (10, "tx_errors"), (11, "tx_dropped"),
)  # fmt: skip
TICK_NS = 10_000_000
UNLIMITED = (1 << 64) - 1
READ_BYTES = 16384
Block = tuple[tuple[int, int, str, int], ...]

V1_MEMORY = tuple(
    name.encode()
    for name in (
        "cache rss rss_huge mapped_file dirty writeback pgpgin pgpgout pgfault pgmajfault inactive_anon "
        "active_anon inactive_file active_file unevictable hierarchical_memory_limit hierarchical_memsw_limit "
        "total_cache total_rss total_rss_huge total_mapped_file total_dirty total_writeback total_pgpgin "
        "total_pgpgout total_pgfault total_pgmajfault total_inactive_anon total_active_anon total_inactive_file "
        "total_active_file total_unevictable"
    ).split()
)
V2_MEMORY = tuple(
    name.encode()
    for name in (
        "anon file kernel_stack slab sock shmem file_mapped file_dirty file_writeback anon_thp inactive_anon "
        "active_anon inactive_file active_file unevictable slab_reclaimable slab_unreclaimable pgfault pgmajfault "
        "workingset_refault workingset_activate workingset_nodereclaim pgrefill pgscan pgsteal pgactivate "
        "pgdeactivate pglazyfree pglazyfreed thp_fault_alloc thp_collapse_alloc"
    ).split()
)
"""What `memory_stats.stats` has, as in moby daemon/stats_unix.go: the kernel has more, clients know these."""


class LinuxMeter:
    """The Meter port."""

    def __init__(self, runtime: LinuxRuntime, limiter: trio.CapacityLimiter) -> None:
        self._runtime = runtime
        self._limiter = limiter
        self._kept: dict[str, Gauge] = {}
        self._kept_max = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 32

    async def samples(self, pids: Mapping[str, int], *, again: bool = False) -> Mapping[str, Sample]:
        paths = {container_id: self._runtime.cgroup_of(container_id) for container_id in pids}
        return await trio.to_thread.run_sync(self._samples, pids, paths, again, limiter=self._limiter)

    def _samples(self, pids: Mapping[str, int], paths: Mapping[str, str], again: bool) -> dict[str, Sample]:
        if again:
            for container_id in [known for known in self._kept if known not in pids]:
                self._kept.pop(container_id).close()
        found: dict[str, Sample] = {}
        for container_id, pid in pids.items():
            sample = self._sample(container_id, paths[container_id], pid, keep=again)
            if sample is not None:
                found[container_id] = sample
        return found

    def _sample(self, container_id: str, path: str, pid: int, *, keep: bool) -> Sample | None:
        """None when it has ended. Kept files may be those of an earlier run's group: a fresh look decides."""
        facts = self._runtime.facts
        read = _sample_v1 if facts.version == 1 else _sample_v2
        kept = self._kept.pop(container_id, None) if keep else None
        for gauge in (kept, Gauge()) if kept is not None else (Gauge(),):
            try:
                sample = read(facts, path, pid, gauge)
            except OSError:
                gauge.close()
                continue
            if keep and len(self._kept) < self._kept_max:
                self._kept[container_id] = gauge
            else:
                gauge.close()
            return sample
        return None

    async def processes(self, container_id: str) -> tuple[int, ...]:
        facts, path = self._runtime.facts, self._runtime.cgroup_of(container_id)
        root = facts.mountpoint("pids") or facts.mountpoint("memory") or facts.unified
        return await trio.to_thread.run_sync(members, root + path, limiter=self._limiter)


def members(directory: str) -> tuple[int, ...]:
    """Pids in a group and the groups below it, sorted."""
    found: set[int] = set()
    for here, _, _ in os.walk(directory):
        try:
            with open(here + "/cgroup.procs") as file:
                found.update(int(line) for line in file)
        except OSError:
            continue
    return tuple(sorted(found))


class Gauge:
    """The files of one group. Kept open they cost 2 us to read, against 10 us with an open and a close each time."""

    __slots__ = ("_fds",)

    def __init__(self) -> None:
        self._fds: dict[str, int] = {}

    def read(self, path: str) -> bytes:
        """The whole file. Raises OSError: ENODEV when the group has gone."""
        fd = self._fds.get(path)
        if fd is None:
            fd = self._fds[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        data = os.pread(fd, READ_BYTES, 0)
        while data and len(data) % READ_BYTES == 0:
            more = os.pread(fd, READ_BYTES, len(data))
            if not more:
                break
            data += more
        return data

    def number(self, path: str, unlimited: int = 0) -> int:
        """0 where the kernel has no such file."""
        try:
            data = self.read(path)
        except FileNotFoundError:
            return 0
        return unlimited if data.startswith(b"max") else int(data)

    def pairs(self, path: str) -> dict[bytes, int]:
        """`name value` lines."""
        try:
            return _pairs(self.read(path))
        except FileNotFoundError:
            return {}

    def lines(self, path: str) -> list[str]:
        try:
            return self.read(path).decode().splitlines()
        except FileNotFoundError:
            return []

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()


def _pairs(data: bytes) -> dict[bytes, int]:
    words = data.split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


def _memory_of_host() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _throttling(cpu: Mapping[bytes, int], time_ns: int) -> dict[str, int]:
    return {
        "periods": cpu.get(b"nr_periods", 0),
        "throttled_periods": cpu.get(b"nr_throttled", 0),
        "throttled_time": time_ns,
    }


def _sample_v1(facts: HostFacts, path: str, pid: int, gauge: Gauge) -> Sample:
    memory, pids = facts.mountpoint("memory") + path, facts.mountpoint("pids") + path
    accounting, block = facts.mountpoint("cpuacct") + path, facts.mountpoint("blkio") + path
    ticks = gauge.pairs(accounting + "/cpuacct.stat")
    throttling = gauge.pairs(facts.mountpoint("cpu") + path + "/cpu.stat")
    percpu = tuple(map(int, gauge.read(accounting + "/cpuacct.usage_percpu").split()))
    stats = gauge.pairs(memory + "/memory.stat")
    return Sample(
        read_at_ns=time.time_ns(),
        cpu_total_ns=sum(percpu),
        cpu_user_ns=ticks.get(b"user", 0) * TICK_NS,
        cpu_system_ns=ticks.get(b"system", 0) * TICK_NS,
        cpu_percpu_ns=percpu,
        throttling=_throttling(throttling, throttling.get(b"throttled_time", 0)),
        memory_usage=gauge.number(memory + "/memory.usage_in_bytes"),
        memory_max_usage=gauge.number(memory + "/memory.max_usage_in_bytes"),
        memory_limit=min(gauge.number(memory + "/memory.limit_in_bytes"), _memory_of_host()),
        memory_failcnt=gauge.number(memory + "/memory.failcnt"),
        memory_stats={name.decode(): stats.get(name, 0) for name in V1_MEMORY},
        pids_current=gauge.number(pids + "/pids.current"),
        pids_limit=gauge.number(pids + "/pids.max"),
        blkio_bytes=_block_v1(gauge.lines(block + "/blkio.throttle.io_service_bytes_recursive")),
        blkio_ios=_block_v1(gauge.lines(block + "/blkio.throttle.io_serviced_recursive")),
        networks=networks(pid),
    )


def _block_v1(lines: list[str]) -> Block:
    found = []
    for line in lines:
        words = line.split()
        if len(words) == 3:
            major, _, minor = words[0].partition(":")
            found.append((int(major), int(minor), words[1], int(words[2])))
    return tuple(found)


def _sample_v2(facts: HostFacts, path: str, pid: int, gauge: Gauge) -> Sample:
    base = facts.unified + path
    cpu = _pairs(gauge.read(base + "/cpu.stat"))  # every group has it: without it the group has gone
    limit = gauge.number(base + "/memory.max", UNLIMITED)
    return Sample(
        read_at_ns=time.time_ns(),
        cpu_total_ns=cpu[b"usage_usec"] * 1000,
        cpu_user_ns=cpu.get(b"user_usec", 0) * 1000,
        cpu_system_ns=cpu.get(b"system_usec", 0) * 1000,
        throttling=_throttling(cpu, cpu.get(b"throttled_usec", 0) * 1000),
        memory_usage=gauge.number(base + "/memory.current"),
        memory_limit=min(limit, _memory_of_host()),
        memory_failcnt=gauge.pairs(base + "/memory.events").get(b"oom", 0),
        memory_stats=_memory_v2(gauge.pairs(base + "/memory.stat")),
        pids_current=gauge.number(base + "/pids.current"),
        pids_limit=gauge.number(base + "/pids.max", UNLIMITED),
        blkio_bytes=_block_v2(gauge.lines(base + "/io.stat")),
        networks=networks(pid),
    )


def _memory_v2(stats: Mapping[bytes, int]) -> dict[str, int]:
    """Kernels from 5.9 on count refaults and activations of anonymous memory and of files apart; Docker's keys are the
    sums."""
    found = {}
    for name in V2_MEMORY:
        value = stats.get(name)
        if value is None:
            value = stats.get(name + b"_anon", 0) + stats.get(name + b"_file", 0)
        found[name.decode()] = value
    return found


def _block_v2(lines: list[str]) -> Block:
    moved = []
    for line in lines:
        device, *pairs = line.split()
        major, _, minor = device.partition(":")
        values = dict(pair.partition("=")[::2] for pair in pairs)
        for word, name in (("rbytes", "read"), ("wbytes", "write")):
            moved.append((int(major), int(minor), name, int(values.get(word, 0))))
    return tuple(moved)


def networks(pid: int) -> Mapping[str, Mapping[str, int]]:
    """Counters by interface, without lo, as a process sees them; none for pid 0. Opened anew each time: held open, the
    file would hold the network namespace of a container that ended."""
    if not pid:
        return {}
    gauge = Gauge()
    try:
        lines = gauge.lines(f"/proc/{pid}/net/dev")[2:]
    except OSError:
        return {}
    finally:
        gauge.close()
    found = {}
    for line in lines:
        name, _, counters = line.partition(":")
        numbers = counters.split()
        if name.strip() != "lo":
            found[name.strip()] = {word: int(numbers[column]) for column, word in NETWORK_COLUMNS}
    return found
