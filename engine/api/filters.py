"""`?filters=`: the JSON map of list and prune requests, and what matching means.

Both shapes are read: `{"label":["a=b"]}` and `{"label":{"a=b":true}}` (the CLI sends the second). Source of the rules:
moby daemon/internal/filters (ExactMatch, Match, FuzzyMatch, MatchKVList, GetBoolOrDefault).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache

import msgspec

from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.values import patterns

_TRUE = frozenset({"1", "true", "True", "TRUE", "t", "T"})
_FALSE = frozenset({"0", "false", "False", "FALSE", "f", "F"})


class Filters(msgspec.Struct, frozen=True):
    """Values by key, in the client's order. An absent key matches everything."""

    values: Mapping[str, tuple[str, ...]] = {}

    def get(self, key: str) -> tuple[str, ...]:
        return self.values.get(key, ())

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def validate(self, accepted: Collection[str]) -> Filters:
        """Itself, when every key is accepted. Raises Rejected(INVALID) `invalid filter 'x'`."""
        for key in self.values:
            if key not in accepted:
                raise Rejected(Reason.INVALID, f"invalid filter '{key}'")
        return self

    def exact(self, key: str, candidate: str) -> bool:
        wanted = self.get(key)
        return not wanted or candidate in wanted

    def match(self, key: str, candidate: str) -> bool:
        """Equal to, or matched anywhere by, one of the values as a regular expression (names of containers)."""
        return self.exact(key, candidate) or any(_is_found(pattern, candidate) for pattern in self.get(key))

    def prefix(self, key: str, candidate: str) -> bool:
        """Equal to, or beginning with, one of the values (ids; `event=health_status`)."""
        wanted = self.get(key)
        return not wanted or any(candidate.startswith(value) for value in wanted)

    def labels(self, key: str, labels: Mapping[str, str] | None) -> bool:
        """Every value, `name` or `name=value`, is among the labels."""
        return all(_has_label(wanted, labels or {}) for wanted in self.get(key))

    def boolean(self, key: str, *, default: bool) -> bool:
        """One true or false. Raises Rejected(INVALID) `invalid filter 'dangling=[x]'`."""
        wanted = self.get(key)
        if not wanted:
            return default
        truth = any(value in _TRUE for value in wanted)
        falsehood = any(value in _FALSE for value in wanted)
        if len(wanted) != 1 or truth == falsehood:
            raise self.invalid(key)
        return truth

    def invalid(self, key: str) -> Rejected:
        """The refusal of a key's values, for routes with rules of their own."""
        return Rejected(Reason.INVALID, f"invalid filter '{key}=[{' '.join(self.get(key))}]'")


NO_FILTERS = Filters()


def parse(text: str) -> Filters:
    """Parse either shape; "" is no filter. Raises Rejected(INVALID) `invalid filter`."""
    if not text:
        return NO_FILTERS
    try:
        raw = msgspec.json.decode(text, type=dict[str, dict[str, bool] | list[str] | None] | None)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Rejected(Reason.INVALID, "invalid filter") from error
    return Filters({key: tuple(values or ()) for key, values in (raw or {}).items()})


def _is_found(text: str, candidate: str) -> bool:
    pattern = _pattern(text)
    return pattern is not None and pattern.search(candidate) is not None


@lru_cache(maxsize=64)
def _pattern(text: str) -> patterns.Pattern | None:
    """None, which matches nothing, for what does not compile: as moby."""
    try:
        return patterns.compiled(text)
    except ValueError:
        return None


def _has_label(wanted: str, labels: Mapping[str, str]) -> bool:
    name, has_value, value = wanted.partition("=")
    return name in labels and (not has_value or labels[name] == value)
