"""Points in time and durations as users write them: `1700000000.5`, `2024-05-01T10:00:00Z`, `10m`.

Source: moby daemon/internal/timestamp (GetTimestamp, ParseTimestamps) and Go's time.ParseDuration. A time without a
zone is read as UTC: the engine has no other place it could mean.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from engine.aggregates.decider import Reason, Rejected

NS = 1_000_000_000

_UNITS_NS = {"ns": 1, "us": 1_000, "µs": 1_000, "μs": 1_000, "ms": 1_000_000, "s": NS, "m": 60 * NS, "h": 3600 * NS}
_UNIT = r"(?P<number>[0-9]{1,19}(?:\.[0-9]{0,19})?|\.[0-9]{1,19})(?P<unit>ns|us|µs|μs|ms|s|m|h)"
_DURATION = re.compile(rf"(?P<sign>[-+]?)(?P<parts>(?:{_UNIT.replace('?P<number>', '?:').replace('?P<unit>', '?:')})+)")
_PART = re.compile(_UNIT)
_UNIX = re.compile(r"(?P<seconds>-?[0-9]{1,19})(?:\.(?P<fraction>[0-9]*))?")
_CALENDAR = re.compile(
    r"(?P<date>\d{4}-\d{2}-\d{2})"
    r"(?:T(?P<hour>\d{2})(?::(?P<minute>\d{2})(?::(?P<second>\d{2})(?:[.,](?P<fraction>\d{1,9}))?)?)?)?"
    r"(?P<zone>[zZ]|[+-]\d{2}:\d{2})?"
)


def duration_ns(text: str) -> int | None:
    """Nanoseconds of `1h30m`, `1.5h`, `300ms`; None for anything else. `0` is a duration, too."""
    if text in ("0", "+0", "-0"):
        return 0
    match = _DURATION.fullmatch(text)
    if match is None:
        return None
    total = sum(_scaled(part["number"], _UNITS_NS[part["unit"]]) for part in _PART.finditer(match["parts"]))
    return -total if match["sign"] == "-" else total


def moment_ns(text: str, *, now_ns: int) -> int:
    """UTC nanoseconds of a Unix time, a calendar time or a duration before now, between the years 1678 and 2262.
    Raises Rejected(INVALID)."""
    moment = _moment_ns(text, now_ns)
    if not -(2**63) <= moment < 2**63:
        raise Rejected(Reason.INVALID, f'failed to parse value as time or duration: "{text}": value out of range')
    return moment


def _moment_ns(text: str, now_ns: int) -> int:
    if text != "0" and (ago := duration_ns(text)) is not None:
        return now_ns - ago
    if unix := _UNIX.fullmatch(text):
        fraction = int((unix["fraction"] or "0")[:9].ljust(9, "0"))
        seconds = int(unix["seconds"])
        return seconds * NS + (-fraction if seconds < 0 else fraction)
    if calendar := _CALENDAR.fullmatch(text):
        return _calendar_ns(text, calendar)
    raise Rejected(Reason.INVALID, f'failed to parse value as time or duration: "{text}"')


def _calendar_ns(text: str, match: re.Match[str]) -> int:
    clock = ":".join(match[part] or "00" for part in ("hour", "minute", "second"))
    zone = match["zone"] or "+00:00"
    try:
        moment = datetime.fromisoformat(f"{match['date']}T{clock}{'+00:00' if zone in 'zZ' else zone}")
    except ValueError as error:
        raise Rejected(Reason.INVALID, f'failed to parse value as time or duration: "{text}"') from error
    whole = int((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds())
    return whole * NS + int((match["fraction"] or "0").ljust(9, "0"))


def _scaled(number: str, unit_ns: int) -> int:
    """Exact: `0.1h` must not pass through a float."""
    whole, _, fraction = number.partition(".")
    return int(whole or "0") * unit_ns + (int(fraction or "0") * unit_ns // 10 ** len(fraction) if fraction else 0)
