"""Generates docs/reference/events.md from the event classes: `python -m engine.reference` (`--check` only compares).

Owns: the page. A test fails when the page in the tree is not the one that the code gives.
"""

from __future__ import annotations

import enum
import inspect
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from engine.aggregates.catalog import ALL_DECIDERS
from engine.aggregates.decider import Decider, Event

PAGE = Path("docs/reference/events.md")

_HEAD = """# Events

Generated from the code by `python -m engine.reference`; do not edit. What a row of the log looks like is told in
[the log](../design/log.md); fields that have their default are left out of the stored payload.
"""

_TABLE = "| field | type | default |\n|---|---|---|\n"


def events_page(deciders: Iterable[Decider[Any]] = ALL_DECIDERS) -> str:
    """The whole page."""
    parts = [_HEAD]
    for decider in sorted(deciders, key=lambda decider: decider.name):
        parts.append(f"\n## {decider.name}\n\nStream `{decider.name}:<key>`. {_title_of(decider)}\n")
        parts.extend(_section(event) for event in decider.events)
    parts.append("\n## Values\n\nWhat fields are made of, with their stored names.\n")
    values = _values_of(event for decider in deciders for event in decider.events)
    parts.extend(_value_section(value) for value in sorted(values, key=lambda value: value.__name__))
    return "".join(parts)


def _values_of(types: Iterable[Any]) -> set[type]:
    """Structs and enumerations that these types' fields are made of, at any depth."""
    found: set[type] = set()
    waiting = [field.type for type_ in types for field in msgspec.structs.fields(type_)]
    while waiting:
        type_ = waiting.pop()
        waiting.extend(getattr(type_, "__args__", ()))
        if not isinstance(type_, type) or type_ in found:
            continue
        if issubclass(type_, msgspec.Struct):
            found.add(type_)
            waiting.extend(field.type for field in msgspec.structs.fields(type_))
        elif issubclass(type_, enum.Enum):
            found.add(type_)
    return found


def _value_section(value: type) -> str:
    text = f"\n### {value.__name__}\n"
    if issubclass(value, enum.Enum):
        return text + "\nOne of " + ", ".join(f"`{member.value}`" for member in value) + ".\n"
    own_doc = value.__dict__.get("__doc__")
    said = " ".join(inspect.cleandoc(own_doc).split()) if own_doc else ""
    return text + (f"\n{said}\n" if said else "") + "\n" + _TABLE + "".join(_rows(value))


def _section(event: type[Event]) -> str:
    low = " Low retention." if event.RETENTION.value == "low" else ""
    text = f"\n### `{event.NAME}` (version {event.SCHEMA})\n\n"
    said = _doc(event)
    text += f"{said}{low}\n" if said or low else f"`{event.__name__}`.\n"
    rows = list(_rows(event))
    if rows:
        text += "\n" + _TABLE + "".join(rows)
    return text


def _rows(event: Any) -> Iterator[str]:
    for field in msgspec.structs.fields(event):
        if field.required:
            default = "required"
        elif field.default is not msgspec.NODEFAULT:
            default = f"`{_default(field.default)}`"
        else:
            default = "empty"
        yield f"| `{field.encode_name}` | `{_type_name(field.type)}` | {default} |\n"


def _default(value: Any) -> str:
    if isinstance(value, msgspec.Struct):
        return f"{type(value).__name__}()"
    return repr(value)


def _type_name(type_: Any) -> str:
    """`tuple[Endpoint, ...]`, `Sealed or None`; a NewType by its own name."""
    if type_ is type(None):
        return "None"
    name = getattr(type_, "__name__", None)
    arguments = getattr(type_, "__args__", ())
    if arguments and (name is None or name in ("Union", "UnionType", "Optional")):
        return " or ".join(_type_name(argument) for argument in arguments)
    if arguments:
        inner = ", ".join("..." if argument is Ellipsis else _type_name(argument) for argument in arguments)
        return f"{name}[{inner}]"
    return name or str(type_)


def _title_of(decider: Decider[Any]) -> str:
    """The first line of the aggregate's module (of its package's events module, where it is one)."""
    module = sys.modules[decider.events[0].__module__]
    return (module.__doc__ or "").strip().partition("\n")[0]


def _doc(event: type[Event]) -> str:
    # A class without a docstring would inherit its base's, which says nothing about it.
    return " ".join(inspect.cleandoc(event.__dict__.get("__doc__") or "").split())


def main(arguments: list[str]) -> int:
    """Write the page, or with `--check` say whether it is current. The exit code."""
    page = events_page()
    if "--check" in arguments:
        current = PAGE.exists() and PAGE.read_text() == page
        sys.stdout.write(f"{PAGE} is {'current' if current else 'stale: run python -m engine.reference'}\n")
        return 0 if current else 1
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
