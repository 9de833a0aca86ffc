"""Every row of Docker's behaviour has a test that names it, or says why it has none.

The table in docs/reference is not compared word by word: it changes with every test. It must know every row.
"""

from __future__ import annotations

from tests.support import rows


def test_every_row_has_a_test_or_says_why_not() -> None:
    tests = rows.tests_by_row()
    bare = [row.id for row in rows.rows() if not row.missing and row.id not in tests]
    assert bare == []


def test_the_page_knows_every_row() -> None:
    page = rows.PAGE.read_text()
    assert [row.id for row in rows.rows() if f"| {row.id} | {row.title} |" not in page] == []


def test_docstrings_name_single_rows_ranges_and_lists() -> None:
    assert list(rows.named_in("CTR-07, CTR-30..32: words; EXE-01, 03 and LOG-01/02")) == [
        "CTR-07", "CTR-30", "CTR-31", "CTR-32", "EXE-01", "EXE-03", "LOG-01", "LOG-02",
    ]  # fmt: skip
