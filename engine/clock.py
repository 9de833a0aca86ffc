"""The wall clock, as something that is handed in.

Owns the `Clock` protocol and the system's implementation. The core never asks for the time: it arrives as a recorded
fact. Waiting and deadlines are trio's clock, not this one.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Wall time."""

    def now_ns(self) -> int:
        """UTC nanoseconds since the epoch. May step backwards when the host's clock is set."""
        ...


class SystemClock:
    """The host's CLOCK_REALTIME."""

    def now_ns(self) -> int:
        return time.time_ns()
