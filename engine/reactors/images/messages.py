"""Progress messages in Docker's words: what the CLI draws its bars from. Pure.

Source: moby api/pkg/progress, daemon/internal/streamformatter, api/types/jsonstream; go-units HumanSize. The text in
`progress` is for clients that do not draw bars of their own.
"""

from __future__ import annotations

BAR_WIDTH = 50
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")

Message = dict[str, object]


def status(text: str, identifier: str = "") -> Message:
    """A line of its own, `Digest: sha256:...`, or with an id in front: `latest: Pulling from library/alpine`."""
    return {"status": text, "id": identifier} if identifier else {"status": text}


def update(identifier: str, action: str) -> Message:
    """The line of one layer says something else now."""
    return {"status": action, "progressDetail": {}, "id": identifier}


def progress(identifier: str, action: str, current: int, total: int) -> Message:
    """The line of one layer with a bar. total: 0 when unknown."""
    return {
        "status": action,
        "progressDetail": {"current": current, "total": total} if total else {"current": current},
        "progress": bar(current, total),
        "id": identifier,
    }


def aux(value: object) -> Message:
    """What a program reads, and no person: the CLI hands it to whoever called."""
    return {"progressDetail": {}, "aux": value}


def stream(text: str) -> Message:
    """What `docker load` prints as it is."""
    return {"stream": text}


def bar(current: int, total: int) -> str:
    """`[=====>        ]  1.05MB/3.4MB`."""
    if current <= 0 and total <= 0:
        return ""
    if total <= 0:
        return f"{human_size(current):>8}"
    filled = min(int(current / total * 100) // 2, BAR_WIDTH)
    numbers = f"{human_size(current):>8}" if current > total else f"{human_size(current):>8}/{human_size(total)}"
    return f"[{'=' * filled}>{' ' * (BAR_WIDTH - filled)}] {numbers}"


def human_size(size: float) -> str:
    """Four significant digits, decimal units: `3.402MB`."""
    unit = 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.4g}{_UNITS[unit]}"
