"""Which limits are legal, and which this host drops with a warning (RES-02..06, RES-08), in moby's words.

Pure: what the host can limit comes in as names (`ResourceFacts.limits`). A limit that makes no sense is refused; one
that makes sense and that the kernel has not got is dropped, and the client is told.
Source: moby daemon/daemon_unix.go verifyPlatformContainerResources, runconfig/hostconfig_unix.go validateResources,
pkg/sysinfo parseUintList.
"""

from __future__ import annotations

from typing import Any, Generic, NoReturn, TypeVar

import msgspec
from msgspec.structs import replace

from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.values.config import Resources
from engine.aggregates.values.cpusets import numbers, ranges

MEMORY_MIN = 6 << 20

ALL_LIMITS = frozenset(
    "memory swap reservation swappiness oom-kill-disable pids shares cfs realtime cpuset blkio-weight "
    "blkio-weight-device blkio-read-bps blkio-write-bps blkio-read-iops blkio-write-iops".split()
)
"""Names of what a host may be able to limit."""

ULIMITS = frozenset(
    "core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack".split()
)
"""dockerd finds another name out at the start only, from its runtime. Source: go-units ulimit.go."""

_PER_DEVICE = (
    ("blkio-weight-device", "blkio_weight_device", "Block I/O weight_device", "Weight-device discarded."),
    ("blkio-read-bps", "blkio_device_read_bps", "BPS Block I/O read limit", "Block I/O BPS read limit discarded."),
    ("blkio-write-bps", "blkio_device_write_bps", "BPS Block I/O write limit", "Block I/O BPS write limit discarded."),
    ("blkio-read-iops", "blkio_device_read_iops", "IOPS Block read limit", "Block I/O IOPS read limit discarded."),
    ("blkio-write-iops", "blkio_device_write_iops", "IOPS Block write limit", "Block I/O IOPS write limit discarded."),
)

UPDATABLE = (
    "blkio_weight",
    "cpu_shares",
    "nano_cpus",
    "cpu_period",
    "cpu_quota",
    "cpu_realtime_period",
    "cpu_realtime_runtime",
    "cpuset_cpus",
    "cpuset_mems",
    "memory",
    "memory_swap",
    "memory_reservation",
    "pids_limit",
)
"""What an existing container can be given anew. Source: moby daemon/container/container_unix.go UpdateContainer."""


R = TypeVar("R", bound=Resources)


class ResourceFacts(msgspec.Struct, frozen=True, kw_only=True):
    """cpus, mems: numbers of those that containers may use. limits: names of what the host can limit."""

    cpus: frozenset[int]
    mems: frozenset[int] = frozenset({0})
    limits: frozenset[str] = ALL_LIMITS


class Admission(Generic[R]):
    """Limits on their way through the checks: `wanted` shrinks, `warnings` grow."""

    def __init__(self, wanted: R, facts: ResourceFacts, *, update: bool) -> None:
        self.wanted, self.facts, self.update = wanted, facts, update
        self.warnings: list[str] = []

    def lacks(self, limit: str) -> bool:
        return limit not in self.facts.limits

    def drop(self, warning: str, **values: object) -> None:
        self.warnings.append(warning)
        self.wanted = replace(self.wanted, **values)


def admitted(wanted: R, facts: ResourceFacts, *, update: bool = False) -> tuple[R, tuple[str, ...]]:
    """(what is left of `wanted`, warnings about what is not). update: only some of a container's limits are given.
    Raises Rejected(INVALID) for limits that no kernel would take, or that contradict each other."""
    admission = Admission(wanted, facts, update=update)
    _memory(admission)
    _oom_and_pids(admission)
    _cpu(admission)
    _cpusets(admission)
    _block_io(admission)
    for limit in admission.wanted.ulimits or ():
        if limit.name.lower() not in ULIMITS:
            _invalid(f"invalid ulimit type: {limit.name}")
        if limit.soft > limit.hard >= 0:
            _invalid(f"ulimit soft limit must be less than or equal to hard limit: {limit.soft} > {limit.hard}")
    return admission.wanted, tuple(admission.warnings)


