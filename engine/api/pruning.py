"""What all prune requests share: their filters `until`, `label`, `label!`; one at a time; and being told.

Source: moby daemon/prune.go (getUntilFromPruneFilters, matchLabels, errPruneRunning).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import trio

from engine.aggregates.decider import Cause, Reason, Rejected
from engine.aggregates.prune import ReportPruned
from engine.api import moments
from engine.api.context import ApiContext
from engine.api.filters import Filters

PRUNE_FILTERS = frozenset({"until", "label", "label!"})


@contextmanager
def alone(lock: trio.Lock) -> Iterator[None]:
    """Raises Rejected(CONFLICT) while another prune holds the lock."""
    try:
        lock.acquire_nowait()
    except trio.WouldBlock:
        raise Rejected(Reason.CONFLICT, "a prune operation is already running") from None
    try:
        yield
    finally:
        lock.release()


async def tell_pruned(context: ApiContext, kind: str, reclaimed_bytes: int, cause: Cause) -> None:
    """The event `prune`: also when nothing went, as in moby."""
    await context.application.execute(ReportPruned(kind=kind, reclaimed_bytes=reclaimed_bytes), cause=cause)


def prune_until(filters: Filters, now_ns: int) -> int | None:
    """Only what was made before this moment goes; None: no limit. Raises Rejected(INVALID)."""
    values = filters.get("until")
    if len(values) > 1:
        raise Rejected(Reason.INVALID, "more than one until filter specified")
    return moments.moment_ns(values[0], now_ns=now_ns) if values else None


def prune_label_match(filters: Filters, labels: Mapping[str, str] | None) -> bool:
    """Has all of `label`, and not all of `label!`."""
    if not filters.labels("label", labels):
        return False
    return "label!" not in filters or not filters.labels("label!", labels)
