"""One document of `docker stats` (CTR-26): two samples of a cgroup in Docker's shape, v1 and v2 key sets alike."""

from __future__ import annotations

from typing import Any

from engine.aggregates.container.state import ContainerState
from engine.api.shapes.times import ZERO_TIME, rfc3339_nano
from engine.drivers.ports.runtime import Sample

BLKIO_KEYS = (
    "io_service_bytes_recursive io_serviced_recursive io_queue_recursive io_service_time_recursive "
    "io_wait_time_recursive io_merged_recursive io_time_recursive sectors_recursive"
).split()
"""The keys of `blkio_stats`; null where nothing is measured."""


def stats_document(
    state: ContainerState, sample: Sample | None, before: Sample | None, *, system_ns: tuple[int, int], cpus: int
) -> dict[str, Any]:
    """system_ns: the host's CPU time at the sample and before. sample None: the container does not run."""
    document: dict[str, Any] = {
        "id": state.container_id,
        "name": f"/{state.name}",
        "os_type": "linux",
        "read": rfc3339_nano(sample.read_at_ns) if sample is not None else ZERO_TIME,
        "preread": rfc3339_nano(before.read_at_ns) if before is not None else ZERO_TIME,
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": _cpu(sample, system_ns[0], cpus),
        "precpu_stats": _cpu(before, system_ns[1], cpus),
        "memory_stats": _memory(sample),
        "pids_stats": _pids(sample),
        "blkio_stats": _blkio(sample),
    }
    if sample is not None and sample.networks:
        document["networks"] = {name: dict(counters) for name, counters in sample.networks.items()}
    return document


def _cpu(sample: Sample | None, system_ns: int, cpus: int) -> dict[str, Any]:
    usage: dict[str, Any] = {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0}
    throttling = {"periods": 0, "throttled_periods": 0, "throttled_time": 0}
    if sample is None:
        return {"cpu_usage": usage, "throttling_data": throttling}
    usage = {
        "total_usage": sample.cpu_total_ns,
        "usage_in_kernelmode": sample.cpu_system_ns,
        "usage_in_usermode": sample.cpu_user_ns,
    }
    if sample.cpu_percpu_ns:
        usage["percpu_usage"] = list(sample.cpu_percpu_ns)
    return {
        "cpu_usage": usage,
        "system_cpu_usage": system_ns,
        "online_cpus": cpus,
        "throttling_data": {**throttling, **sample.throttling},
    }


def _memory(sample: Sample | None) -> dict[str, Any]:
    if sample is None:
        return {}
    document: dict[str, Any] = {
        "usage": sample.memory_usage,
        "stats": dict(sample.memory_stats),
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
    def rows(entries: tuple[tuple[int, int, str, int], ...]) -> list[dict[str, Any]]:
        return [{"major": major, "minor": minor, "op": op, "value": value} for major, minor, op, value in entries]

    document: dict[str, Any] = dict.fromkeys(BLKIO_KEYS)
    if sample is not None:
        document["io_service_bytes_recursive"] = rows(sample.blkio_bytes)
        document["io_serviced_recursive"] = rows(sample.blkio_ios)
    return document
