"""Figures of the log: `python -m tests.bench.bench_log [events]`. Prints and asserts nothing; trust ratios only."""

from __future__ import annotations

import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import trio

from engine.application import Application
from replay.verify import verify
from tests.support.counter import CAUSE, Add, Totals, counters


def show(what: str, amount: float, unit: str) -> None:
    print(f"{what:<44} {amount:>12,.0f} {unit}")


def timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


async def writers(application: Application, number: int, calls: int, amount: int) -> None:
    latencies: list[float] = []

    async def write(name: str) -> None:
        for _ in range(calls // number):
            began = time.perf_counter()
            await application.execute(Add(name=name, amount=amount), cause=CAUSE)
            latencies.append(time.perf_counter() - began)

    before, began, cpu = application.position, time.perf_counter(), time.process_time()
    async with trio.open_nursery() as nursery:
        for index in range(number):
            nursery.start_soon(write, f"w{number}-{index}")
    spent, cpu = time.perf_counter() - began, time.process_time() - cpu
    events = application.position - before
    show(f"{number} writers, {amount} events a call", events / spent, "events/s")
    show("  latency of a call, median", statistics.median(latencies) * 1e6, "us")
    show("  CPU an event", cpu / events * 1e6, "us")


async def main(events: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        async with counters(path, totals=Totals()).running() as application:
            for number in (1, 8, 64, 256):
                await writers(application, number, 2048, 1)
            await writers(application, 1, 512, 5)
            while application.position < events:
                await application.execute(Add(name=f"bulk{application.position % 97}", amount=500), cause=CAUSE)
            spent = timed(lambda: [None for after in range(0, events, 2048) for _ in application.read(after, 2048)])
            show("bulk reading", events / spent, "events/s")
            began = time.perf_counter()
            for _ in range(300):
                await application.execute(Add(name="alone", amount=0), cause=CAUSE)
            show("a command that changes nothing", (time.perf_counter() - began) / 300 * 1e6, "us")
        await restarts(path, events)
        size = (path / "events.db").stat().st_size
        with sqlite3.connect(path / "events.db") as database:
            count = database.execute("SELECT COUNT(*) FROM stored_events").fetchone()[0]
        show("file", size / count, "bytes/event")
        show("verify", count / timed(lambda: verify(path / "events.db")), "events/s")


async def restarts(path: Path, events: int) -> None:
    async def opened() -> None:
        async with counters(path, totals=Totals()).running():
            pass

    began = time.perf_counter()
    await opened()
    show(f"start from checkpoints, history of {events:,}", (time.perf_counter() - began) * 1e3, "ms")
    (path / "views.db").unlink()
    began = time.perf_counter()
    await opened()
    show(f"start without views, history of {events:,}", (time.perf_counter() - began) * 1e3, "ms")


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
