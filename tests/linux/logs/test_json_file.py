"""Reading json-file logs as `docker logs` does: whole, tails, times, following through rotation; real files."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import pytest
import trio

from engine.aggregates.values.log_files import LogFile
from engine.aggregates.values.rfc3339 import fixed_time
from engine.api.shapes.log_lines import LogRenderer
from engine.clock import SystemClock
from engine.drivers.linux.inotify import watches
from engine.drivers.linux.logs.reading import FileLogs
from engine.drivers.linux.runtime.supervisor.logs import open_writer
from engine.drivers.linux.runtime.supervisor.logs.files import open_log
from engine.drivers.linux.runtime.supervisor.loop import Loop
from engine.drivers.ports.logs import LogEntry, LogQuery

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND


def line(number: int, *, stream: str = "stdout", at: int | None = None) -> bytes:
    second = number if at is None else at
    entry = {"log": f"line {number}\n", "stream": stream, "time": f"2023-11-14T22:13:{second % 60:02d}.5Z"}
    return json.dumps(entry, separators=(",", ":")).encode() + b"\n"


def log_at(path: Path) -> LogFile:
    return LogFile(format="json-file", path=str(path))


def texts(entries: list[LogEntry]) -> list[str]:
    return [entry.log.rstrip("\n") for entry in entries]


async def read(path: Path, query: LogQuery, ended: Callable | None = None) -> list[str]:  # type: ignore[type-arg]
    found: list[str] = []
    async with watches() as instance:
        logs = FileLogs(instance, clock=SystemClock(), limiter=trio.CapacityLimiter(2))
        async with aclosing(logs.read(log_at(path), query, render=texts, ended=ended)) as batches:
            async for batch in batches:
                found += batch
    return found


@pytest.fixture
def rotated(tmp_path: Path) -> Path:
    """Lines 0-29 over three files, the oldest compressed."""
    path = tmp_path / "x-json.log"
    (tmp_path / "x-json.log.2.gz").write_bytes(gzip.compress(b"".join(line(n) for n in range(10))))
    (tmp_path / "x-json.log.1").write_bytes(b"".join(line(n) for n in range(10, 20)))
    path.write_bytes(b"".join(line(n) for n in range(20, 30)))
    return path


async def test_all_files_are_read_from_the_oldest(rotated: Path) -> None:
    assert await read(rotated, LogQuery()) == [f"line {n}" for n in range(30)]


@pytest.mark.parametrize("tail", [0, 1, 9, 10, 11, 20, 25, 30, 100])
async def test_a_tail_counts_over_all_files(rotated: Path, tail: int) -> None:
    assert await read(rotated, LogQuery(tail=tail)) == [f"line {n}" for n in range(max(30 - tail, 0), 30)]


async def test_a_tail_of_long_lines_crosses_blocks(tmp_path: Path) -> None:
    path = tmp_path / "x-json.log"
    entries = [
        json.dumps({"log": f"{n:05d}" * 8000 + "\n", "stream": "stdout", "time": "2023-11-14T22:13:20Z"})
        for n in range(9)
    ]
    path.write_text("\n".join(entries) + "\n")
    assert [text[:5] for text in await read(path, LogQuery(tail=4))] == [f"{n:05d}" for n in range(5, 9)]


async def test_since_and_until_are_inclusive_bounds(rotated: Path) -> None:
    base = 1_699_999_980 * SECOND + SECOND // 2  # 22:13:00.5
    found = await read(rotated, LogQuery(since_ns=base + 8 * SECOND, until_ns=base + 21 * SECOND))
    assert found == [f"line {n}" for n in range(8, 22)]


async def test_streams_are_chosen(tmp_path: Path) -> None:
    path = tmp_path / "x-json.log"
    path.write_bytes(line(1) + line(2, stream="stderr") + line(3))
    assert await read(path, LogQuery(stdout=False)) == ["line 2"]


async def test_a_missing_log_is_empty(tmp_path: Path) -> None:
    assert await read(tmp_path / "none-json.log", LogQuery()) == []


async def test_garbled_lines_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "x-json.log"
    torn = line(2)[:17]
    path.write_bytes(line(1) + torn + line(3) + b"\x00" * 50 + b"\n" + line(4) + b'{"log":"unfinis')
    assert await read(path, LogQuery()) == ["line 1", "line 3", "line 4"]


class Writer:
    """The copier's own code, writing while somebody follows."""

    def __init__(self, path: Path, **options: object) -> None:
        limits = {"max_size": -1, "max_files": 1, "compress": False, **options}
        self.loop = Loop()
        spec = {"driver": "json-file", "path": str(path), "attrs": b"", **limits}
        writer = open_writer(spec, open_log(str(path)), self.loop, lambda: None)
        assert writer is not None
        self.writer = writer
        self.count = 0

    def write(self, lines: int) -> None:
        for _ in range(lines):
            self.count += 1
            self.writer.feed("stdout", f"line {self.count}\n".encode(), START + self.count * 1000)


