"""Configuration values as Docker prints them: every field, also the ones left at their default.

The log leaves defaults out; `inspect` must not (clients index into it).
"""

from __future__ import annotations

import functools
from typing import Any

import msgspec


def full(value: Any) -> Any:
    """A Struct as a dict by its JSON names, nested Structs likewise; other values as they are."""
    if isinstance(value, msgspec.Struct):
        return {encoded: full(getattr(value, name)) for name, encoded in _names(type(value))}
    if isinstance(value, tuple):
        return [full(item) for item in value]
    if isinstance(value, dict):
        return {key: full(item) for key, item in value.items()}
    return value


@functools.cache
def _names(kind: type[msgspec.Struct]) -> tuple[tuple[str, str], ...]:
    """(attribute, JSON name) of every field: a cache of what the type says, not of state."""
    return tuple((field.name, field.encode_name) for field in msgspec.structs.fields(kind))
