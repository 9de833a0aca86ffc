"""Sizes of terminals."""

from __future__ import annotations

from engine.aggregates.decider import Reason, Rejected

CELLS_MAX = 0xFFFF
"""What the kernel's winsize can hold."""


def check_size(size: tuple[int, int]) -> None:
    """Height and width in cells. Raises Rejected(INVALID)."""
    if not all(0 <= cells <= CELLS_MAX for cells in size):
        raise Rejected(Reason.INVALID, f"invalid ConsoleSize {list(size)}: value out of range")
