"""JSON bodies into typed values, as forgiving as Go's decoder and no more.

Go reads keys in any letter case, ignores unknown keys, and takes `null` for "not said" (docker-py sends many); msgspec
does none of the first and last. A body is therefore decoded to plain values, folded against the wanted Struct's
fields, and converted. Words of refusal are moby's (daemon/server/httputils/httputils.go ReadJSON).
"""

from __future__ import annotations

import functools
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar, Union

import msgspec

from engine.aggregates.decider import Reason, Rejected
from engine.api.request import Request

T = TypeVar("T")

JSON = "application/json"
DEPTH_MAX = 64
"""Levels of nesting. No body of the API has more than ten; Go stops at 10,000, our own decoders well before."""
TOO_DEEP = "invalid JSON: exceeded max depth"
_STRING_OR_LIST = frozenset({"Cmd", "Entrypoint", "CapAdd", "CapDrop"})
"""Fields that Go's strslice reads from a plain string, too."""


async def decode_body(request: Request, wanted: type[T], *, required: bool = True) -> T:
    """The body as `wanted`, a Struct. Without a body: `wanted()` when not required.

    Raises Rejected(INVALID): unsupported Content-Type header, bad JSON, EOF, a value of the wrong type, several
    documents."""
    content_type = request.headers.get("Content-Type", "")
    if content_type or _has_body(request):
        check_content_type(content_type)
    body = await request.body.whole()
    if not body.strip():
        if required:
            raise Rejected(Reason.INVALID, "invalid JSON: got EOF while reading request body")
        return wanted()
    return decode_json(body, wanted)


def decode_json(body: bytes, wanted: type[T]) -> T:
    """Decode one document. Raises Rejected(INVALID) `invalid JSON: ...`."""
    try:
        # Go reads U+FFFD for bytes that are no text.
        plain = msgspec.json.decode(body.decode(errors="replace"))
    except RecursionError as error:
        raise Rejected(Reason.INVALID, TOO_DEEP) from error
    except msgspec.DecodeError as error:
        if "trailing characters" in str(error):
            raise Rejected(Reason.INVALID, "unexpected content after JSON") from error
        raise Rejected(Reason.INVALID, f"invalid JSON: {error}") from error
    _check_bounds(plain, DEPTH_MAX)
    if b"\\u0000" in body:
        _check_texts(plain)
    try:
        return msgspec.convert({} if plain is None else fold(plain, wanted), wanted)
    except msgspec.ValidationError as error:
        raise Rejected(Reason.INVALID, f"invalid JSON: {error}") from error


def _check_bounds(value: Any, depth: int) -> None:
    """What Go's decoder refuses by its types and the log could not hold: numbers beyond 64 bits, endless nesting."""
    if depth == 0:
        raise Rejected(Reason.INVALID, TOO_DEEP)
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            words = f"invalid JSON: json: cannot unmarshal number {value} into Go value of type int64"
            raise Rejected(Reason.INVALID, words)
        return
    for inner in value:
        _check_bounds(inner, depth - 1)


def _check_texts(value: Any) -> None:
    """No path, name, argument or variable can hold a zero byte: the kernel would take what stands before it."""
    if isinstance(value, str) and "\0" in value:
        raise Rejected(Reason.INVALID, "invalid JSON: a text holds a zero byte: invalid argument")
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list):
        for inner in value:
            _check_texts(inner)


def check_content_type(content_type: str) -> None:
    if not content_type:
        raise Rejected(Reason.INVALID, "malformed Content-Type header (): mime: no media type")
    if content_type.partition(";")[0].strip().lower() != JSON:
        raise Rejected(Reason.INVALID, f"unsupported Content-Type header ({content_type}): must be '{JSON}'")


def fold(value: Any, wanted: Any) -> Any:
    """Plain JSON values with keys renamed to the fields of `wanted`, and nulls of Structs left out."""
    wanted = _without_none(wanted)
    if isinstance(value, dict):
        if isinstance(wanted, type) and issubclass(wanted, msgspec.Struct):
            return _fold_struct(value, wanted)
        if typing.get_origin(wanted) in (Mapping, dict):
            item = typing.get_args(wanted)[1]
            return {key: fold(inner, item) for key, inner in value.items()}
    elif isinstance(value, list) and typing.get_origin(wanted) in (tuple, list):
        item = typing.get_args(wanted)[0]
        return [fold(inner, item) for inner in value]
    return value


def _fold_struct(value: dict[str, Any], wanted: type[msgspec.Struct]) -> dict[str, Any]:
    fields = _fields(wanted)
    folded: dict[str, Any] = {}
    for key, inner in value.items():
        field = fields.get(key) or fields.get(key.lower())
        if field is None or inner is None:
            continue
        name, kind = field
        if name in _STRING_OR_LIST and isinstance(inner, str):
            inner = [inner]
        folded[name] = fold(inner, kind)
    return folded


@functools.cache
def _fields(wanted: type[msgspec.Struct]) -> dict[str, tuple[str, Any]]:
    """By encoded name and by lower-cased name: (encoded name, type). A cache of what types say, not of state."""
    hints = typing.get_type_hints(wanted)
    found: dict[str, tuple[str, Any]] = {}
    for field in msgspec.structs.fields(wanted):
        entry = (field.encode_name, hints[field.name])
        found[field.encode_name.lower()] = entry
    for field in msgspec.structs.fields(wanted):
        found[field.encode_name] = (field.encode_name, hints[field.name])
    return found


def _without_none(kind: Any) -> Any:
    if typing.get_origin(kind) in (Union, types.UnionType):
        rest = [part for part in typing.get_args(kind) if part is not type(None)]
        return rest[0] if len(rest) == 1 else kind
    return kind


def _has_body(request: Request) -> bool:
    length = request.headers.get("Content-Length", "")
    return "Transfer-Encoding" in request.headers or bool(re.fullmatch(r"0*[1-9][0-9]*", length))
