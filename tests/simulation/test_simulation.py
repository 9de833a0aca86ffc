"""Whole engines by seed: a bounded number here, ISHMAEL_SIMULATIONS of them when asked.

A failure prints its seed; `python -m tests.simulation SEED` repeats it with its story.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOUND = {
    5: "the undoing of a start that is refused itself",
    44: "a volume that is made behind its removal",
    84: "an exec that outlives its container",
    91: "an address on a network that is younger than the container",
    1043: "a rename during a removal",
    1237: "a pause that happens and reports failure",
    1248: "a removal of a container whose exit was not seen yet",
    3219: "published ports after a connect and a restart of the engine",
    4220: "a disconnect during a removal",
    20094: "a stop that waits for a start when the engine ends",
    20534: "a shared network namespace that outlives its owner",
    23783: "a bridge of an engine that died, refused to the next one",
    7005648: "a supervisor that is lost during recovery",
    7007552: "a restart policy at a start of the engine, on a full disk",
    8003276: "a network removed while it is made again",
    8007976: "a start whose supervisor is lost when it has ended already",
    12008281: "a volume removed while its directory is made, which the disk refuses to give back",
}
"""Seeds that found something, and what. They are kept because they were cheap to keep: as the engine changes they
become seeds like others."""


def simulate(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation", *arguments], cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONHASHSEED": "0"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
    return done.stdout


SEEDS = int(os.environ.get("ISHMAEL_SIMULATIONS", "200"))
AT_ONCE = -(-SEEDS // 8)


@pytest.mark.timeout(0 if "ISHMAEL_SIMULATIONS" in os.environ else 600)
@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_whatever_goes_wrong_nothing_is_lost_leaked_or_stuck(first: int) -> None:
    """CTR-08 to CTR-18, SYS-10, WIN-12 and WIN-19 under faults: refusals, lies, slowness, a full disk, deaths at any
    step, a lost supervisor, lost power."""
    told = simulate("--first", str(first), "--count", str(min(AT_ONCE, SEEDS - first)))
    assert "0 failed" in told


def test_seeds_that_once_found_something_find_nothing() -> None:
    simulate(*map(str, FOUND))


def test_a_seed_is_repeatable() -> None:
    """The same story, word for word."""
    first, second = simulate("7"), simulate("7")
    assert first.splitlines()[:-1] == second.splitlines()[:-1]
