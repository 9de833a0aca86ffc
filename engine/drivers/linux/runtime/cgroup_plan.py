"""From `linux.resources` of an OCI spec to directories and writes, for cgroup v1 and v2. Pure.

Owns: the translation of limits, the default device rules every container gets. Refuses to know: whether a limit is
sensible (rules.py said so before), and the file system; what a host lacks, HostFacts tells.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from engine.drivers.linux.runtime.device_program import DeviceRule, compile_rules
from engine.drivers.linux.runtime.host import HostFacts

ALWAYS_ALLOWED: tuple[DeviceRule, ...] = (
    DeviceRule(allow=True, type="c", access="m"),
    DeviceRule(allow=True, type="b", access="m"),
    *(DeviceRule(allow=True, type="c", major=1, minor=minor) for minor in (3, 5, 7, 8, 9)),
    *(DeviceRule(allow=True, type="c", major=5, minor=minor) for minor in (0, 2)),
    DeviceRule(allow=True, type="c", major=136),
    DeviceRule(allow=True, type="c", major=10, minor=200),
)
"""What runc allows whatever the spec says: making nodes, the harmless six, terminals; and tun, which VPNs in containers
count on (runc took it away in 1.2.0 and gave it back in 1.2.4)."""

Write = tuple[str, bytes]


def group_plan(facts: HostFacts, path: str, resources: Mapping[str, Any], *, made: bool = False) -> dict[str, Any]:
    """Everything the supervisor does about a container's cgroup. `path`: below every root, `/docker/<id>`. made: the
    group is there already (systemd makes its scopes itself)."""
    trees, join, writes = [], [], []
    for hierarchy in facts.hierarchies:
        controller = "cpuset" if "cpuset" in hierarchy.controllers else hierarchy.name
        trees.append({"root": hierarchy.mountpoint, "path": path, "controller": controller})
        join.append(f"{hierarchy.mountpoint}{path}/tasks")
    if facts.unified:
        trees.append({"root": facts.unified, "path": path, "controller": "unified"})
    rules = device_rules(resources.get("devices") or ())
    for file, data in limit_writes(facts, path, resources):
        writes.append((file, data))
    if facts.version == 1 and facts.mountpoint("devices"):
        base = facts.mountpoint("devices") + path
        writes += [(f"{base}/devices.{'allow' if r.allow else 'deny'}", r.text.encode()) for r in rules]
    if facts.version == 1:
        oom = facts.mountpoint("memory") + path + "/memory.oom_control"
    else:
        oom = facts.unified + path + "/memory.events"
    return {
        "made": made,
        "trees": trees,
        "join": join,
        "writes": writes,
        "into": facts.unified + path if facts.unified else "",
        "oom": oom,
        "device_program": compile_rules(rules) if facts.version == 2 else b"",
    }


def device_rules(devices: Sequence[Mapping[str, Any]]) -> tuple[DeviceRule, ...]:
    rules = tuple(
        DeviceRule(
            allow=bool(entry.get("allow")),
            type=entry.get("type") or "a",
            major=_number(entry.get("major")),
            minor=_number(entry.get("minor")),
            access=entry.get("access") or "rwm",
        )
        for entry in devices
    )
    if any(rule.allow and rule.type == "a" for rule in rules):
        return rules
    return rules + ALWAYS_ALLOWED


def _number(value: int | None) -> int:
    return -1 if value is None else value


def limit_writes(facts: HostFacts, path: str, resources: Mapping[str, Any]) -> list[Write]:
    """The writes that set the limits named in `resources`; those not named stay as they are (for `update`)."""
    if facts.version == 1:
        return _v1(facts, path, resources)
    return _v2(facts.unified + path, facts, resources)


def _section(resources: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return resources.get(name) or {}


def _v1(facts: HostFacts, path: str, resources: Mapping[str, Any]) -> list[Write]:
    writes: list[Write] = []

    def put(controller: str, file: str, value: Any) -> None:
        root = facts.mountpoint(controller)
        if value is not None and root:
            writes.append((f"{root}{path}/{file}", str(value).encode()))

    memory, cpu = _section(resources, "memory"), _section(resources, "cpu")
    put("memory", "memory.limit_in_bytes", memory.get("limit"))
    if facts.memory_swap:
        put("memory", "memory.memsw.limit_in_bytes", memory.get("swap"))
    put("memory", "memory.soft_limit_in_bytes", memory.get("reservation"))
    put("memory", "memory.swappiness", memory.get("swappiness"))
    if memory.get("disableOOMKiller"):
        put("memory", "memory.oom_control", 1)
    put("cpu", "cpu.shares", cpu.get("shares"))
    put("cpu", "cpu.cfs_period_us", cpu.get("period"))
    put("cpu", "cpu.cfs_quota_us", cpu.get("quota"))
    put("cpu", "cpu.rt_period_us", cpu.get("realtimePeriod"))
    put("cpu", "cpu.rt_runtime_us", cpu.get("realtimeRuntime"))
    put("cpuset", "cpuset.cpus", cpu.get("cpus") or None)
    put("cpuset", "cpuset.mems", cpu.get("mems") or None)
    put("pids", "pids.max", _pids(resources))
    for file, value in _v1_block(facts.block_weight, _section(resources, "blockIO")):
        put("blkio", file, value)
    for entry in resources.get("hugepageLimits") or ():
        put("hugetlb", f"hugetlb.{entry['pageSize']}.limit_in_bytes", entry["limit"])
    return writes


def _pids(resources: Mapping[str, Any]) -> str | None:
    limit = _section(resources, "pids").get("limit")
    if limit is None:
        return None
    return str(limit) if limit > 0 else "max"


_THROTTLES = (
    ("throttleReadBpsDevice", "blkio.throttle.read_bps_device", "rbps"),
    ("throttleWriteBpsDevice", "blkio.throttle.write_bps_device", "wbps"),
    ("throttleReadIOPSDevice", "blkio.throttle.read_iops_device", "riops"),
    ("throttleWriteIOPSDevice", "blkio.throttle.write_iops_device", "wiops"),
)


def _v1_block(weight_file: str, block: Mapping[str, Any]) -> list[tuple[str, str]]:
    writes = []
    if block.get("weight"):
        writes.append((weight_file or "blkio.weight", str(block["weight"])))
    for entry in block.get("weightDevice") or ():
        writes.append(
            (f"{weight_file or 'blkio.weight'}_device", f"{entry['major']}:{entry['minor']} {entry['weight']}")
        )
    for key, file, _ in _THROTTLES:
        for entry in block.get(key) or ():
            writes.append((file, f"{entry['major']}:{entry['minor']} {entry['rate']}"))
    return writes


def cpu_weight(shares: int) -> int:
    """v1's shares (2..262144, usually 1024) as v2's weight (1..10000, usually 100): least, greatest and usual meet.
    Source: opencontainers/cgroups ConvertCPUSharesToCgroupV2Value."""
    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    log = math.log2(shares)
    return math.ceil(10 ** ((log * log + 125 * log) / 612 - 7 / 34))


def io_weight(weight: int) -> int:
    """10..1000 as io.weight's 1..10000."""
    return 1 + (weight - 10) * 9999 // 990


