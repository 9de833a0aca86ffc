"""Regular expressions that users send: Go's language, and Go's promise that none of them takes for ever.

RE2 does both. Python's own engine backtracks, so that thirty characters of a filter could hold up the engine for years.
It is imported when the first expression comes: most engines never see one (10 ms, 3 MB).
"""

from __future__ import annotations

from typing import Protocol


class Pattern(Protocol):
    """A compiled expression; None where there is no match."""

    def search(self, text: str) -> object | None: ...

    def fullmatch(self, text: str) -> object | None: ...


def compiled(text: str) -> Pattern:
    """Raises ValueError in Go's words for what is no expression."""
    import re2

    options = re2.Options()
    options.log_errors = False
    try:
        pattern: Pattern = re2.compile(text, options)
    except re2.error as error:
        raise ValueError(f"error parsing regexp: {error.args[0].decode(errors='replace')}") from error
    return pattern
