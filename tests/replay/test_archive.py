"""`replay` over a log whose history is sealed, made by the engine's own worker, in a copied folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import trio

from engine.aggregates.catalog import ALL_DECIDERS
from engine.application import Application
from engine.archive.keeper import Keeper, Policy
from replay.cli import main
from tests.support.counter import SteppingClock
from tests.support.story import WEB, tell


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, int]]:
    """The same history, unsealed and sealed."""
    directory, unsealed, copied = (tmp_path_factory.mktemp(name) for name in ("story", "unsealed", "copied"))
    marks = trio.run(tell, directory)
    shutil.copy(directory / "events.db", unsealed / "events.db")

    async def seal() -> None:
        clock = SteppingClock()
        async with Application(directory, deciders=ALL_DECIDERS, clock=clock).running() as application:
            policy = Policy(kept_events=5, segment_events=12, low_days=0)
            await Keeper(application, directory / "events.db", policy, clock).look()
            assert len(application.archive.segments) == 2

    trio.run(seal)
    shutil.copy(directory / "events.db", copied / "events.db")
    shutil.copytree(directory / "archive", copied / "archive")
    return unsealed, copied, marks


QUESTIONS: list[tuple[str, ...]] = [
    ("log",),
    ("log", "-n", "30"),
    ("log", "--object", "web"),
    ("show", WEB),
    ("at", "MARK", "ps", "-a"),
    ("at", "MARK", "inspect", "web"),
    ("diff", "MARK", "now"),
    ("why", "web"),
    ("blame", "web", "status"),
    ("bisect", "web", "status=exited"),
    ("stats",),
    ("verify",),
]


@pytest.mark.parametrize("question", QUESTIONS, ids=" ".join)
def test_sealed_history_answers_as_unsealed_does(
    both: tuple[Path, Path, dict[str, int]], question: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    unsealed, copied, marks = both
    words = [str(marks["web runs"]) if word == "MARK" else word for word in question]

    def answer(path: Path) -> Any:
        code = main(["--log", str(path), *words, "--json"])
        out, complaint = capsys.readouterr()
        assert code == 0, complaint
        return [line for line in out.splitlines() if '"file_bytes"' not in line and '"size' not in line]

    assert answer(copied) == answer(unsealed)
