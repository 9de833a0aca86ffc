"""Lifting old events: one pure function per (name, version), from the payload as stored to the next version's.

An entry `("container.started", 1): f` takes the payload dict of version 1 and returns that of version 2; the codec
applies as many as it needs. An entry is never removed while logs with that version may exist, and each has a stored
sample under tests/log/samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
Upcasters = Mapping[tuple[str, int], Upcaster]

UPCASTERS: Upcasters = {}
"""No event has changed its fields yet."""
