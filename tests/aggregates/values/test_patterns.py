"""Expressions of users: Go's language, in time that grows with the text and not with its powers."""

from __future__ import annotations

import subprocess
import sys

import pytest

from engine.aggregates.values.patterns import compiled

HOPELESS = ("^(a|a)*$", "^(a+)+$", "^" + "a*" * 60 + "b")
"""To an engine that backtracks: 2^4000 ways to fail."""


def test_no_pattern_takes_for_ever() -> None:
    """CTR-01: a filter `name=` holds nobody up."""
    for pattern in HOPELESS:
        assert compiled(pattern).search("a" * 4000 + "!") is None


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [("^/?web", "web1", True), ("(?i)WEB", "a-web", True), ("b$", "abc", False), ("[^a-c]", "ab", False)],
)
def test_what_matches_is_found_anywhere(pattern: str, text: str, found: bool) -> None:
    assert (compiled(pattern).search(text) is not None) == found


@pytest.mark.parametrize("pattern", ["(", "[", "a{1001}", r"\1", "(?=a)", "*", "x{1000}" * 99 + "{1000}", "\ud800"])
def test_what_go_refuses_is_refused(pattern: str) -> None:
    """Also what Python takes: clients write for Docker."""
    with pytest.raises(ValueError):
        compiled(pattern)


def test_an_engine_that_is_sent_none_does_not_load_them() -> None:
    asked = "import sys, engine.bootstrap; print('re2' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", asked], text=True) == "False\n"
