"""`python -m tests.simulation SEED`: one seed again, with its story. `--count N [--first SEED]`: many of them.

Exit status 1 when anything was wrong. The seeds that failed are printed; each can be repeated exactly.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seed", nargs="*", type=int)
    parser.add_argument("--count", type=int, default=0, help="how many seeds, from --first on")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no further seed after so long")
    parser.add_argument("--keep", type=Path, help="copy the log of the (last) seed here")
    given = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        # Sets of strings have an order of their own in each process: without this a seed would mean little.
        command = [sys.executable, "-m", "tests.simulation", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, "PYTHONHASHSEED": "0"})
    from tests.simulation.simulation import run  # here: after the process has its hash seed

    seeds = given.seed or range(given.first, given.first + given.count)
    began, failed, done, lives, events, requests = time.monotonic(), [], 0, 0, 0, 0
    for seed in seeds:
        if time.monotonic() - began > given.seconds:
            break
        outcome = run(seed, keep=given.keep)
        done, lives = done + 1, lives + outcome.lives
        events, requests = events + outcome.events, requests + outcome.requests
        if given.seed:
            print(*outcome.story, sep="\n")
        if outcome.wrong:
            failed.append(seed)
            print(f"seed {seed}:", *dict.fromkeys(outcome.wrong), sep="\n  ", flush=True)
    print(
        f"{done} seeds in {time.monotonic() - began:.0f} s: {lives} lives, {requests} requests, {events} events; "
        f"{len(failed)} failed {failed[:20]}"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
