"""What all prune requests share: their filters `until`, `label`, `label!`.

Source: moby daemon/prune.go (getUntilFromPruneFilters, matchLabels).
"""

from __future__ import annotations

from collections.abc import Mapping

from engine.aggregates.decider import Reason, Rejected
from engine.api import moments
from engine.api.filters import Filters

PRUNE_FILTERS = frozenset({"until", "label", "label!"})


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
