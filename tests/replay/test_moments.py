"""Points in history as people write them."""

from __future__ import annotations

import pytest

from replay.moments import MomentError, parse_time
from replay.plain import human_duration, human_size

NOW = 1_700_000_000_000_000_000
SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10m ago", NOW - 600 * SECOND),
        ("1h30m", NOW - 5400 * SECOND),
        ("1.5s", NOW - 3 * SECOND // 2),
        ("2d", NOW - 172800 * SECOND),
        ("1700000000", NOW),
        ("1700000000.000000007", NOW + 7),
        ("2023-11-14T22:13:20Z", NOW),
        ("2023-11-14T22:13:20.000000009Z", NOW + 9),
        ("2023-11-14T23:13:20+01:00", NOW),
        ("2023-11-14T22:13", NOW - 20 * SECOND),
        ("2023-11-14 22:13:20", NOW),
        ("2023-11-14", NOW - 80000 * SECOND),
    ],
)
def test_a_time_is_understood(text: str, expected: int) -> None:
    assert parse_time(text, NOW) == expected


@pytest.mark.parametrize("text", ["", "soon", "12 o'clock", "2023-13-01", "m10"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(MomentError):
        parse_time(text, NOW)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (125, "2 minutes"),
        (3600, "About an hour"),
        (3 * 3600, "3 hours"),
        (3 * 86400, "3 days"),
        (20 * 86400, "2 weeks"),
        (90 * 86400, "3 months"),
        (800 * 86400, "2 years"),
    ],
)
def test_durations_are_in_dockers_words(seconds: int, words: str) -> None:
    assert human_duration(seconds * SECOND) == words


def test_sizes_are_dockers() -> None:
    assert human_size(0) == "0B"
    assert human_size(4_260_000) == "4.26MB"
    assert human_size(1_234) == "1.23kB"
