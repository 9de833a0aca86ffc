"""The states one object has gone through: what `blame` and `bisect` look at.

`blame OBJECT [FIELD]`: who made each field what it is, by which event. `bisect OBJECT PREDICATE`: the first event after
which something held. One stream only, so neither folds the world.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from engine.aggregates.decider import Decider, Recorded
from replay.diff import fields_between
from replay.plain import plain
from replay.reader import UnknownEvent


class PredicateError(ValueError):
    """Nobody can tell what is asked."""


class Life(msgspec.Struct, frozen=True, kw_only=True):
    """An event and the plain state that it led to. gone: the object has ended with it."""

    recorded: Recorded
    state: dict[str, Any]
    gone: bool


class Blamed(msgspec.Struct, frozen=True, kw_only=True):
    """A field, its value, and the event that made it so."""

    path: str
    value: Any
    recorded: Recorded


Predicate = Callable[[Life], bool]


def lives(decider: Decider[Any], history: Iterable[Recorded]) -> Iterator[Life]:
    """Of one stream, in order. What this version does not know changes nothing."""
    state: Any = None
    for recorded in history:
        if state is None:
            state = decider.initial(recorded.key)
        if not isinstance(recorded.event, UnknownEvent):
            state = decider.evolve(state, recorded.event)
        yield Life(recorded=recorded, state=plain(state), gone=decider.terminal(state))


def blame(story: Iterable[Life], field: str = "") -> list[Blamed]:
    """Every field that says something, or those at and below one path, by path. A list that grows or shrinks is blamed
    as a whole."""
    before: dict[str, Any] = {}
    blamed: dict[str, Recorded] = {}
    for life in story:
        for change in fields_between(before, life.state):
            for path in [path for path in blamed if path.startswith(f"{change.path}.")]:
                del blamed[path]  # what was below it is gone with what it was
            for path, _ in _leaves(change.path, change.after):
                blamed[path] = life.recorded
        before = life.state
    return [
        Blamed(path=path, value=value, recorded=blamed[path])
        for path, value in _leaves("", before)
        if path in blamed and value not in (None, "", [], {}) and _is_below(path, field)
    ]


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Places that hold no map themselves; lists as wholes when they are of plain values."""
    if isinstance(value, dict) and value:
        for key, item in sorted(value.items()):
            yield from _leaves(f"{path}.{key}" if path else key, item)
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for index, item in enumerate(value):
            yield from _leaves(f"{path}.{index}", item)
    else:
        yield path, value


def _is_below(path: str, field: str) -> bool:
    return not field or path == field or path.startswith(f"{field}.")


def predicate(text: str) -> Predicate:
    """`gone`, `FIELD` (says something), `FIELD=VALUE`, `FIELD!=VALUE`, `FIELD~REGEX`; fields as `blame` prints them.
    Raises PredicateError."""
    if text == "gone":
        return lambda life: life.gone
    match = re.fullmatch(r"([\w.:/-]+)(?:(!=|=|~)(.*))?", text, re.DOTALL)
    if match is None:
        raise PredicateError(f"{text!r} is no predicate: gone, FIELD, FIELD=VALUE, FIELD!=VALUE or FIELD~REGEX")
    path, operator, wanted = match[1], match[2], match[3] or ""
    if operator is None:
        return lambda life: _at(life.state, path) not in (None, "", [], {}, False, 0)
    if operator == "~":
        try:
            pattern = re.compile(wanted)
        except re.error as error:
            raise PredicateError(f"{wanted!r} is no regular expression: {error}") from error
        return lambda life: pattern.search(_text(_at(life.state, path))) is not None
    return lambda life: (_text(_at(life.state, path)) == wanted) == (operator == "=")


def _at(state: Any, path: str) -> Any:
    """The value at a path; None where there is nothing."""
    for part in path.split("."):
        if isinstance(state, dict):
            state = state.get(part)
        elif isinstance(state, list) and part.isdecimal() and int(part) < len(state):
            state = state[int(part)]
        else:
            return None
    return state


def _text(value: Any) -> str:
    """As one writes it in a predicate: true, 5, running, nothing for what is not there."""
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def bisect(story: Iterable[Life], holds: Predicate) -> Life | None:
    """The first state for which it holds, and did not before; None when it never did."""
    return next((life for life in story if holds(life)), None)
