"""Signals by name and number, as Docker reads them: `TERM`, `SIGTERM`, `15`, `RTMIN+3`."""

from __future__ import annotations

import re

from engine.aggregates.decider import Reason, Rejected

_NAMES = (
    "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN TTOU URG "
    "XCPU XFSZ VTALRM PROF WINCH IO PWR SYS"
).split()
NUMBERS: dict[str, int] = {name: number for number, name in enumerate(_NAMES, start=1)}
NUMBERS |= {"CLD": 17, "IOT": 6, "POLL": 29, "UNUSED": 31, "RTMIN": 34, "RTMAX": 64}
_REALTIME = re.compile(r"RTM(IN\+|AX-)(\d{1,2})")
SIGNAL_MAX = 64
SIGTERM = 15


def parse_signal(text: str) -> int:
    """The number, 1 to 64. Raises Rejected(INVALID) `invalid signal: x`."""
    if text.isdecimal():
        number = int(text) if len(text) < 10 else 0
        if 1 <= number <= SIGNAL_MAX:
            return number
        raise _invalid(text)
    name = text.upper().removeprefix("SIG")
    if name in NUMBERS:
        return NUMBERS[name]
    match = _REALTIME.fullmatch(name)
    if match is not None:
        offset = int(match[2])
        number = 34 + offset if match[1] == "IN+" else SIGNAL_MAX - offset
        if 34 <= number <= SIGNAL_MAX:
            return number
    raise _invalid(text)


def _invalid(text: str) -> Rejected:
    return Rejected(Reason.INVALID, f"invalid signal: {text}")
