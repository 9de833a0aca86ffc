"""Requests made from the API's specification (tests/api/operations-v1.53.json): right ones, and wrong in every way.

Owns: what may be sent. Refuses to know: what the answers should be.

`values` follows a schema and now and then leaves it: other types, nulls, numbers beyond any register, deep nesting,
texts with NUL, control and non-ASCII characters, texts longer than names may be. HINTS are words that mean something in
a field of that name, so that many requests get past the first check.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote_from_bytes

import msgspec
from hypothesis import strategies as st

from tests.support.hints import HINTS, NUMBERS, PLACES, WORDS

TABLE = json.loads((Path(__file__).parents[1] / "api" / "operations-v1.53.json").read_text())
DEFINITIONS: dict[str, Any] = TABLE["definitions"]


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """query: parameter -> type. statuses: documented ones. body: its schema."""

    method: str
    path: str
    query: dict[str, str]
    statuses: tuple[int, ...]
    body: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"


OPERATIONS = tuple(msgspec.convert(row, Operation) for row in TABLE["operations"])

texts = st.sampled_from(WORDS + PLACES) | st.text(max_size=12)
numbers = st.sampled_from(NUMBERS) | st.integers(-5, 100)
scalars = st.none() | st.booleans() | numbers | texts | st.just(1.5)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)


def values(schema: dict[str, Any], name: str = "") -> st.SearchStrategy[Any]:
    """Mostly what the schema wants; one in eight is something else."""
    fitting = _fitting(schema, name)
    if name in HINTS:
        fitting = st.sampled_from(HINTS[name]) | st.sampled_from(HINTS[name]) | fitting
    return st.integers(0, 7).flatmap(lambda roll: anything if roll == 7 else fitting)


def _fitting(schema: dict[str, Any], name: str) -> st.SearchStrategy[Any]:
    if "$ref" in schema:
        return st.deferred(lambda: _fitting(DEFINITIONS[schema["$ref"]], name))
    if schema.get("enum") and schema.get("type") == "string":
        return st.sampled_from(schema["enum"])
    match schema.get("type"):
        case "boolean":
            return st.booleans()
        case "integer" | "number":
            return numbers
        case "array":
            return st.lists(st.deferred(lambda: values(schema.get("items", {}))), max_size=3)
        case "string":
            return texts
    fields = fields_of(schema)
    if fields:
        return st.lists(st.sampled_from(sorted(fields)), max_size=5, unique=True).flatmap(
            lambda chosen: st.fixed_dictionaries({key: values(fields[key], key) for key in chosen})
        )
    if "additionalProperties" not in schema:
        return anything if "type" not in schema else st.dictionaries(texts, scalars, max_size=3)
    inner = schema["additionalProperties"]
    return st.dictionaries(texts, values(inner if isinstance(inner, dict) else {}), max_size=3)


def fields_of(schema: dict[str, Any]) -> dict[str, Any]:
    """Every field of an object, those of its parts included."""
    if "$ref" in schema:
        return fields_of(DEFINITIONS[schema["$ref"]])
    found = dict(schema.get("properties", {}))
    for part in schema.get("allOf", ()):
        found |= fields_of(part)
    return found


def bodies(operation: Operation) -> st.SearchStrategy[bytes]:
    """JSON by the schema, cut and broken JSON, bytes that are no text, and nothing."""
    wanted = operation.body or {}
    if wanted.get("type") == "string":
        return st.binary(max_size=2000)
    written = values(wanted).map(lambda value: json.dumps(value).encode())
    broken = st.tuples(
        written, st.integers(0, 100), st.sampled_from((b"", b"\xff", b"\0", b'"', b"[[[[[[", b"}{"))
    ).map(lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] + 1 :])
    others = st.sampled_from((b"", b"null", b"{}", b"[]", b"5", b'"x"', b"{}{}", b"[" * 5000, b'{"a":' * 5000))
    return st.one_of(written, written, written, broken, others)


def queries(operation: Operation) -> st.SearchStrategy[str]:
    """A query string: declared parameters with fitting and other values, sometimes twice or unknown."""
    known = sorted(operation.query)
    names = st.sampled_from(known) if known else st.just("nosuch")

    def value(name: str) -> st.SearchStrategy[bytes]:
        fitting: st.SearchStrategy[Any] = {
            "boolean": st.sampled_from(("1", "0", "true", "false", "")),
            "integer": numbers.map(str),
        }.get(operation.query.get(name, ""), texts)
        if name in HINTS:
            fitting = st.sampled_from(HINTS[name])
        elif name in ("t",):
            fitting = st.just("1")
        raw = st.sampled_from((b"\xff", b"%", b"\0", b"\r\n", b"&=&", b"+"))
        other = raw if name == "t" else raw | texts.map(lambda text: text.encode()[:4000])
        return st.integers(0, 9).flatmap(lambda roll: other if roll == 9 else fitting.map(lambda text: text.encode()))

    pairs = names.flatmap(lambda name: value(name).map(lambda text: f"{name}={quote_from_bytes(text)}"))
    return st.lists(pairs, max_size=4).map("&".join)


def targets(operation: Operation, ids: tuple[str, ...]) -> st.SearchStrategy[str]:
    """The path with its name filled in: mostly one of `ids`."""
    if "{" not in operation.path:
        return st.just(operation.path)
    odd = st.sampled_from(("nosuch", "%00", "%ff", "a%2Fb", "..%2F..", "%20", "a" * 300, "0" * 64, "%C3%BC", "json"))
    before, _, rest = operation.path.partition("{")
    after = rest.partition("}")[2]
    names = st.integers(0, 5).flatmap(lambda roll: odd if roll == 5 else st.sampled_from(ids))
    return names.map(lambda name: before + name + after)


def headers(operation: Operation) -> st.SearchStrategy[dict[str, str]]:
    kinds = st.sampled_from(
        ("application/json", "application/json; charset=utf-8", "", "text/plain", "application/x-tar")
    )
    if operation.body is None:
        return st.just({})
    return st.integers(0, 7).flatmap(
        lambda roll: (
            kinds.map(lambda kind: {"Content-Type": kind})
            if roll == 7
            else st.just({"Content-Type": "application/json"})
        )
    )


def named(name: str) -> Operation:
    return next(operation for operation in OPERATIONS if operation.name == name)


def body_fields(name: str) -> dict[str, Any]:
    return fields_of(cast("dict[str, Any]", named(name).body))
