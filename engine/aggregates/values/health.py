"""Health of a container, as a value: the status and one probe's result."""

from __future__ import annotations

import enum

import msgspec


class HealthStatus(enum.Enum):
    NONE = "none"
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class HealthResult(msgspec.Struct, frozen=True, kw_only=True):
    """One probe: times in ns, exit_code -1 for a timeout, output at most 4096 bytes."""

    started_at: int
    finished_at: int
    exit_code: int
    output: str


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """`log` holds the last five results that changed something; the quiet ones live in the health reactor's view."""

    status: HealthStatus = HealthStatus.NONE
    failing_streak: int = 0
    log: tuple[HealthResult, ...] = ()
