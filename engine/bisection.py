"""Looking up a time among positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from engine.aggregates.decider import Recorded


def position_before(read: Callable[[int, int], Sequence[Recorded]], head: int, time_ns: int) -> int:
    """The last position up to `head` that was recorded before a time (0: none), assuming that the clock never stepped
    back. Blocks."""
    low, high = 0, head
    while low < high:
        middle = (low + high + 1) // 2
        if read(middle - 1, 1)[0].time_ns < time_ns:
            low = middle
        else:
            high = middle - 1
    return low
