"""The supervisor's watch for containers that run out of memory, on version 2: a file that changes stands for the
kernel's. Version 1 has no stand-in; it is seen through real containers (tests/compat/test_events.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.drivers.linux.runtime.supervisor.held import Process
from engine.drivers.linux.runtime.supervisor.loop import Loop
from engine.drivers.linux.runtime.supervisor.ooms import Ooms


class Watched:
    """One supervisor's watch over groups that are files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loop = Loop()
        self.told: list[tuple[str, int]] = []
        self.ooms = Ooms(self.loop, lambda process, count: self.told.append((process.id, count)))
        self.pids = iter(range(100, 200))

    def kills(self, name: str, count: int, others: int = 0) -> None:
        text = f"low 0\nhigh {others}\nmax 7\noom {count}\noom_kill {count}\noom_group_kill 0\n"
        (self.folder / name).write_text(text)

    def process(self, name: str) -> Process:
        process = Process(name, "", 1, {})
        process.pid = next(self.pids)
        process.group = {"oom": str(self.folder / name)}
        return process


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_each_growth_is_told_once_and_other_events_are_not(watched: Watched) -> None:
    """EVT-03: `high` and `max` change the same file."""
    for name in ("web", "db"):
        watched.kills(name, 0)
        watched.ooms.watch(watched.process(name))
    watched.kills("web", 0, others=3)
    watched.loop.turn(0)
    assert watched.told == []
    for web, db in ((1, 0), (1, 2)):
        watched.kills("web", web)
        watched.kills("db", db)
        watched.loop.turn(0)
    assert watched.told == [("web", 1), ("db", 2)]


def test_what_was_before_the_watch_is_told_and_nothing_after_it(watched: Watched) -> None:
    watched.kills("web", 1)
    process = watched.process("web")
    watched.ooms.watch(process)
    assert watched.told == [("web", 1)]
    assert watched.ooms.count(process) == 1
    watched.ooms.forget(process)
    watched.kills("web", 2)
    watched.loop.turn(0)
    assert watched.told == [("web", 1)]


def test_a_group_that_can_not_be_watched_is_not(watched: Watched) -> None:
    """A kernel without the controller: the container runs all the same."""
    watched.ooms.watch(watched.process("nowhere"))
    watched.loop.turn(0)
    assert watched.told == []
