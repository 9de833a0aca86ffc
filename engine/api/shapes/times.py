"""Times and durations as Go prints them: RFC3339Nano, and the words of `docker ps`.

Source: Go's time package (trailing zeros of the fraction are cut) and docker/go-units `HumanDuration`.
"""

from __future__ import annotations

from datetime import UTC, datetime

ZERO_TIME = "0001-01-01T00:00:00Z"
"""Go's zero time: how Docker says "never"."""

NS = 1_000_000_000


def rfc3339_nano(time_ns: int) -> str:
    """UTC nanoseconds since 1970 as `2024-05-01T10:00:00.12Z`; 0 is never."""
    if time_ns == 0:
        return ZERO_TIME
    seconds, fraction = divmod(time_ns, NS)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{fraction:09d}".rstrip("0") + "Z" if fraction else text + "Z"


def human_duration(duration_ns: int) -> str:
    """`Less than a second`, `About a minute`, `3 weeks`."""
    seconds = max(duration_ns, 0) // NS
    if seconds < 60:
        return "Less than a second" if seconds < 1 else "1 second" if seconds == 1 else f"{seconds} seconds"
    minutes = seconds // 60
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    hours = (seconds * 2 + 3600) // 7200  # rounded, from the hour up
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    days = hours // 24
    if hours < 24 * 14:
        return f"{days} days"
    if hours < 24 * 60:
        return f"{days // 7} weeks"
    if hours < 24 * 730:
        return f"{days // 30} months"
    return f"{seconds // 3600 // 24 // 365} years"


def status_words(
    status: str,
    *,
    now_ns: int,
    started_at_ns: int = 0,
    finished_at_ns: int = 0,
    exit_code: int = 0,
    health: str = "",
) -> str:
    """The STATUS column of `docker ps`: `Up 3 minutes (healthy)`, `Exited (0) 2 hours ago`.

    status: Docker's word (created, running, paused, restarting, removing, exited, dead). health: "", starting, healthy
    or unhealthy. Source: moby daemon/container/state.go `String`."""
    up = human_duration(now_ns - started_at_ns)
    ago = human_duration(now_ns - finished_at_ns)
    match status:
        case "paused":
            return f"Up {up} (Paused)"
        case "running":
            note = {"": "", "none": "", "starting": " (health: starting)"}.get(health, f" ({health})")
            return f"Up {up}{note}"
        case "restarting":
            return f"Restarting ({exit_code}) {ago} ago"
        case "removing":
            return "Removal In Progress"
        case "dead":
            return "Dead"
        case "created":
            return "Created"
        case _:
            return f"Exited ({exit_code}) {ago} ago" if finished_at_ns else ""
