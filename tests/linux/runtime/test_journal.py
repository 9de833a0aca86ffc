"""The supervisor's journal of exits: what is damaged is not believed (WIN-09, WIN-20)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.drivers.linux.runtime.supervisor.journal import Journal

EXIT = {
    "container_id": "c" * 64, "run": 2, "exec_id": "", "exit_code": 7, "oom_killed": False, "finished_at_ns": 12_345
}  # fmt: skip


def journal(tmp_path: Path) -> tuple[Journal, Path]:
    made = Journal(str(tmp_path))
    made.record(dict(EXIT), durable=True)
    (path,) = tmp_path.iterdir()
    return made, path


def test_an_exit_is_read_as_it_was_recorded(tmp_path: Path) -> None:
    made, path = journal(tmp_path)
    assert made.read() == [EXIT]
    made.forget("c" * 64, 2, "")
    assert not path.exists()


def test_no_damage_to_a_file_makes_it_another_exit(tmp_path: Path) -> None:
    made, path = journal(tmp_path)
    whole = path.read_bytes()
    damaged = [whole[:length] for length in range(len(whole))]
    damaged += [whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :] for at in range(len(whole)) for bit in (1, 16)]
    for data in damaged:
        path.write_bytes(data)
        assert made.read() == [], data
        assert not path.exists(), data


@pytest.mark.parametrize("suffix", ["", ".new"])
def test_a_file_of_an_older_supervisor_is_read(tmp_path: Path, suffix: str) -> None:
    made = Journal(str(tmp_path))
    path = tmp_path / f"{'c' * 64}.2{suffix}"
    path.write_bytes(b"7 0 12345\n")
    found: list[Any] = made.read()
    assert found == [EXIT]
