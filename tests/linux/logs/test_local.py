"""Reading local logs (LOG-02, LOG-07): tails, times, garbage, following; written by the copier's own code."""

from __future__ import annotations

import shutil
from contextlib import aclosing
from pathlib import Path

import pytest
import trio

from engine.aggregates.values.log_files import LogFile
from engine.clock import SystemClock
from engine.drivers.linux.inotify import watches
from engine.drivers.linux.logs.reading import FileLogs
from engine.drivers.linux.runtime.supervisor.logs import open_writer
from engine.drivers.linux.runtime.supervisor.logs.files import open_log
from engine.drivers.linux.runtime.supervisor.loop import Loop
from engine.drivers.ports.logs import LogEntry, LogQuery

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND


class Writer:
    """One line a second."""

    def __init__(self, path: Path, *, compress: bool = False) -> None:
        self.loop = Loop()
        limits = {"max_size": 400, "max_files": 30, "compress": compress}
        spec = {"driver": "local", "path": str(path), "attrs": b"", **limits}
        writer = open_writer(spec, open_log(str(path)), self.loop, lambda: None)
        assert writer is not None
        self.writer = writer
        self.count = 0

    def write(self, lines: int) -> None:
        for _ in range(lines):
            while self.writer.full:
                self.loop.turn(10)
            self.count += 1
            self.writer.feed("stdout", b"line %d\n" % self.count, START + self.count * SECOND)


def texts(entries: list[LogEntry]) -> list[str]:
    return [entry.log.rstrip("\n") for entry in entries]


def lines(first: int, last: int) -> list[str]:
    return [f"line {number}" for number in range(first, last + 1)]


async def read(path: Path, query: LogQuery) -> list[str]:
    found: list[str] = []
    async with watches() as instance:
        logs = FileLogs(instance, clock=SystemClock(), limiter=trio.CapacityLimiter(2))
        async with aclosing(logs.read(LogFile(format="local", path=str(path)), query, render=texts)) as batches:
            async for batch in batches:
                found += batch
    return found


@pytest.mark.parametrize("compress", [False, True])
async def test_tails_and_times_count_over_all_files(tmp_path: Path, compress: bool) -> None:
    path = tmp_path / "container.log"
    Writer(path, compress=compress).write(60)
    assert len(list(tmp_path.iterdir())) > 3
    assert await read(path, LogQuery()) == lines(1, 60)
    for tail in (0, 1, 7, 30, 59, 60, 100):
        assert await read(path, LogQuery(tail=tail)) == lines(max(61 - tail, 1), 60)
    query = LogQuery(since_ns=START + 20 * SECOND, until_ns=START + 31 * SECOND)
    assert await read(path, query) == lines(20, 31)


async def test_a_torn_tail_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "container.log"
    Writer(path).write(5)
    whole = path.read_bytes()
    size = len(whole) // 5
    for torn in range(1, size):
        path.write_bytes(whole[:-torn])
        assert await read(path, LogQuery()) == lines(1, 4)
        assert await read(path, LogQuery(tail=2)) == lines(3, 4)


@pytest.mark.parametrize(
    "garbage", [b"\xff" * 30, b"\0\0\0\x09 not protobuf at all, is it", bytes(range(256)) * 4, b"\0" * 50]
)
async def test_reading_goes_on_behind_garbage(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / "container.log"
    Writer(path).write(6)
    whole = path.read_bytes()
    cut = len(whole) // 2
    path.write_bytes(whole[: cut + 9] + garbage + whole[cut:])
    assert await read(path, LogQuery()) in (lines(1, 6), lines(1, 3) + lines(5, 6))


async def test_following_gives_every_line_through_rotations_and_ends_with_the_container(tmp_path: Path) -> None:
    path = tmp_path / "container.log"
    writer = Writer(path, compress=True)
    writer.write(5)
    ended = trio.Event()
    seen: list[str] = []
    half = trio.Event()

    async with watches() as instance, trio.open_nursery() as nursery:
        logs = FileLogs(instance, clock=SystemClock(), limiter=trio.CapacityLimiter(2))

        async def follow() -> None:
            log = LogFile(format="local", path=str(path))
            async with aclosing(logs.read(log, LogQuery(follow=True), render=texts, ended=ended.wait)) as batches:
                async for batch in batches:
                    seen.extend(batch)
                    if len(seen) >= 50:
                        half.set()

        nursery.start_soon(follow)
        writer.write(50)
        with trio.fail_after(10):
            await half.wait()
        writer.write(50)
        ended.set()
    assert seen == lines(1, 105)


async def test_a_log_whose_directory_was_never_made_is_empty(tmp_path: Path) -> None:
    assert await read(tmp_path / "local-logs/container.log", LogQuery(follow=True)) == []


@pytest.mark.parametrize("follow", [False, True])
async def test_what_is_open_is_read_to_its_end_also_when_the_log_is_removed(tmp_path: Path, follow: bool) -> None:
    """`docker run --rm` of docker-py: it reads what it asked for before it removed the container."""
    path = tmp_path / "place" / "container.log"
    path.parent.mkdir()
    Writer(path).write(5)

    async def ended() -> None:
        await trio.lowlevel.checkpoint()

    async with watches() as instance:
        logs = FileLogs(instance, clock=SystemClock(), limiter=trio.CapacityLimiter(2))
        log = LogFile(format="local", path=str(path))
        async with aclosing(logs.read(log, LogQuery(follow=follow), render=texts, ended=ended)) as batches:
            assert await anext(batches) == []
            shutil.rmtree(path.parent)
            assert [line async for batch in batches for line in batch] == lines(1, 5)
