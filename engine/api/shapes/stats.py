"""One document of `docker stats` (CTR-26): readings of a cgroup in Docker's shape, with the key sets of v1 and v2."""

from __future__ import annotations

from typing import Any

import msgspec

from engine.aggregates.container.state import ContainerState
from engine.api.shapes.times import ZERO_TIME, rfc3339_nano
from engine.drivers.ports.runtime import Sample

BLKIO_KEYS = (
    "io_service_bytes_recursive io_serviced_recursive io_queue_recursive io_service_time_recursive "
    "io_wait_time_recursive io_merged_recursive io_time_recursive sectors_recursive"
).split()
"""The keys of `blkio_stats`: on v2 null but for the first, on v1 lists."""


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """A container's sample and what the host had done by then. system_ns: CPU time of all CPUs together."""

    sample: Sample
    system_ns: int
    cpus: int


def stats_document(state: ContainerState, reading: Reading | None, before: Reading | None) -> dict[str, Any]:
    """reading None: the container does not run."""
    sample = reading.sample if reading is not None else None
    document: dict[str, Any] = {
        "name": f"/{state.name}",
        "id": state.container_id,
        "os_type": "linux",
        "read": rfc3339_nano(sample.read_at_ns) if sample is not None else ZERO_TIME,
        "cpu_stats": _cpu(reading),
        "memory_stats": _memory(sample),
        "pids_stats": _pids(sample),
        "blkio_stats": _blkio(sample),
        "num_procs": 0,  # of another operating system; the key is always there in Docker's answer
        "storage_stats": {},
        "preread": rfc3339_nano(before.sample.read_at_ns) if before is not None else ZERO_TIME,
        "precpu_stats": _cpu(before),
    }
    if sample is not None and sample.networks:
        document["networks"] = sample.networks
    return document


def _cpu(reading: Reading | None) -> dict[str, Any]:
    if reading is None:
        usage: dict[str, Any] = {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0}
        return {"cpu_usage": usage, "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0}}
    sample = reading.sample
    usage = {
        "total_usage": sample.cpu_total_ns,
        "usage_in_kernelmode": sample.cpu_system_ns,
        "usage_in_usermode": sample.cpu_user_ns,
    }
    if sample.cpu_percpu_ns:
        usage["percpu_usage"] = sample.cpu_percpu_ns
    return {
        "cpu_usage": usage,
        "system_cpu_usage": reading.system_ns,
        "online_cpus": reading.cpus,
        "throttling_data": sample.throttling,
    }


def _memory(sample: Sample | None) -> dict[str, Any]:
    if sample is None:
        return {}
    document: dict[str, Any] = {
        "usage": sample.memory_usage,
        "stats": sample.memory_stats,
        "limit": sample.memory_limit,
    }
    if sample.memory_max_usage:
        document["max_usage"] = sample.memory_max_usage
    if sample.memory_failcnt:
        document["failcnt"] = sample.memory_failcnt
    return document


def _pids(sample: Sample | None) -> dict[str, int]:
    if sample is None:
        return {}
    document = {"current": sample.pids_current}
    if sample.pids_limit:
        document["limit"] = sample.pids_limit
    return document


def _blkio(sample: Sample | None) -> dict[str, Any]:
    document: dict[str, Any] = dict.fromkeys(BLKIO_KEYS)
    if sample is None:
        return document
    if sample.blkio_ios is not None:  # v1, where Docker's lists are never null
        document = {key: [] for key in BLKIO_KEYS}
        document["io_serviced_recursive"] = _rows(sample.blkio_ios)
    if sample.blkio_bytes or sample.blkio_ios is not None:
        document["io_service_bytes_recursive"] = _rows(sample.blkio_bytes)
    return document


def _rows(entries: tuple[tuple[int, int, str, int], ...]) -> list[dict[str, Any]]:
    return [{"major": major, "minor": minor, "op": op, "value": value} for major, minor, op, value in entries]
