"""The facts of an Engine API specification that generated tests need, without its prose.

    scripts/spec_table.py engine-api-v1.53.yaml > tests/api/operations-v1.53.json

One operation a line (parameters, documented statuses, body), then one definition a line (types and fields only). Parts
that this engine has not got at all (swarm, plugins) are left out. Needs PyYAML, which nothing else here does.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import yaml  # type: ignore[import-untyped, unused-ignore]

LEFT_OUT = ("/swarm", "/nodes", "/services", "/tasks", "/secrets", "/configs", "/plugins")
KEPT = ("type", "format", "enum", "required", "additionalProperties", "items", "properties")


def main() -> None:
    with open(sys.argv[1]) as source:
        spec = yaml.safe_load(source)
    operations = [
        operation(method.upper(), path, details)
        for path, methods in spec["paths"].items()
        if not path.startswith(LEFT_OUT)
        for method, details in methods.items()
    ]
    definitions: dict[str, Any] = {}
    for one in operations:
        collect(one.get("body"), spec["definitions"], definitions)
    print('{"operations": [')
    print(",\n".join(json.dumps(one, sort_keys=True) for one in operations))
    print('], "definitions": {')
    print(",\n".join(f"{json.dumps(name)}: {json.dumps(definitions[name])}" for name in sorted(definitions)))
    print("}}")


def operation(method: str, path: str, details: dict[str, Any]) -> dict[str, Any]:
    parameters = details.get("parameters", [])
    found: dict[str, Any] = {
        "method": method,
        "path": path,
        "query": {one["name"]: one.get("type", "string") for one in parameters if one["in"] == "query"},
        "statuses": sorted(int(status) for status in details["responses"]),
    }
    bodies = [one for one in parameters if one["in"] == "body"]
    if bodies:
        found["body"] = compact(bodies[0]["schema"])
    return found


def compact(schema: dict[str, Any]) -> dict[str, Any]:
    """Only what constrains a value; `allOf` stays a list of parts."""
    if "$ref" in schema:
        return {"$ref": schema["$ref"].rpartition("/")[2]}
    found = {key: schema[key] for key in KEPT if key in schema}
    if "allOf" in schema:
        found["allOf"] = [compact(part) for part in schema["allOf"]]
    if "properties" in found:
        found["properties"] = {name: compact(part) for name, part in found["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(found.get(key), dict):
            found[key] = compact(found[key])
    return found


def collect(schema: Any, source: dict[str, Any], into: dict[str, Any]) -> None:
    """Every definition that a schema leads to."""
    if isinstance(schema, list):
        for part in schema:
            collect(part, source, into)
    if not isinstance(schema, dict):
        return
    name = schema.get("$ref")
    if isinstance(name, str) and name not in into:
        into[name] = compact(source[name])
        collect(into[name], source, into)
    for part in schema.values():
        collect(part, source, into)


if __name__ == "__main__":
    main()
