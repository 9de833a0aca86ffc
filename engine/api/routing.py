"""From a method and a path to the function that answers.

Owns the patterns: `/containers/<name>/start`, where a `<name>` is one segment and a `<path:name>` one or more. A
pattern with more fixed segments is tried first, then one without a path. Refuses to know: requests, answers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

import msgspec

from engine.api.responses import Response

View = Callable[..., Awaitable[Response]]
_PATH = "path:"


class NoRoute(LookupError):  # noqa: N818 - it says what there is not
    """No pattern matches, or none for this method: to Docker's clients that is the same."""


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """segments: of the pattern. long: where in them the variable stands that may take several, or -1."""

    pattern: str
    method: str
    view: View
    segments: tuple[str, ...]
    long: int

    @classmethod
    def of(cls, pattern: str, method: str, view: View) -> Rule:
        segments = tuple(pattern.split("/")[1:])
        longs = [at for at, segment in enumerate(segments) if segment.startswith(f"<{_PATH}")]
        return cls(pattern=pattern, method=method, view=view, segments=segments, long=longs[0] if longs else -1)

    @property
    def order(self) -> tuple[int, bool]:
        return -sum(not _variable(segment) for segment in self.segments), self.long >= 0

    def match(self, parts: list[str]) -> dict[str, str] | None:
        """The variables' values, or None. parts: the segments of a path."""
        extra = len(parts) - len(self.segments)
        if extra and (self.long < 0 or extra < 0):
            return None
        if extra:
            end = self.long + extra + 1
            parts = [*parts[: self.long], "/".join(parts[self.long : end]), *parts[end:]]
        found: dict[str, str] = {}
        for segment, part in zip(self.segments, parts, strict=True):
            if name := _variable(segment):
                if not part or part[0] == "/":
                    return None
                found[name] = part
            elif segment != part:
                return None
        return found


def _variable(segment: str) -> str:
    """The name of a variable segment, or ""."""
    return segment[1:-1].removeprefix(_PATH) if segment[:1] == "<" else ""


class Routes:
    """The table of an application."""

    def __init__(self) -> None:
        self._rules: dict[tuple[str, str], list[Rule]] = {}
        """By method and first segment, which is fixed in every pattern; in the order they are tried in."""

    def __iter__(self) -> Iterator[Rule]:
        return (rule for rules in self._rules.values() for rule in rules)

    def add(self, pattern: str, view: View, methods: Iterable[str]) -> None:
        for method in methods:
            rule = Rule.of(pattern, method, view)
            rules = self._rules.setdefault((method, rule.segments[0]), [])
            rules.append(rule)
            rules.sort(key=lambda rule: rule.order)

    def match(self, method: str, path: str) -> tuple[View, dict[str, Any]]:
        """The view and its arguments. What has no answer of its own to HEAD is asked as GET. Raises NoRoute."""
        parts = path.split("/")[1:]
        for asked in ("HEAD", "GET") if method == "HEAD" else (method,):
            for rule in self._rules.get((asked, parts[0] if parts else ""), ()):
                if (arguments := rule.match(parts)) is not None:
                    return rule.view, arguments
        raise NoRoute(path)
