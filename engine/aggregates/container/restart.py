"""Restart policies as arithmetic: whether an exit is followed by a start, and when.

Source: moby daemon/internal/restartmanager: the delay starts at 100 ms, doubles up to one minute, and starts over when
the process ran for at least ten seconds.
"""

from __future__ import annotations

from engine.aggregates.values.config import RestartPolicy

DELAY_MS_MIN = 100
DELAY_MS_MAX = 60_000
STEADY_RUN_NS = 10_000_000_000


def wants_restart(policy: RestartPolicy, exit_code: int, restart_count: int, manually_stopped: bool) -> bool:
    """Whether the policy starts the container again after this exit."""
    if manually_stopped:
        return False
    match policy.name:
        case "always" | "unless-stopped":
            return True
        case "on-failure":
            limit = policy.maximum_retry_count
            return exit_code != 0 and (limit == 0 or restart_count < limit)
        case _:
            return False


def next_delay_ms(previous_delay_ms: int, ran_for_ns: int) -> int:
    """The backoff before the next start, 100 to 60,000 ms."""
    if previous_delay_ms == 0 or ran_for_ns >= STEADY_RUN_NS:
        return DELAY_MS_MIN
    return min(previous_delay_ms * 2, DELAY_MS_MAX)
