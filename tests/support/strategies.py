"""Hypothesis strategies for msgspec structs, from their own field types: no event can be forgotten."""

from __future__ import annotations

import collections.abc
import enum
import types
from typing import Any, NewType, Union, get_args, get_origin

import msgspec
from hypothesis import strategies as st

_PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(max_size=12),
    int: st.integers(-(2**63), 2**63 - 1),
    bool: st.booleans(),
    bytes: st.binary(max_size=40),
    float: st.floats(allow_nan=False),
    types.NoneType: st.none(),
    Any: st.none() | st.booleans() | st.text(max_size=5) | st.integers(-9, 9),
}
_MAPPINGS = (dict, collections.abc.Mapping)
_SEQUENCES = {tuple: tuple, frozenset: frozenset, list: list, set: set}


def values(type_: Any) -> st.SearchStrategy[Any]:
    """Values of a type as it may stand in an event or a state."""
    if type_ in _PLAIN:
        return _PLAIN[type_]
    if isinstance(type_, NewType):
        return values(type_.__supertype__)
    if isinstance(type_, type) and issubclass(type_, enum.Enum):
        return st.sampled_from(type_)
    if isinstance(type_, type) and issubclass(type_, msgspec.Struct):
        return structs(type_)
    return _composed(type_, get_origin(type_), get_args(type_))


def structs(type_: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    """Instances with any of the optional fields left at their defaults."""
    required, optional = {}, {}
    for field in msgspec.structs.fields(type_):
        (required if field.required else optional)[field.name] = st.deferred(lambda field=field: values(field.type))
    return st.fixed_dictionaries(required, optional=optional).map(lambda given: type_(**given))


def _composed(type_: Any, origin: Any, arguments: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    if origin in (Union, types.UnionType):
        return st.one_of(*map(values, arguments))
    if origin in _MAPPINGS:
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=2)
    if origin is tuple and arguments[-1:] != (Ellipsis,):
        return st.tuples(*map(values, arguments))
    if origin in _SEQUENCES:
        return st.lists(values(arguments[0]), max_size=2).map(_SEQUENCES[origin])
    raise TypeError(f"no strategy for {type_!r}")