def not_updatable(wanted: Resources) -> tuple[str, ...]:
    """Names (Docker's) of limits that an update cannot change although it gives them."""
    blank = Resources()
    given = [n for n in Resources.__struct_fields__ if n not in UPDATABLE and getattr(wanted, n) != getattr(blank, n)]
    encoded = dict(zip(Resources.__struct_fields__, Resources.__struct_encode_fields__, strict=True))
    return tuple(encoded[name] for name in given)


def update_conflict(have: Resources, given: Resources) -> str:
    """Why limits cannot be given to a container that has others, or "". Source: moby UpdateContainer."""
    for contradicts, words in (
        (given.nano_cpus > 0 and have.cpu_period > 0, "Nano CPUs cannot be updated as CPU Period has already been set"),
        (given.nano_cpus > 0 and have.cpu_quota > 0, "Nano CPUs cannot be updated as CPU Quota has already been set"),
        (given.cpu_period > 0 and have.nano_cpus > 0, "CPU Period cannot be updated as NanoCPUs has already been set"),
        (given.cpu_quota > 0 and have.nano_cpus > 0, "CPU Quota cannot be updated as NanoCPUs has already been set"),
    ):
        if contradicts:
            return f"Conflicting options: {words}"
    if given.memory > have.memory_swap and given.memory and not given.memory_swap:
        return (
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time"
        )
    return ""


def _invalid(message: str) -> NoReturn:
    raise Rejected(Reason.INVALID, message)


def _memory(admission: Admission[Any]) -> None:
    host = admission.wanted
    if host.memory_swappiness == -1:  # what clients send for "not set" (moby fixMemorySwappiness)
        admission.wanted = replace(host, memory_swappiness=None)
    if host.memory and host.memory < MEMORY_MIN:
        _invalid("Minimum memory limit allowed is 6MB")
    if host.memory and admission.lacks("memory"):
        admission.drop(
            "Your kernel does not support memory limit capabilities or the cgroup is not mounted. "
            "Limitation discarded.",
            memory=0,
            memory_swap=-1,
        )
    if admission.wanted.memory and admission.wanted.memory_swap != -1 and admission.lacks("swap"):
        admission.drop(
            "Your kernel does not support swap limit capabilities or the cgroup is not mounted. "
            "Memory limited without swap.",
            memory_swap=-1,
        )
    host = admission.wanted
    if host.memory > 0 and 0 < host.memory_swap < host.memory:
        _invalid("Minimum memoryswap limit should be larger than memory limit, see usage")
    if host.memory == 0 and host.memory_swap > 0 and not admission.update:
        _invalid("You should always set the Memory limit when using Memoryswap limit, see usage")
    if host.memory_swappiness is not None and admission.lacks("swappiness"):
        admission.drop(
            "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. "
            "Memory swappiness discarded.",
            memory_swappiness=None,
        )
    swappiness = admission.wanted.memory_swappiness
    if swappiness is not None and not 0 <= swappiness <= 100:
        _invalid(f"Invalid value: {swappiness}, valid memory swappiness range is 0-100")
    if host.memory_reservation > 0 and admission.lacks("reservation"):
        admission.drop(
            "Your kernel does not support memory soft limit capabilities or the cgroup is not mounted. "
            "Limitation discarded.",
            memory_reservation=0,
        )
    reservation = admission.wanted.memory_reservation
    if 0 < reservation < MEMORY_MIN:
        _invalid("Minimum memory reservation allowed is 6MB")
    if 0 < host.memory < reservation:
        _invalid("Minimum memory limit can not be less than memory reservation limit, see usage")


