"""kill -9 at random moments: what was acknowledged is there, in order, once, and the log proves itself."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import trio

from replay.verify import verify
from tests.support.counter import Totals, counters

ROUNDS = 6

PROGRAM = textwrap.dedent(
    """
    import sys, trio
    from pathlib import Path
    from engine.application import LogOptions
    from tests.support.counter import CAUSE, Add, Totals, counters

    async def write(application, name):
        while True:
            committed = await application.execute(Add(name=name), Add(name="shared"), cause=CAUSE)
            # One write(2) of one line is what the parent counts as acknowledged.
            sys.stdout.write(f"{name} {committed.recorded[0].version}\\n")
            sys.stdout.flush()

    async def main():
        options = LogOptions(checkpoint_events=200)
        async with counters(Path(sys.argv[1]), totals=Totals(), options=options).running() as application:
            async with trio.open_nursery() as nursery:
                for number in range(8):
                    nursery.start_soon(write, application, f"c{number}")

    trio.run(main)
    """
)


def test_nothing_acknowledged_is_lost_when_the_writer_is_killed(tmp_path: Path) -> None:
    acknowledged: dict[str, int] = {}
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    for _ in range(ROUNDS):
        lines = write_until_killed(tmp_path, chance.randrange(20, 800))
        for line in lines:
            name, version = line.split()
            acknowledged[name] = max(acknowledged.get(name, 0), int(version))
        totals = trio.run(read_back, tmp_path)
        assert verify(tmp_path / "events.db", views=tmp_path / "views.db").whole, seed
        assert all(totals[name] >= version for name, version in acknowledged.items()), seed
        assert totals["shared"] == sum(total for name, total in totals.items() if name != "shared"), seed


def write_until_killed(directory: Path, lines: int) -> list[str]:
    """Let a writer run, kill it after so many acknowledgements; all the lines it had printed."""
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(directory)], cwd=root, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    seen = [process.stdout.readline() for _ in range(lines)]
    os.kill(process.pid, signal.SIGKILL)
    seen += process.stdout.read().splitlines(keepends=True)
    process.wait(30)
    return [line for line in seen if line.endswith("\n")]


async def read_back(directory: Path) -> dict[str, int]:
    totals = Totals()
    async with counters(directory, totals=totals).running() as application:
        for name, total in totals.totals.items():
            assert application.state("counter", name).total == total
        return dict(totals.totals)
