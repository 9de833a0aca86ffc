"""`python -m tests.crash.points.table FILE`: the table of docs/reliability.md from what a run of the matrix noted."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.crash.points.operations import OPERATIONS

PAGE = Path(__file__).parents[3] / "docs/reliability.md"
KEYS = ("appends", "effects", "supervisor", "deaths")
BEGIN, END = "<!-- matrix -->", "<!-- end of matrix -->"


def table(lines: list[str]) -> str:
    rows = [json.loads(line) for line in lines]
    rows.sort(key=lambda row: list(OPERATIONS).index(row["operation"]))  # noted as they ended
    rows.append({"operation": "all", **{key: sum(row[key] for row in rows) for key in KEYS}})
    text = ["| operation | appends | effects | supervisor and fork | deaths tried |", "|---|--:|--:|--:|--:|"]
    text += ["| " + " | ".join(str(row[key]) for key in ("operation", *KEYS)) + " |" for row in rows]
    return "\n".join(text)


def main(path: str) -> None:
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, behind = rest.partition(END)
    made = table(Path(path).read_text().splitlines())
    PAGE.write_text(f"{before}{BEGIN}\n{made}\n{END}{behind}")


if __name__ == "__main__":
    main(sys.argv[1])
