"""Rows of Docker's behaviour against the tests that name them. `python -m tests.support.rows` writes the table.

Owns: reading tests/support/rows.txt and the docstrings of tests, and docs/reference/rows.md. A docstring names a row
("CTR-07: ...") or a range of them ("CTR-30..33"). Refuses to know whether a test says enough.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[2]
LIST = Path(__file__).with_name("rows.txt")
PAGE = ROOT / "docs/reference/rows.md"
_NAMED = re.compile(r"\b([A-Z]{3})-(\d\d)((?:(?:, |/)\d\d\b)*)(?:\.\.(\d\d))?")
HEAD = """# Rows and tests

Which test shows which row of Docker's behaviour. A test names its rows in its docstring; the rows and their titles are
in [tests/support/rows.txt](../../tests/support/rows.txt). Written by `python -m tests.support.rows`.

| row | what | tests |
|---|---|---|
"""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """missing: why there is no test yet, "" when there should be one."""

    id: str
    title: str
    missing: str = ""


def rows() -> tuple[Row, ...]:
    found = []
    for line in LIST.read_text().splitlines():
        if line and not line.startswith("#"):
            text, _, missing = line.partition(" -- ")
            name, _, title = text.partition(" ")
            found.append(Row(id=name, title=title, missing=missing))
    return tuple(found)


def named_in(text: str) -> Iterator[str]:
    """The rows that a docstring names: `CTR-07`, `CTR-30..33`, `EXE-01, 03`."""
    for family, number, more, last in _NAMED.findall(text):
        for each in range(int(number), int(last or number) + 1):
            yield f"{family}-{each:02}"
        yield from (f"{family}-{each}" for each in re.findall(r"\d\d", more))


def tests_by_row() -> Mapping[str, list[str]]:
    """Row -> `path::test`, in the order of files and lines."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                for row in dict.fromkeys(named_in(ast.get_docstring(node) or "")):
                    found.setdefault(row, []).append(f"{path.relative_to(ROOT)}::{node.name}")
    return found


def render() -> str:
    tests = tests_by_row()
    lines = []
    for row in rows():
        shown = "<br>".join(f"`{test.removeprefix('tests/')}`" for test in tests.get(row.id, ()))
        lines.append(f"| {row.id} | {row.title} | {shown or row.missing} |")
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(render())
