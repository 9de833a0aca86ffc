"""`python -m replay`, and the console script."""

from __future__ import annotations

import gc
import sys

from replay.cli import main as _main

YOUNG_OBJECTS = 100_000


def main() -> int:
    """The exit code of one question."""
    # A question makes many values and hardly a cycle: looking for some after every few hundred costs a third of a fold.
    gc.set_threshold(YOUNG_OBJECTS)
    return _main()


if __name__ == "__main__":
    sys.exit(main())
