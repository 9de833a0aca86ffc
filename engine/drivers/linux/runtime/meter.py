"""LinuxMeter: what a container uses, read from its cgroup (v1 or v2) and its network namespace. Never writes."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

import trio

from engine.drivers.linux.runtime.driver import LinuxRuntime
from engine.drivers.linux.runtime.host import HostFacts
from engine.drivers.ports.runtime import Sample
from engine.errors import Fault, PortError

NETWORK_COLUMNS = (
    (0, "rx_bytes"), (1, "rx_packets"), (2, "rx_errors"), (3, "rx_dropped"),
    (8, "tx_bytes"), (9, "tx_packets"), (10, "tx_errors"), (11, "tx_dropped"),
)  # fmt: skip
TICK_NS = 10_000_000
Block = tuple[tuple[int, int, str, int], ...]


class LinuxMeter:
    """The Meter port. Reads go through `limiter`: cgroup files of many CPUs take a while."""

    def __init__(self, runtime: LinuxRuntime, limiter: trio.CapacityLimiter) -> None:
        self._runtime = runtime
        self._limiter = limiter

    async def sample(self, container_id: str) -> Sample:
        """Raises PortError(NOT_FOUND) when the container has no cgroup (any more)."""
        facts, path = self._runtime.facts, self._runtime.cgroup_of(container_id)
        read = _sample_v1 if facts.version == 1 else _sample_v2
        try:
            return await trio.to_thread.run_sync(read, facts, path, limiter=self._limiter)
        except (FileNotFoundError, ProcessLookupError) as error:
            raise PortError("sample", f"container {container_id} is not running", fault=Fault.NOT_FOUND) from error

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


def _text(path: str) -> str:
    with open(path) as file:
        return file.read()


def _number(path: str, missing: int = 0) -> int:
    try:
        text = _text(path).strip()
    except FileNotFoundError:
        return missing
    return missing if text == "max" else int(text)


def _pairs(path: str) -> dict[str, int]:
    try:
        return {name: int(value) for name, value in (line.split() for line in _text(path).splitlines())}
    except FileNotFoundError:
        return {}


def _memory_of_host() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _sample_v1(facts: HostFacts, path: str) -> Sample:
    memory, pids = facts.mountpoint("memory") + path, facts.mountpoint("pids") + path
    accounting, block = facts.mountpoint("cpuacct") + path, facts.mountpoint("blkio") + path
    ticks = _pairs(accounting + "/cpuacct.stat")
    throttling = _pairs(facts.mountpoint("cpu") + path + "/cpu.stat")
    return Sample(
        read_at_ns=time.time_ns(),
        cpu_total_ns=int(_text(accounting + "/cpuacct.usage")),
        cpu_user_ns=ticks.get("user", 0) * TICK_NS,
        cpu_system_ns=ticks.get("system", 0) * TICK_NS,
        cpu_percpu_ns=tuple(int(word) for word in _text(accounting + "/cpuacct.usage_percpu").split()),
        throttling={
            "periods": throttling.get("nr_periods", 0),
            "throttled_periods": throttling.get("nr_throttled", 0),
            "throttled_time": throttling.get("throttled_time", 0),
        },
        memory_usage=_number(memory + "/memory.usage_in_bytes"),
        memory_max_usage=_number(memory + "/memory.max_usage_in_bytes"),
        memory_limit=min(_number(memory + "/memory.limit_in_bytes"), _memory_of_host()),
        memory_failcnt=_number(memory + "/memory.failcnt"),
        memory_stats=_pairs(memory + "/memory.stat"),
        pids_current=_number(pids + "/pids.current"),
        pids_limit=_number(pids + "/pids.max"),
        blkio_bytes=_block_v1(block + "/blkio.throttle.io_service_bytes_recursive"),
        blkio_ios=_block_v1(block + "/blkio.throttle.io_serviced_recursive"),
        networks=networks(members(pids)),
    )


def _block_v1(path: str) -> Block:
    try:
        lines = _text(path).splitlines()
    except FileNotFoundError:
        return ()
    found = []
    for line in lines:
        words = line.split()
        if len(words) == 3:
            major, _, minor = words[0].partition(":")
            found.append((int(major), int(minor), words[1].lower(), int(words[2])))
    return tuple(found)


def _sample_v2(facts: HostFacts, path: str) -> Sample:
    base = facts.unified + path
    cpu, events = _pairs(base + "/cpu.stat"), _pairs(base + "/memory.events")
    reads, operations = _block_v2(base + "/io.stat")
    return Sample(
        read_at_ns=time.time_ns(),
        cpu_total_ns=cpu["usage_usec"] * 1000,
        cpu_user_ns=cpu.get("user_usec", 0) * 1000,
        cpu_system_ns=cpu.get("system_usec", 0) * 1000,
        throttling={
            "periods": cpu.get("nr_periods", 0),
            "throttled_periods": cpu.get("nr_throttled", 0),
            "throttled_time": cpu.get("throttled_usec", 0) * 1000,
        },
        memory_usage=_number(base + "/memory.current"),
        memory_max_usage=_number(base + "/memory.peak"),
        memory_limit=_number(base + "/memory.max", _memory_of_host()),
        memory_failcnt=events.get("max", 0),
        memory_stats=_pairs(base + "/memory.stat"),
        pids_current=_number(base + "/pids.current"),
        pids_limit=_number(base + "/pids.max"),
        blkio_bytes=reads,
        blkio_ios=operations,
        networks=networks(members(base)),
    )


def _block_v2(path: str) -> tuple[Block, Block]:
    try:
        lines = _text(path).splitlines()
    except FileNotFoundError:
        return (), ()
    moved, operations = [], []
    for line in lines:
        device, *pairs = line.split()
        major, _, minor = device.partition(":")
        values = dict(pair.partition("=")[::2] for pair in pairs)
        for word, name in (("rbytes", "read"), ("wbytes", "write")):
            moved.append((int(major), int(minor), name, int(values.get(word, 0))))
        for word, name in (("rios", "read"), ("wios", "write")):
            operations.append((int(major), int(minor), name, int(values.get(word, 0))))
    return tuple(moved), tuple(operations)


def networks(pids: tuple[int, ...]) -> Mapping[str, Mapping[str, int]]:
    """Counters by interface, without lo, as the container's first living process sees them."""
    for pid in pids:
        try:
            lines = _text(f"/proc/{pid}/net/dev").splitlines()[2:]
        except OSError:
            continue
        found = {}
        for line in lines:
            name, _, counters = line.partition(":")
            numbers = counters.split()
            if name.strip() != "lo":
                found[name.strip()] = {word: int(numbers[column]) for column, word in NETWORK_COLUMNS}
        return found
    return {}
