"""Values as people and JSON read them.

Owns: turning states and events into plain dicts (sealed values become `<sealed>`), and times and durations into words.
Refuses to know: which aggregate a value is from.
"""

from __future__ import annotations

import base64
import enum
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from engine.aggregates.decider import Event, Recorded
from engine.aggregates.values.sealed import Sealed
from replay.reader import UnknownEvent, name_of

SEALED = "<sealed>"
SECOND_NS = 1_000_000_000
_SEALED_FIELDS = {"owner", "box"}


def plain(value: Any) -> Any:
    """A JSON-like copy: structs by their stored field names, sets sorted, bytes as base64, sealed values masked."""
    match value:
        case Sealed():
            return SEALED
        case msgspec.Struct():
            fields = zip(value.__struct_fields__, value.__struct_encode_fields__, strict=True)
            return {stored: plain(getattr(value, name)) for name, stored in fields}
        case enum.Enum():
            return value.value
        case bytes():
            return base64.b64encode(value).decode()
        case Mapping():
            if value.keys() == _SEALED_FIELDS and isinstance(value["box"], bytes):
                return SEALED
            return {str(plain(key)): plain(item) for key, item in value.items()}
        case set() | frozenset():
            return sorted((plain(item) for item in value), key=str)
        case tuple() | list():
            return [plain(item) for item in value]
        case _:
            return value


def payload(event: Event) -> dict[str, Any]:
    """What an event says, without fields that say nothing."""
    if isinstance(event, UnknownEvent):
        return dict(plain(event.payload))
    return {key: item for key, item in plain(event).items() if item not in (None, "", [], {})}


def record(recorded: Recorded) -> dict[str, Any]:
    """An event with its envelope, for `--json`."""
    return {
        "position": recorded.position,
        "time": rfc3339(recorded.time_ns),
        "stream": recorded.stream,
        "version": recorded.version,
        "name": name_of(recorded.event),
        "actor": recorded.cause.actor,
        "correlation": recorded.cause.correlation,
        "causation": recorded.cause.causation,
        "data": payload(recorded.event),
    }


def without_defaults(value: Any) -> Any:
    """A plain value without nulls, empty texts, lists and maps, at any depth: what is left says something."""
    if isinstance(value, dict):
        lean = {key: without_defaults(item) for key, item in value.items()}
        return {key: item for key, item in lean.items() if item not in (None, "", [], {}, False) and item != 0}
    if isinstance(value, list):
        return [without_defaults(item) for item in value]
    return value


def rfc3339(time_ns: int) -> str:
    """UTC with nanoseconds: `2026-11-23T19:13:50.000000001Z`."""
    seconds, fraction = divmod(time_ns, SECOND_NS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{fraction:09d}Z"


def clock_time(time_ns: int) -> str:
    """UTC to the millisecond, for people: `2026-11-23 19:13:50.001`."""
    seconds, fraction = divmod(time_ns, SECOND_NS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}.{fraction // 1_000_000:03d}"


_UNITS = (
    (1, "Less than a second"),
    (2, "1 second"),
    (60, "{0} seconds"),
    (120, "About a minute"),
    (46 * 60, "{1} minutes"),
    (90 * 60, "About an hour"),
    (48 * 3600, "{2} hours"),
    (14 * 86400, "{3} days"),
    (60 * 86400, "{4} weeks"),
    (730 * 86400, "{5} months"),
)


def human_duration(duration_ns: int) -> str:
    """Docker's words for a length of time (docker/go-units HumanDuration)."""
    seconds = max(0, duration_ns // SECOND_NS)
    hours = (seconds + 1800) // 3600  # go-units rounds hours and builds the rest on them
    amounts = (seconds, seconds // 60, hours, hours // 24, hours // 24 // 7, hours // 24 // 30)
    for bound, words in _UNITS:
        if seconds < bound:
            return words.format(*amounts)
    return f"{int(seconds / 86400 / 365)} years"


def human_size(size: int) -> str:
    """Docker's decimal sizes: `7.66MB` (docker/go-units HumanSize)."""
    amount, units = float(size), ("B", "kB", "MB", "GB", "TB", "PB")
    index = 0
    while amount >= 1000 and index < len(units) - 1:
        amount, index = amount / 1000, index + 1
    return f"{amount:.3g}{units[index]}"
