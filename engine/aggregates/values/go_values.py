"""Values as Go's standard library and go-units read them, with their words for what they refuse.

Options of Docker's log drivers are texts; what a text means, and how a bad one is complained about, is Go's to say.
All functions raise ValueError with those words.
"""

from __future__ import annotations

import re

_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?) ?(?P<unit>[kmgtp]?)(?:i?b)?", re.IGNORECASE)
_INT64_MAX = 2**63 - 1
_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_PART = re.compile(r"(?P<number>\d+\.?\d*|\.\d+)(?P<unit>[^\d.]*)")
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})


def decimal_bytes(text: str) -> int:
    """`10m` is 10,000,000 (go-units FromHumanSize)."""
    return _bytes(text, 1000)


def binary_bytes(text: str) -> int:
    """`10m` is 10 MiB (go-units RAMInBytes)."""
    return _bytes(text, 1024)


def _bytes(text: str, base: int) -> int:
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"invalid size: '{text}'")
    size = float(match["number"]) * base ** " kmgtp".index(match["unit"].lower() or " ")
    return int(min(size, _INT64_MAX))  # as Go turns a float into an integer that has no room for it


def boolean(text: str) -> bool:
    """strconv.ParseBool."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f"strconv.ParseBool: parsing {quoted(text)}: invalid syntax")


def integer(text: str) -> int:
    """strconv.Atoi."""
    if not re.fullmatch(r"[+-]?\d+", text):
        raise ValueError(f"strconv.Atoi: parsing {quoted(text)}: invalid syntax")
    if len(text) > 18:
        raise ValueError(f"strconv.Atoi: parsing {quoted(text)}: value out of range")
    return int(text)


def duration_ns(text: str) -> int:
    """time.ParseDuration: `1m30s`, `250ms`, `-1.5h`, `0`."""
    bare = text[1:] if text[:1] in ("-", "+") else text
    if bare == "0":
        return 0
    total, position = 0.0, 0
    while position < len(bare):
        part = _PART.match(bare, position)
        if part is None:
            break
        if not part["unit"]:
            raise ValueError(f"time: missing unit in duration {quoted(text)}")
        if part["unit"] not in _UNITS_NS:
            raise ValueError(f"time: unknown unit {quoted(part['unit'])} in duration {quoted(text)}")
        total += float(part["number"]) * _UNITS_NS[part["unit"]]
        position = part.end()
    if not bare or position < len(bare):
        raise ValueError(f"time: invalid duration {quoted(text)}")
    if total > _INT64_MAX:
        raise ValueError(f"time: invalid duration {quoted(text)}")
    return int(-total if text.startswith("-") else total)


def quoted(text: str) -> str:
    """%q, for what options hold."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
