"""Lists of CPUs and memory nodes as the kernel writes them: `0-2,4`."""

from __future__ import annotations

import re
from collections.abc import Collection

CPUSET_MAX = 8192
"""The greatest number that is looked at: a range must not become a set of any size (CVE-2018-20699)."""
_SPAN = re.compile(r"([0-9]+)(?:-([0-9]+))?")


def numbers(text: str) -> frozenset[int]:
    """Raises ValueError in moby's words (pkg/sysinfo parseUintList). An empty list is one."""
    found: set[int] = set()
    for part in text.split(",") if text else ():
        match = _SPAN.fullmatch(part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise ValueError(f"invalid format: {text}")
        if int(match[2] or match[1]) > CPUSET_MAX:
            raise ValueError(f"value of out range, maximum is {CPUSET_MAX}")
        found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return frozenset(found)


def ranges(wanted: Collection[int]) -> str:
    spans: list[list[int]] = []
    for number in sorted(wanted):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
