"""`linux.resources`: limits in Docker's words as the OCI specification wants them (RES-01..06)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.values.config import Resources

CPU_PERIOD_US = 100_000
DIGITS_MAX = 18
"""Any number of so many digits is one of 64 bits."""
_RULE = re.compile(r"([acb]) ([0-9]+|\*):([0-9]+|\*) ([rwm]{1,3})")


class DeviceNode(msgspec.Struct, frozen=True, kw_only=True):
    """A device of the host, and where the container has it. kind: `c` or `b`. access: of `rwm`."""

    path: str
    kind: str
    major: int
    minor: int
    mode: int
    uid: int = 0
    gid: int = 0
    access: str = "rwm"


DEFAULT_DEVICE_RULES: tuple[tuple[str, int | None, int | None, str], ...] = (
    ("c", None, None, "m"),
    ("b", None, None, "m"),
    ("c", 1, 3, "rwm"),
    ("c", 1, 5, "rwm"),
    ("c", 1, 7, "rwm"),
    ("c", 1, 8, "rwm"),
    ("c", 1, 9, "rwm"),
    ("c", 5, 0, "rwm"),
    ("c", 5, 1, "rwm"),
    ("c", 5, 2, "rwm"),
    ("c", 136, None, "rwm"),
)
"""What every container may use (SEC-12). Source: moby daemon/pkg/oci/defaults.go, runc AllowedDevices."""


DeviceNumbers = Mapping[str, tuple[int, int]]
"""(major, minor) by path on the host."""

_THROTTLES = {
    "throttleReadBpsDevice": "blkio_device_read_bps",
    "throttleWriteBpsDevice": "blkio_device_write_bps",
    "throttleReadIOPSDevice": "blkio_device_read_iops",
    "throttleWriteIOPSDevice": "blkio_device_write_iops",
}


def limited_devices(host: Resources) -> tuple[str, ...]:
    """Paths of the devices that limits name: `limits` wants their numbers."""
    paths = [entry.path for entry in host.blkio_weight_device or ()]
    paths += [entry.path for field in _THROTTLES.values() for entry in getattr(host, field) or ()]
    return tuple(dict.fromkeys(paths))


def limits(host: Resources, numbers: DeviceNumbers | None = None) -> dict[str, Any]:
    """Everything but devices: what `update` may change, too. Nothing is there that nobody asked for. numbers: of
    `limited_devices`."""
    found: dict[str, Any] = {}
    memory: dict[str, Any] = {}
    if host.memory:
        memory["limit"] = host.memory
    if host.memory_swap:
        memory["swap"] = host.memory_swap
    if host.memory_reservation:
        memory["reservation"] = host.memory_reservation
    if host.memory_swappiness is not None and host.memory_swappiness >= 0:
        memory["swappiness"] = host.memory_swappiness
    if host.oom_kill_disable:
        memory["disableOOMKiller"] = True
    if memory:
        found["memory"] = memory
    cpu = _cpu(host)
    if cpu:
        found["cpu"] = cpu
    if host.pids_limit is not None:
        found["pids"] = {"limit": host.pids_limit if host.pids_limit > 0 else -1}  # 0 is unlimited, too
    block = _block_io(host, numbers or {})
    if block:
        found["blockIO"] = block
    return found


def _cpu(host: Resources) -> dict[str, Any]:
    cpu: dict[str, Any] = {}
    if host.cpu_shares:
        cpu["shares"] = host.cpu_shares
    if host.nano_cpus:
        cpu["period"] = CPU_PERIOD_US
        cpu["quota"] = host.nano_cpus * CPU_PERIOD_US // 1_000_000_000
    if host.cpu_period:
        cpu["period"] = host.cpu_period
    if host.cpu_quota:
        cpu["quota"] = host.cpu_quota
    if host.cpu_realtime_period:
        cpu["realtimePeriod"] = host.cpu_realtime_period
    if host.cpu_realtime_runtime:
        cpu["realtimeRuntime"] = host.cpu_realtime_runtime
    if host.cpuset_cpus:
        cpu["cpus"] = host.cpuset_cpus
    if host.cpuset_mems:
        cpu["mems"] = host.cpuset_mems
    return cpu


def _block_io(host: Resources, numbers: DeviceNumbers) -> dict[str, Any]:
    block: dict[str, Any] = {"weight": host.blkio_weight} if host.blkio_weight else {}

    def entries(given: Iterable[Any], word: str) -> list[dict[str, Any]]:
        return [
            {"major": numbers[entry.path][0], "minor": numbers[entry.path][1], word: getattr(entry, word)}
            for entry in given
        ]

    if host.blkio_weight_device:
        block["weightDevice"] = entries(host.blkio_weight_device, "weight")
    for key, field in _THROTTLES.items():
        given = getattr(host, field)
        if given:
            block[key] = entries(given, "rate")
    return block


def device_rules(rules: Sequence[str], nodes: Sequence[DeviceNode], *, privileged: bool) -> list[dict[str, Any]]:
    """The device cgroup: everything for the privileged, else nothing but the defaults, `nodes` and the user's rules."""
    if privileged:
        return [{"allow": True, "access": "rwm"}]
    found: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}]
    found += [_device_rule(*rule) for rule in DEFAULT_DEVICE_RULES]
    found += [_device_rule(node.kind, node.major, node.minor, node.access) for node in nodes]
    for text in rules:
        match = _RULE.fullmatch(text)
        if match is None:
            raise Rejected(Reason.INVALID, f"invalid device cgroup rule format: '{text}'")
        kind, major, minor, access = match.groups()
        for name, number in (("major", major), ("minor", minor)):
            if len(number) > DIGITS_MAX:
                raise Rejected(Reason.INVALID, f"invalid {name} value in device cgroup rule format: '{text}'")
        found.append(
            _device_rule(
                kind, None if major == "*" else int(major), None if minor == "*" else int(minor), access
            )
        )
    return found


def _device_rule(kind: str, major: int | None, minor: int | None, access: str) -> dict[str, Any]:
    rule: dict[str, Any] = {"allow": True, "type": kind, "access": access}
    if major is not None:
        rule["major"] = major
    if minor is not None:
        rule["minor"] = minor
    return rule
