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
    minutes = seconds // 60
    hours = (max(duration_ns, 0) + 1800 * NS) // (3600 * NS)  # rounded, from the hour up
    days = hours // 24
    table = (
        (seconds < 1, "Less than a second"),
        (seconds == 1, "1 second"),
        (seconds < 60, f"{seconds} seconds"),
        (minutes == 1, "About a minute"),
        (minutes < 60, f"{minutes} minutes"),
        (hours == 1, "About an hour"),
        (hours < 48, f"{hours} hours"),
        (hours < 24 * 14, f"{days} days"),
        (hours < 24 * 60, f"{days // 7} weeks"),
        (hours < 24 * 730, f"{days // 30} months"),
        (True, f"{max(duration_ns, 0) // (3600 * NS) // 24 // 365} years"),
    )
    return next(words for applies, words in table if applies)


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
