"""json-file entries byte by byte, and rotation."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from engine.drivers.linux.runtime.supervisor.logs import open_writer
from engine.drivers.linux.runtime.supervisor.logs.files import open_log
from engine.drivers.linux.runtime.supervisor.logs.json_file import Encoder, escape, timestamp
from engine.drivers.linux.runtime.supervisor.logs.lines import PARTIAL_SIZE
from engine.drivers.linux.runtime.supervisor.loop import Loop

NOW = 1_700_000_000_120_000_000


def encode(*chunks: bytes, attrs: bytes = b"") -> bytes:
    encoder = Encoder(b"stdout", attrs)
    return b"".join(encoder.feed(chunk, NOW) for chunk in chunks) + encoder.finish(NOW)


def test_an_entry_has_dockers_bytes() -> None:
    expected = b'{"log":"a\\u003cb\\u003e \\u0026 \\"q\\" \\\\ \\u0009\\r\\n","stream":"stdout","attrs":{"k":"v"},'
    assert encode(b'a<b> & "q" \\ \t\r\n', attrs=b'{"k":"v"}') == expected + b'"time":"2023-11-14T22:13:20.12Z"}\n'


def test_times_have_no_trailing_zeros() -> None:
    assert timestamp(1_700_000_000_000_000_000) == b"2023-11-14T22:13:20Z"
    assert timestamp(1_700_000_000_000_000_001) == b"2023-11-14T22:13:20.000000001Z"


def test_invalid_bytes_become_replacement_characters_one_each() -> None:
    assert escape(b"\xff\xc3\xa9\xed\xa0\x80\xe2\x80\xa8") == "\\ufffdé".encode() + b"\\ufffd" * 3 + b"\\u2028"


@given(st.lists(st.binary(max_size=200), max_size=8))
def test_any_output_comes_back_whole_whatever_the_chunks(chunks: list[bytes]) -> None:
    lines = [json.loads(line) for line in encode(*chunks).splitlines()]
    whole = b"".join(chunks)
    text = whole.decode("utf-8", "surrogateescape")
    expected = "".join("\ufffd" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in text)
    assert "".join(line["log"] for line in lines) == expected
    assert [line["log"].endswith("\n") for line in lines[:-1]] == [True] * len(lines[:-1])


@given(st.integers(min_value=1, max_value=5), st.booleans())
def test_long_lines_are_split_between_characters(factor: int, ended: bool) -> None:
    line = "é".encode() * (PARTIAL_SIZE // 2 * factor) + b"xyz" + (b"\n" if ended else b"")
    for chunks in ([line], [line[n : n + 65536] for n in range(0, len(line), 65536)], [line[:7], line[7:]]):
        logs = [json.loads(entry)["log"] for entry in encode(*chunks).splitlines()]
        assert "".join(logs).encode() == line
        assert all(len(log.encode()) <= PARTIAL_SIZE for log in logs)


def spec(path: Path, **options: object) -> dict[str, object]:
    return {"driver": "json-file", "path": str(path), "max_files": 1, "compress": False, "attrs": b"", **options}


def test_rotation_keeps_the_asked_number_of_files_and_compresses(tmp_path: Path) -> None:
    path, loop, room = tmp_path / "c.log", Loop(), []
    log = open_writer(
        spec(path, max_size=1000, max_files=3, compress=True), open_log(str(path)), loop, lambda: room.append(1)
    )
    assert log is not None
    written = 0
    while written < 40 or log.full:
        while log.full:
            loop.turn(10)
        log.feed("stdout", b"%d\n" % written, NOW)
        written += 1
    while any(path.name.endswith((".1", ".new")) for path in tmp_path.iterdir()):
        loop.turn(10)
    log.leave(lambda: None)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.log", "c.log.1.gz", "c.log.2.gz"]


def test_nothing_is_lost_when_output_outruns_the_compression(tmp_path: Path) -> None:
    """LOG-01: while a rotated file is being compressed the full one waits, so that no file takes another's place."""
    path, loop, room = tmp_path / "c.log", Loop(), []
    log = open_writer(
        spec(path, max_size=2000, max_files=100, compress=True), open_log(str(path)), loop, lambda: room.append(1)
    )
    assert log is not None
    for number in range(200):
        log.feed("stdout", b"%d\n" % number, NOW)
        if log.full and number % 3:  # Now and then the writer is given more than it asked for.
            while log.full:
                loop.turn(10)
    while any(path.name.endswith((".1", ".new")) for path in tmp_path.iterdir()):
        loop.turn(10)
    log.leave(lambda: None)
    found = [gzip.decompress(p.read_bytes()) for p in tmp_path.glob("*.gz")] + [path.read_bytes()]
    numbers = [int(json.loads(line)["log"]) for data in found for line in data.splitlines()]
    assert sorted(numbers) == list(range(200))
    assert room


def test_one_file_is_truncated_in_place(tmp_path: Path) -> None:
    path = tmp_path / "c.log"
    log = open_writer(spec(path, max_size=500), open_log(str(path)), Loop(), lambda: None)
    assert log is not None
    log.feed("stdout", b"".join(b"%d\n" % number for number in range(100)), NOW)
    log.leave(lambda: None)
    assert path.stat().st_size <= 600
    assert json.loads(path.read_text().splitlines()[-1])["log"] == "99\n"
