"""From `linux.resources` of an OCI spec to a systemd scope: its name, its place and its properties. Pure.

The cgroup files are written as with the other driver (cgroup_plan.py); the properties say the same to systemd, which
owns the group and writes them again whenever it likes (`systemctl daemon-reload`).
Source: opencontainers/cgroups systemd/v2.go, systemd/devices.go; systemd.resource-control(5).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from engine.aggregates.values.cpusets import numbers
from engine.drivers.linux.runtime.cgroup_plan import cpu_weight, io_weight, swap_alone
from engine.drivers.linux.runtime.device_program import DeviceRule

Property = tuple[str, tuple[str, Any]]
"""Name, and a variant as (signature, value)."""

INFINITY = (1 << 64) - 1
PERIOD_US = 100_000
PERCENT_US = 10_000
_IO_MAX = {
    "throttleReadBpsDevice": "IOReadBandwidthMax",
    "throttleWriteBpsDevice": "IOWriteBandwidthMax",
    "throttleReadIOPSDevice": "IOReadIOPSMax",
    "throttleWriteIOPSDevice": "IOWriteIOPSMax",
}


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """A transient unit. slice: the unit it is in."""

    name: str
    slice: str

    @property
    def path(self) -> str:
        """Below the root of the v2 hierarchy."""
        return f"{slice_path(self.slice)}/{self.name}"

    @classmethod
    def at(cls, path: str) -> Scope | None:
        """The scope whose group has this path; None for the path of a group that is nobody's unit."""
        slice_, _, name = path.rpartition("/")
        slice_ = slice_.rpartition("/")[2]
        return cls(name=name, slice=slice_) if name.endswith(".scope") and slice_.endswith(".slice") else None


def scope_of(text: str) -> Scope | None:
    """What `cgroupsPath` means in runc's form `slice:prefix:name`; None for a plain path. Raises ValueError."""
    if ":" not in text:
        return None
    slice_, prefix, name = text.split(":")
    return Scope(name=f"{prefix}-{name}.scope", slice=slice_ or "system.slice")


def slice_path(name: str) -> str:
    """`a-b.slice` lies in `a.slice`: `/a.slice/a-b.slice`. Raises ValueError. Source: systemd.slice(5)."""
    stem = name.removesuffix(".slice")
    if name == "-.slice":
        return ""
    if stem == name or not all(stem.split("-")) or "/" in stem:
        raise ValueError(f"invalid slice name: {name}")
    parts = stem.split("-")
    return "".join(f"/{'-'.join(parts[: length + 1])}.slice" for length in range(len(parts)))


def rounded(resources: Mapping[str, Any]) -> Mapping[str, Any]:
    """systemd keeps CPU quotas in whole percents: they are rounded up, so that the group and the unit say the same."""
    cpu = resources.get("cpu") or {}
    quota, period = cpu.get("quota") or 0, cpu.get("period") or PERIOD_US
    if quota <= 0:
        return resources
    each_second = quota * 1_000_000 // period
    whole = -(-each_second // PERCENT_US) * PERCENT_US
    return {**resources, "cpu": {**cpu, "quota": whole * period // 1_000_000}} if whole != each_second else resources


def complete(resources: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a new scope starts with: systemd bounds the number of processes (DefaultTasksMax) of who does not say that
    there is no limit."""
    return {**resources, "pids": resources.get("pids") or {"limit": -1}}


def properties(resources: Mapping[str, Any], block_weight: str) -> list[Property]:
    """Limits; `resources` rounded."""
    found: list[Property] = []

    def put(name: str, value: int | None) -> None:
        if value is not None:
            found.append((name, ("t", INFINITY if value < 0 else value)))

    memory, cpu = resources.get("memory") or {}, resources.get("cpu") or {}
    put("MemoryMax", memory.get("limit"))
    put("MemoryLow", memory.get("reservation"))
    swap = swap_alone(memory)
    put("MemorySwapMax", -1 if swap == "max" else swap if isinstance(swap, int) else None)
    put("CPUWeight", cpu_weight(cpu["shares"]) if cpu.get("shares") else None)
    if cpu.get("quota") is not None or cpu.get("period") is not None:
        period, quota = cpu.get("period") or PERIOD_US, cpu.get("quota") or 0
        put("CPUQuotaPeriodUSec", period)
        put("CPUQuotaPerSecUSec", quota * 1_000_000 // period if quota > 0 else -1)
    for name, key in (("AllowedCPUs", "cpus"), ("AllowedMemoryNodes", "mems")):
        if cpu.get(key):
            found.append((name, ("ay", bits(numbers(cpu[key])))))
    pids = (resources.get("pids") or {}).get("limit")
    put("TasksMax", pids if pids is None or pids > 0 else -1)
    return found + _block_io(resources.get("blockIO") or {}, block_weight)


def _block_io(block: Mapping[str, Any], block_weight: str) -> list[Property]:
    found: list[Property] = []
    if block_weight != "io.bfq.weight":  # systemd knows only the other file
        if block.get("weight"):
            found.append(("IOWeight", ("t", io_weight(block["weight"]))))
        weights = [(_block_node(entry), io_weight(entry["weight"])) for entry in block.get("weightDevice") or ()]
        if weights:
            found.append(("IODeviceWeight", ("a(st)", weights)))
    for key, name in _IO_MAX.items():
        rates = [(_block_node(entry), entry["rate"]) for entry in block.get(key) or ()]
        if rates:
            found.append((name, ("a(st)", rates)))
    return found


def _block_node(entry: Mapping[str, Any]) -> str:
    return f"/dev/block/{entry['major']}:{entry['minor']}"


def bits(wanted: Iterable[int]) -> bytes:
    """A bitmap, the lowest number in the lowest bit of the first byte."""
    value = sum(1 << number for number in wanted)
    return value.to_bytes(max(1, (value.bit_length() + 7) // 8), "little")


def device_properties(rules: Iterable[DeviceRule], names: Mapping[tuple[str, int], str]) -> list[Property]:
    """The rules as far as systemd has words for them: it knows what is allowed, and no exceptions. Where they do not
    suffice systemd is told nothing, and the group's own program judges alone. names: of major numbers."""
    allowed: list[tuple[str, str]] = []
    for rule in rules:
        if rule.type == "a":
            if rule.allow:
                return []
            continue
        if not rule.allow:
            return []
        kind = "char" if rule.type == "c" else "block"
        if rule.major >= 0 and rule.minor >= 0:
            allowed.append((f"/dev/{kind}/{rule.major}:{rule.minor}", rule.access))
        elif rule.minor >= 0:
            return []  # one minor number of every major
        elif rule.major < 0:
            allowed.append((f"{kind}-*", rule.access))
        elif (rule.type, rule.major) in names:
            allowed.append((f"{kind}-{names[rule.type, rule.major]}", rule.access))
        else:
            return []
    return [("DevicePolicy", ("s", "strict")), ("DeviceAllow", ("a(ss)", list(dict.fromkeys(allowed))))]


def device_names(text: str) -> dict[tuple[str, int], str]:
    """Names of major numbers, by type and number, as /proc/devices tells them."""
    found: dict[tuple[str, int], str] = {}
    kind = "c"
    for line in text.splitlines():
        if line.startswith("Block"):
            kind = "b"
        number, _, name = line.strip().partition(" ")
        if number.isdecimal():
            found.setdefault((kind, int(number)), name)
    return found