@pytest.mark.parametrize("options", [{}, {"max_size": 2000, "max_files": 4}])
async def test_following_gives_every_line_through_rotations_and_ends_with_the_container(
    tmp_path: Path, options: dict[str, object]
) -> None:
    path = tmp_path / "x-json.log"
    writer = Writer(path, **options)
    writer.write(5)
    ended = trio.Event()
    seen: list[str] = []

    async with watches() as instance, trio.open_nursery() as nursery:
        logs = FileLogs(instance, clock=SystemClock(), limiter=trio.CapacityLimiter(2))
        progress = [trio.Event() for _ in range(8)]

        async def follow() -> None:
            query = LogQuery(follow=True)
            async with aclosing(logs.read(log_at(path), query, render=texts, ended=ended.wait)) as batches:
                async for batch in batches:
                    seen.extend(batch)
                    for number in range(len(seen) // 20):
                        progress[min(number, 7)].set()

        nursery.start_soon(follow)
        for number in range(8):
            writer.write(15 if number == 0 else 20)
            with trio.fail_after(10):
                await progress[number].wait()
        writer.write(3)
        ended.set()
    assert seen == [f"line {n}" for n in range(1, writer.count + 1)]


async def test_following_goes_on_after_a_truncation(tmp_path: Path) -> None:
    path = tmp_path / "x-json.log"
    path.write_bytes(line(1) * 5)
    first = trio.Event()
    second = trio.Event()

    async with watches() as instance, trio.open_nursery() as nursery:
        logs = FileLogs(instance, clock=SystemClock(), limiter=trio.CapacityLimiter(2))

        async def follow() -> None:
            async with aclosing(logs.read(log_at(path), LogQuery(follow=True, tail=1), render=texts)) as batches:
                async for batch in batches:
                    (second if "line 7" in batch else first).set()

        nursery.start_soon(follow)
        with trio.fail_after(10):
            await first.wait()
            with open(path, "r+b") as file:
                file.truncate(0)
            with open(path, "ab") as file:
                file.write(line(7))
            await second.wait()
        nursery.cancel_scope.cancel()


async def test_following_stops_at_until(tmp_path: Path) -> None:
    path = tmp_path / "x-json.log"
    path.write_bytes(line(1))
    with trio.fail_after(10):
        found = await read(path, LogQuery(follow=True, until_ns=SystemClock().now_ns() + SECOND // 10))
    assert found == ["line 1"]


def test_lines_are_framed_and_marked_as_asked() -> None:
    entries = [
        LogEntry("one\n", "stdout", "2023-11-14T22:13:20.5Z", {"b": "2 x", "a": "1"}),
        LogEntry("part", "stderr", "2023-11-14T22:13:21Z"),
        LogEntry("ial\n", "stderr", "2023-11-14T22:13:22Z"),
    ]
    assert LogRenderer(multiplexed=True)(entries[:1]) == b"\x01\0\0\0\0\0\0\x04one\n"
    assert LogRenderer(multiplexed=False)(entries) == b"one\npartial\n"
    marked = LogRenderer(multiplexed=False, timestamps=True, details=True)(entries)
    assert marked == (b"2023-11-14T22:13:20.500000000Z a=1,b=2+x one\n2023-11-14T22:13:21.000000000Z  partial\n")


def test_times_of_any_writer_are_made_comparable() -> None:
    assert fixed_time("2023-11-14T22:13:20Z") == "2023-11-14T22:13:20.000000000Z"
    assert fixed_time("2023-11-14T22:13:20.123456789Z") == "2023-11-14T22:13:20.123456789Z"
    assert fixed_time("2023-11-15T00:13:20.25+02:00") == "2023-11-14T22:13:20.250000000Z"
