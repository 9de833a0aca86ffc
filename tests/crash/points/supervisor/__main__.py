"""The supervisor's program with a point at the first call of each of its functions, also in what it forks.

It runs as the real one does, without site packages and with nothing but its own folder on the path.
"""

from __future__ import annotations

import os
import sys
from types import FrameType
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
REAL = os.path.join(HERE, *[".."] * 4, "engine/drivers/linux/runtime/supervisor")
REAL = os.path.realpath(REAL)

sys.path.insert(0, os.path.dirname(HERE))
from control import VARIABLE, Control  # type: ignore[import-not-found] # noqa: E402 - not a package at run time

CONTROL: Any = Control(os.environ[VARIABLE])
QUIET = ("run", "_is_idle", "<lambda>", "<listcomp>", "<genexpr>", "<dictcomp>", "<setcomp>")

BY_THE_CLOCK = frozenset({"loop.turn", "groups.sweep", "journal.write", "ooms.count", "ooms._look", "ooms._grown"})
"""Called now and then, whatever is asked for; what they find to do has functions of its own."""


def watch(frame: FrameType, event: str, argument: object) -> None:
    code = frame.f_code
    if event == "call" and code.co_filename.startswith(REAL) and code.co_name not in QUIET:
        name = f"{os.path.basename(code.co_filename).removesuffix('.py')}.{code.co_name}"
        if name not in BY_THE_CLOCK:
            CONTROL.point(f"in {name}")


if __name__ == "__main__":
    sys.setprofile(watch)
    sys.path.append(os.path.dirname(REAL))
    path = os.path.join(REAL, "__main__.py")
    with open(path) as source:
        program = compile(source.read(), path, "exec")
    exec(program, {"__name__": "__main__", "__file__": path})
