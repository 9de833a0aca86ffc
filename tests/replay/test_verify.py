"""`verify` names the position of every change, loss, insertion and move, down to single bytes."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.verify import Verification, verify
from tests.support.counter import CAUSE, Add, counters

EVENTS = 60


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty events in thirteen commits of one to nine."""
    directory = tmp_path_factory.mktemp("log")

    async def write() -> None:
        async with counters(directory).running() as application:
            for index, amount in enumerate((1, 9, 3, 3, 1, 1, 7, 5, 8, 6, 4, 2, 10)):
                await application.execute(Add(name=f"c{index % 4}", amount=amount), cause=CAUSE)
            assert application.position == EVENTS

    trio.run(write)
    return directory


@pytest.fixture
def copy(log: Path, tmp_path: Path) -> Path:
    shutil.copytree(log, tmp_path / "copy")
    return tmp_path / "copy" / "events.db"


def tamper(path: Path, *statements: str) -> Verification:
    with sqlite3.connect(path) as database:
        for statement in statements:
            database.execute(statement)
    database.close()
    return verify(path)


def kinds(result: Verification) -> list[tuple[int, str]]:
    return [(finding.position, finding.kind) for finding in result.findings]


def test_an_untouched_log_is_whole_and_says_its_head(log: Path) -> None:
    result = verify(log / "events.db", views=log / "views.db")
    assert result.whole
    assert (result.events, result.commits, result.position) == (EVENTS, 13, EVENTS)
    assert verify(log / "events.db", expect=[(EVENTS, result.seal)]).whole


@pytest.mark.parametrize(
    "change",
    [
        "state = x'00' || state",
        "state = NULL",
        "state = CAST(state AS TEXT)",
        "topic = 'counter.ended@1'",
        "topic = 'counter.added@2'",
        "originator_id = 'counter:evil'",
        "originator_version = 4711",
        "originator_version = -1",
        "originator_version = x'33'",
    ],
)
def test_a_changed_column_is_found_at_its_position(copy: Path, change: str) -> None:
    assert kinds(tamper(copy, f"UPDATE stored_events SET {change} WHERE rowid = 23")) == [(23, "changed")]


def test_a_lost_event_is_found(copy: Path) -> None:
    assert kinds(tamper(copy, "DELETE FROM stored_events WHERE rowid = 17")) == [(17, "lost")]


def test_a_lost_event_whose_gap_was_closed_is_found(copy: Path) -> None:
    result = tamper(
        copy,
        "DELETE FROM stored_events WHERE rowid = 17",
        "UPDATE stored_events SET rowid = rowid - 1 WHERE rowid > 17",
    )
    assert kinds(result)[0] == (17, "moved")
    assert "recorded at 18" in result.findings[0].message


def test_an_appended_event_is_found(copy: Path) -> None:
    result = tamper(
        copy, "INSERT INTO stored_events SELECT 'counter:x', 1, topic, state FROM stored_events WHERE rowid = 5"
    )
    assert kinds(result) == [(61, "inserted")]


def test_an_event_squeezed_in_is_found(copy: Path) -> None:
    result = tamper(
        copy,
        "UPDATE stored_events SET rowid = -(rowid + 1) WHERE rowid >= 30",
        "UPDATE stored_events SET rowid = -rowid WHERE rowid < 0",
        "INSERT INTO stored_events (rowid, originator_id, originator_version, topic, state)"
        " SELECT 30, 'counter:x', 1, topic, state FROM stored_events WHERE rowid = 5",
    )
    assert kinds(result)[0] == (30, "inserted")


def test_two_events_that_changed_places_are_found(copy: Path) -> None:
    result = tamper(
        copy,
        "UPDATE stored_events SET rowid = -1 WHERE rowid = 20",
        "UPDATE stored_events SET rowid = 20 WHERE rowid = 33",
        "UPDATE stored_events SET rowid = 33 WHERE rowid = -1",
    )
    assert kinds(result) == [(20, "moved"), (33, "moved")]


@pytest.mark.parametrize(
    ("statement", "position"),
    [
        ("UPDATE chain SET seal = zeroblob(32) WHERE first = 11", 11),
        ("UPDATE chain SET seal = zeroblob(32) WHERE first = 51", 51),
        ("UPDATE chain SET leaves = zeroblob(96) WHERE first = 11", 11),
        ("UPDATE chain SET last = last + 1 WHERE first = 11", 11),
        ("DELETE FROM chain WHERE first = 11", 11),
        ("UPDATE chain SET seal = CAST(seal AS TEXT) WHERE first = 11", 11),
    ],
)
def test_a_changed_chain_is_told_from_a_changed_event(copy: Path, statement: str, position: int) -> None:
    result = tamper(copy, statement)
    assert {finding.kind for finding in result.findings} == {"chain"}
    assert result.findings[0].position == position