def _v2(base: str, facts: HostFacts, resources: Mapping[str, Any]) -> list[Write]:
    writes: list[Write] = []

    def put(file: str, value: Any) -> None:
        if value is not None:
            writes.append((f"{base}/{file}", str(value).encode()))

    memory, cpu = _section(resources, "memory"), _section(resources, "cpu")
    if facts.memory_swap:
        put("memory.swap.max", swap_alone(memory))
    put("memory.max", _or_max(memory.get("limit")))
    put("memory.low", memory.get("reservation"))
    if cpu.get("shares"):
        put("cpu.weight", cpu_weight(cpu["shares"]))
    if cpu.get("quota") is not None or cpu.get("period") is not None:
        quota = cpu.get("quota")
        put("cpu.max", f"{quota if quota and quota > 0 else 'max'} {cpu.get('period') or 100000}")
    put("cpuset.cpus", cpu.get("cpus") or None)
    put("cpuset.mems", cpu.get("mems") or None)
    put("pids.max", _pids(resources))
    block = _section(resources, "blockIO")
    weighing = facts.block_weight or "io.weight"
    scale = io_weight if weighing == "io.weight" else int
    if block.get("weight"):
        put(weighing, scale(block["weight"]))
    for entry in block.get("weightDevice") or ():
        put(weighing, f"{entry['major']}:{entry['minor']} {scale(entry['weight'])}")
    for key, _, word in _THROTTLES:
        for entry in block.get(key) or ():
            put("io.max", f"{entry['major']}:{entry['minor']} {word}={entry['rate']}")
    for entry in resources.get("hugepageLimits") or ():
        put(f"hugetlb.{entry['pageSize']}.max", entry["limit"])
    return writes


def _or_max(value: int | None) -> int | str | None:
    return "max" if value is not None and value < 0 else value


def swap_alone(memory: Mapping[str, Any]) -> int | str | None:
    """Docker counts memory and swap together, v2 counts swap alone."""
    swap, limit = memory.get("swap"), memory.get("limit")
    if swap is None:
        return None
    if swap < 0:
        return "max"
    return max(swap - limit, 0) if limit and limit > 0 else None
