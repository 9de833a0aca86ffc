"""json-file entries byte by byte, and rotation."""

from __future__ import annotations

import json
import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from engine.drivers.linux.runtime.supervisor.jsonlog import PARTIAL_SIZE, Encoder, LogFile, escape, timestamp

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


def test_rotation_keeps_the_asked_number_of_files_and_compresses(tmp_path: Path) -> None:
    path = tmp_path / "c.log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    log = LogFile(fd, {"path": str(path), "max_size": 1000, "max_files": 3, "compress": True})
    for number in range(40):
        log.write(encode(b"%d\n" % number))
        while True:
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                break
    log.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.log", "c.log.1.gz", "c.log.2.gz"]


def test_one_file_is_truncated_in_place(tmp_path: Path) -> None:
    path = tmp_path / "c.log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    log = LogFile(fd, {"path": str(path), "max_size": 500, "max_files": 1, "compress": False})
    log.write(b"".join(encode(b"%d\n" % number) for number in range(100)))
    log.close()
    assert path.stat().st_size <= 600
    assert json.loads(path.read_text().splitlines()[-1])["log"] == "99\n"