def test_an_event_changed_together_with_its_leaf_is_found(copy: Path) -> None:
    result = tamper(
        copy,
        "UPDATE stored_events SET topic = 'counter.ended@1' WHERE rowid = 1",
        "UPDATE chain SET leaves = zeroblob(32) WHERE first = 1",
    )
    assert (1, "chain") in kinds(result)
    assert (1, "changed") in kinds(result)


def test_a_lost_tail_is_noticed_by_the_head_in_views_db_or_one_kept_elsewhere(copy: Path) -> None:
    whole = verify(copy)
    tamper(copy, "DELETE FROM stored_events WHERE rowid > 50", "DELETE FROM chain WHERE first > 50")
    assert verify(copy).whole, "without a witness a shorter log is a log"
    assert kinds(verify(copy, views=copy.parent / "views.db")) == [(51, "tail")]
    assert kinds(verify(copy, expect=[(EVENTS, whole.seal)])) == [(51, "tail")]
    assert kinds(verify(copy, expect=[(50, "00" * 32)])) == [(50, "changed")]


@pytest.mark.parametrize(
    ("text", "damaged"),
    [
        (b"first INTEGER PRIMARY KEY", b"first INTEGEQ PRIMARY KEY"),
        (b"leaves BLOB", b"leavez BLOB"),
        (b"originator_version INTEGER", b"originator_versiom INTEGER"),
        (b"stored_events (", b"stored_eventz ("),
    ],
)
def test_a_damaged_schema_is_damage(log: Path, tmp_path: Path, text: bytes, damaged: bytes) -> None:
    content = (log / "events.db").read_bytes()
    assert text in content
    (tmp_path / "events.db").write_bytes(content.replace(text, damaged))
    assert not verify(tmp_path / "events.db").whole


def test_a_file_that_is_no_database_is_damage_and_not_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    path.write_bytes(b"this was a log once" * 1000)
    assert kinds(verify(path)) == [(0, "file")]


def event_bytes(path: Path) -> list[tuple[int, int]]:
    """(offset, position) of every byte of every column of every event, found by searching for the records."""
    content = path.read_bytes()
    with sqlite3.connect(path) as database:
        database.text_factory = bytes
        rows = database.execute("SELECT rowid, * FROM stored_events").fetchall()
    database.close()
    found = []
    for position, stream, version, topic, state in rows:
        # SQLite needs no byte for the integer 1: it is in the record's header.
        record = stream + (bytes([version]) if version > 1 else b"") + topic + state
        start = content.index(record)
        assert content.count(record) == 1
        found += [(offset, position) for offset in range(start, start + len(record))]
    return found


def test_any_flipped_bit_of_a_stored_event_is_found_with_its_position(log: Path, tmp_path: Path) -> None:
    original = (log / "events.db").read_bytes()
    places = event_bytes(log / "events.db")
    path = tmp_path / "events.db"

    @settings(max_examples=150, deadline=None)
    @given(st.sampled_from(places), st.integers(0, 7))
    def check(place: tuple[int, int], bit: int) -> None:
        offset, position = place
        flipped = bytearray(original)
        flipped[offset] ^= 1 << bit
        path.write_bytes(flipped)
        result = verify(path)
        assert position in {finding.position for finding in result.findings}

    check()


def test_any_flipped_bit_of_the_file_leaves_the_events_as_they_were_or_is_found(log: Path, tmp_path: Path) -> None:
    """Record headers, row ids, page headers, indexes: whatever is hit, no other history passes for whole."""
    original = (log / "events.db").read_bytes()
    path = tmp_path / "events.db"

    def history() -> object:
        with sqlite3.connect(path) as database:
            rows = database.execute("SELECT rowid, *, typeof(state) FROM stored_events ORDER BY rowid").fetchall()
        database.close()
        return rows

    path.write_bytes(original)
    true_history = history()

    @settings(max_examples=600, deadline=None)
    @given(st.integers(0, len(original) - 1), st.integers(0, 7))
    def check(offset: int, bit: int) -> None:
        flipped = bytearray(original)
        flipped[offset] ^= 1 << bit
        path.write_bytes(flipped)
        if verify(path).whole:
            assert history() == true_history

    check()
