"""New limits are all in force, or none is (CTR-28)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.drivers.linux.runtime import limits


def test_limits_are_written_in_the_order_given(tmp_path: Path) -> None:
    (tmp_path / "pids.max").write_text("max\n")
    (tmp_path / "cpu.weight").write_text("100\n")
    limits.apply([(f"{tmp_path}/pids.max", b"7"), (f"{tmp_path}/cpu.weight", b"50")])
    assert (tmp_path / "pids.max").read_text() == "7"
    assert (tmp_path / "cpu.weight").read_text() == "50"


def test_a_limit_that_is_refused_takes_back_those_before_it(tmp_path: Path) -> None:
    (tmp_path / "pids.max").write_text("max\n")
    (tmp_path / "cpu.weight").mkdir()
    with pytest.raises(OSError, match="directory"):
        limits.apply([(f"{tmp_path}/pids.max", b"7"), (f"{tmp_path}/cpu.weight", b"50")])
    assert (tmp_path / "pids.max").read_text() == "max"


def picky(monkeypatch: pytest.MonkeyPatch, refuses: Callable[[str, bytes], bool]) -> list[str]:
    """A kernel that refuses some writes with EINVAL."""
    written: list[str] = []

    def write(path: str, data: bytes) -> None:
        if refuses(path, data):
            raise OSError(errno.EINVAL, "invalid argument", path)
        Path(path).write_bytes(data)
        written.append(Path(path).name)

    monkeypatch.setattr(limits, "_write", write)
    return written


def test_memory_grows_although_its_limit_is_above_swaps_at_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, swap = tmp_path / "memory.limit_in_bytes", tmp_path / "memory.memsw.limit_in_bytes"
    memory.write_text("10")
    swap.write_text("20")
    written = picky(monkeypatch, lambda path, data: path == str(memory) and int(data) > int(swap.read_text()))
    limits.apply([(str(memory), b"30"), (str(swap), b"60")])
    assert written == ["memory.memsw.limit_in_bytes", "memory.limit_in_bytes"]


def test_memory_and_swap_find_their_way_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, swap = tmp_path / "memory.limit_in_bytes", tmp_path / "memory.memsw.limit_in_bytes"
    memory.write_text("10")
    swap.write_text("20")

    def refuses(path: str, data: bytes) -> bool:
        if path == str(memory):
            return int(data) > int(swap.read_text())
        return path.endswith("pids.max") or (path == str(swap) and int(data) < int(memory.read_text()))

    picky(monkeypatch, refuses)
    (tmp_path / "pids.max").write_text("max")
    with pytest.raises(OSError, match="invalid argument"):
        limits.apply([(str(memory), b"30"), (str(swap), b"60"), (str(tmp_path / "pids.max"), b"1")])
    assert (memory.read_text(), swap.read_text()) == ("10", "20")


def test_a_memory_limit_below_the_usage_is_refused_and_not_enforced(tmp_path: Path) -> None:
    """On version 2 the kernel would end the container."""
    (tmp_path / "memory.current").write_text("4096\n")
    (tmp_path / "memory.max").write_text("max\n")
    with pytest.raises(OSError, match=r"unable to set memory limit to 1024 \(current usage: 4096\)"):
        limits.apply([(f"{tmp_path}/memory.max", b"1024")])
    assert (tmp_path / "memory.max").read_text() == "max\n"
    limits.apply([(f"{tmp_path}/memory.max", b"8192")])
    assert (tmp_path / "memory.max").read_text() == "8192"
