"""`python -m replay`, and the console script."""

from __future__ import annotations

import sys

from replay.cli import main as _main


def main() -> int:
    """The exit code of one question."""
    return _main()


if __name__ == "__main__":
    sys.exit(main())
