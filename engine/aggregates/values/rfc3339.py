"""RFC 3339 times as texts that compare: nine digits of fraction, always UTC."""

from __future__ import annotations

from datetime import UTC, datetime

NS = 1_000_000_000


def fixed_time(text: str) -> str:
    """Any RFC 3339 text with exactly nine digits of fraction and Z: texts of it compare as their times do."""
    if text.endswith("Z") and len(text) >= 20 and text[19] in ".Z":
        return f"{text[:19]}.{text[20:-1]:0<9.9}Z"
    moment = datetime.fromisoformat(text).astimezone(UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond:06d}000Z"


def fixed_time_of(time_ns: int) -> str:
    """UTC nanoseconds since 1970 in the same form."""
    seconds, fraction = divmod(time_ns, NS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{fraction:09d}Z"
