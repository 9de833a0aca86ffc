"""Points in history as people write them.

`@412` or `412` is a position, `now` the end; `2026-11-23T19:00:00Z`, `2026-11-23T19:00`, `2026-11-23` and unix seconds
are times (UTC unless they say otherwise); `10m ago`, `1h30m` are Go durations back from now.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

import msgspec

from engine.clock import Clock
from replay.reader import LogReader

_GO_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ns|us|µs|ms|s|m|h|d))+")
_GO_UNIT = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d)")
_UNIT_NS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_UNIT_NS["d"] = 24 * _UNIT_NS["h"]
_UNIX = re.compile(r"\d+(?:\.\d{1,9})?")
_FRACTION = re.compile(r"\.(\d+)")


class MomentError(ValueError):
    """Nobody can tell which point in history is meant."""


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """A point in history: everything up to and with `position` has happened. time_ns: what was asked for, or when the
    event at the position happened."""

    position: int
    time_ns: int
    by_position: bool = False


def moment(text: str, reader: LogReader, clock: Clock) -> Moment:
    """The last position at that point. Raises MomentError."""
    head = reader.head
    text = text.strip()
    if text in ("now", "head", "end"):
        return Moment(position=head, time_ns=clock.now_ns())
    digits = text.removeprefix("@")
    if digits.isdecimal() and (text.startswith("@") or int(digits) <= head):
        return _at_position(int(digits), head, reader)
    time_ns = parse_time(text, clock.now_ns())
    return Moment(position=reader.position_at(time_ns), time_ns=time_ns)


def parse_time(text: str, now_ns: int) -> int:
    """UTC nanoseconds. Raises MomentError."""
    back = text.removesuffix("ago").strip()
    if _GO_DURATION.fullmatch(back):
        return now_ns - sum(int(float(amount) * _UNIT_NS[unit]) for amount, unit in _GO_UNIT.findall(back))
    if _UNIX.fullmatch(text):
        seconds, _, fraction = text.partition(".")
        return int(seconds) * 10**9 + int(fraction.ljust(9, "0") or 0)
    # datetime knows microseconds only; the nanoseconds are taken from the text.
    fraction_match = _FRACTION.search(text)
    fraction = fraction_match[1][:9].ljust(9, "0") if fraction_match else "0"
    try:
        parsed = datetime.fromisoformat(_FRACTION.sub("", text))
    except ValueError as error:
        raise MomentError(f"{text!r} is neither a position, a time nor a duration") from error
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=UTC)
    return int(parsed.timestamp()) * 10**9 + int(fraction)


def _at_position(position: int, head: int, reader: LogReader) -> Moment:
    if position > head:
        raise MomentError(f"position {position} is past the end of the log, which is {head}")
    recorded = reader.event(position) if position else None
    return Moment(position=position, time_ns=recorded.time_ns if recorded else 0, by_position=True)