def _oom_and_pids(admission: Admission[Any]) -> None:
    host = admission.wanted
    if host.oom_kill_disable is not None and admission.lacks("oom-kill-disable"):
        if host.oom_kill_disable:
            admission.warnings.append("Your kernel does not support OomKillDisable. OomKillDisable discarded.")
        admission.wanted = replace(host, oom_kill_disable=None)
    if admission.wanted.oom_kill_disable and not host.memory:
        admission.warnings.append(
            "OOM killer is disabled for the container, but no memory limit is set, "
            "this can result in the system running out of resources."
        )
    if host.pids_limit is not None and admission.lacks("pids"):
        if host.pids_limit > 0:
            admission.warnings.append(
                "Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. "
                "PIDs limit discarded."
            )
        admission.wanted = replace(admission.wanted, pids_limit=None)


def _cpu(admission: Admission[Any]) -> None:
    host = admission.wanted
    if host.nano_cpus > 0 and host.cpu_period > 0:
        _invalid("Conflicting options: Nano CPUs and CPU Period cannot both be set")
    if host.nano_cpus > 0 and host.cpu_quota > 0:
        _invalid("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
    if host.nano_cpus > 0 and admission.lacks("cfs"):
        _invalid(
            "NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the cgroup is not mounted"
        )
    count = len(admission.facts.cpus)
    if host.nano_cpus and not 10_000_000 <= host.nano_cpus <= count * 1_000_000_000:
        _invalid(f"range of CPUs is from 0.01 to {count}.00, as there are only {count} CPUs available")
    if host.cpu_shares < 0:
        _invalid(f"invalid CPU shares ({host.cpu_shares}): value must be a positive integer")
    if host.cpu_shares and admission.lacks("shares"):
        admission.drop(
            "Your kernel does not support CPU shares or the cgroup is not mounted. Shares discarded.", cpu_shares=0
        )
    if (host.cpu_period or host.cpu_quota) and admission.lacks("cfs"):
        admission.drop(
            "Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.", cpu_period=0, cpu_quota=0
        )
    host = admission.wanted
    if host.cpu_period and not 1000 <= host.cpu_period <= 1_000_000:
        _invalid("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if 0 < host.cpu_quota < 1000:
        _invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if (host.cpu_realtime_period or host.cpu_realtime_runtime) and admission.lacks("realtime"):
        _invalid("kernel does not support CPU real-time scheduler")
    if 0 < host.cpu_realtime_period < host.cpu_realtime_runtime:
        _invalid("cpu real-time runtime cannot be higher than cpu real-time period")


def _cpusets(admission: Admission[Any]) -> None:
    host, facts = admission.wanted, admission.facts
    if (host.cpuset_cpus or host.cpuset_mems) and admission.lacks("cpuset"):
        admission.drop(
            "Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded.",
            cpuset_cpus="",
            cpuset_mems="",
        )
    host = admission.wanted
    for wanted, have, name, short in (
        (host.cpuset_cpus, facts.cpus, "CPUs", "cpus"),
        (host.cpuset_mems, facts.mems, "memory nodes", "mems"),
    ):
        try:
            missing = numbers(wanted) - have
        except ValueError as error:
            _invalid(f"Invalid value {wanted} for cpuset {short}: {error}")
        if missing:
            _invalid(f"Requested {name} are not available - requested {wanted}, available: {ranges(have)}")


def _block_io(admission: Admission[Any]) -> None:
    host = admission.wanted
    if host.blkio_weight and admission.lacks("blkio-weight"):
        admission.drop(
            "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.",
            blkio_weight=0,
        )
    weights = [admission.wanted.blkio_weight, *(device.weight for device in host.blkio_weight_device or ())]
    if any(weight and not 10 <= weight <= 1000 for weight in weights):
        _invalid("Range of blkio weight is from 10 to 1000")
    for limit, field, words, outcome in _PER_DEVICE:
        if getattr(host, field) and admission.lacks(limit):
            warning = f"Your kernel does not support {words} or the cgroup is not mounted. {outcome}"
            admission.drop(warning, **{field: ()})

