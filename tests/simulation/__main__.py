"""`python -m tests.simulation SEED`: one seed again, with its story. `--count N [--first SEED --jobs N]`: many of them.

Exit status 1 when anything was wrong. The seeds that failed are printed; each can be repeated exactly.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seed", nargs="*", type=int)
    parser.add_argument("--count", type=int, default=0, help="how many seeds, from --first on")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="so many processes at once")
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="stop after the seed that ends behind so long"
    )
    parser.add_argument("--keep", type=Path, help="copy the log of the (last) seed here")
    given = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        # Sets of strings have an order of their own in each process: without this a seed would mean little.
        command = [sys.executable, "-m", "tests.simulation", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, "PYTHONHASHSEED": "0"})
    seeds = given.seed or range(given.first, given.first + given.count)
    began, failed, done, lives, events, requests = time.monotonic(), [], 0, 0, 0, 0
    for outcome in outcomes(seeds, given.jobs, given.keep):
        done, lives = done + 1, lives + outcome.lives
        events, requests = events + outcome.events, requests + outcome.requests
        if given.seed:
            print(*outcome.story, sep="\n")
        if outcome.wrong:
            failed.append(outcome.seed)
            print(f"seed {outcome.seed}:", *dict.fromkeys(outcome.wrong), sep="\n  ", flush=True)
        if time.monotonic() - began > given.seconds:
            break
    print(
        f"{done} seeds in {time.monotonic() - began:.0f} s: {lives} lives, {requests} requests, {events} events; "
        f"{len(failed)} failed {failed[:20]}"
    )
    return 1 if failed else 0


def outcomes(seeds: Iterable[int], jobs: int, keep: Path | None) -> Iterator[Any]:
    """Of each seed, in order; by other processes when there are to be several."""
    from tests.simulation.simulation import run  # here: after the process has its hash seed

    if jobs == 1:
        yield from (run(seed, keep=keep) for seed in seeds)
        return
    with concurrent.futures.ProcessPoolExecutor(jobs) as others:
        try:
            yield from others.map(run, seeds)
        finally:
            others.shutdown(cancel_futures=True)


if __name__ == "__main__":
    sys.exit(main())
