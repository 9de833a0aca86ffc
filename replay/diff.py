"""`replay diff A B`: what became of everything between two points of history. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from replay.plain import plain
from replay.world import World


class FieldChange(msgspec.Struct, frozen=True, kw_only=True):
    """One place of a state: `endpoints.0.ipv4_address`, before and after (None: not there)."""

    path: str
    before: Any
    after: Any


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one object. kind: `added`, `removed` or `changed`."""

    kind: str
    stream: str
    label: str
    fields: tuple[FieldChange, ...] = ()


def living_states(world: World, kinds: frozenset[str] | None) -> dict[str, Any]:
    """Plain states of what had not ended, by stream; to be taken before the world moves on."""
    return {
        stream: plain(state)
        for stream, state in world.states.items()
        if not world.ended(stream) and (kinds is None or stream.partition(":")[0] in kinds)
    }


def compare(before: dict[str, Any], after: dict[str, Any], world: World) -> list[Change]:
    """`world` is only asked for names."""
    changes = []
    for stream in sorted(before.keys() | after.keys()):
        label = world.label(stream)
        if stream not in before:
            changes.append(Change(kind="added", stream=stream, label=label))
        elif stream not in after:
            changes.append(Change(kind="removed", stream=stream, label=label))
        elif fields := tuple(fields_between(before[stream], after[stream])):
            changes.append(Change(kind="changed", stream=stream, label=label, fields=fields))
    return changes


def fields_between(before: dict[str, Any], after: dict[str, Any]) -> Iterator[FieldChange]:
    """The smallest places in which two plain states differ."""
    return _fields("", before, after)


def _fields(path: str, before: Any, after: Any) -> Iterator[FieldChange]:
    if before == after:
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            yield from _fields(f"{path}.{key}" if path else key, before.get(key), after.get(key))
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from _fields(f"{path}.{index}", old, new)
    else:
        yield FieldChange(path=path, before=before, after=after)
