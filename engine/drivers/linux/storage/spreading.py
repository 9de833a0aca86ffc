"""Where on the disk a tree begins: away from what was deleted a moment ago.

ext4 without a journal does not use an inode again within a minute or more of its deletion, and steps over each such
inode of a block group whenever it makes a file there: a layer made where another has just been removed costs up to ten
times as much. `kernel.mark_top_directory` spreads trees over the disk, but by chance; so the sweeper tells where it
has deleted much, and a tree begins at the first of a few places that is not there. On other file systems this costs a
dozen empty directories at most. Stdlib only: workers import it.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable

PLACES_MAX = 12
REGION_INODES = 16 * 8192
"""What ext4 fills from its beginning before it goes elsewhere: a flex group, as mke2fs makes them on large disks."""
MANY = 500
"""Deleted inodes of a region that make it slow enough to be avoided."""
FORGOTTEN_AFTER_S = 360.0
"""fs/ext4/ialloc.c: a minute, and five more while the inode's block has not been written back."""


class Spreading:
    """Places for trees, apart from those of deleted ones. clock: seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._deleted_at: dict[int, float] = {}

    def deleted(self, regions: Iterable[int]) -> None:
        """Many inodes of these regions have been deleted (`Deletions`)."""
        self._deleted_at.update(dict.fromkeys(regions, self._clock()))

    def make(self, new_path: Callable[[], str], mode: int) -> str:
        """Make a directory at one of the paths given out, which are tried in turn; of the others nothing is left.
        Raises OSError, leaving nothing."""
        tried: list[tuple[float, str]] = []
        try:
            while len(tried) < PLACES_MAX:
                path = new_path()
                os.mkdir(path, mode)
                tried.append((self._slowness(path), path))
                if tried[-1][0] == 0:
                    break
            tried.sort()
            return tried.pop(0)[1]
        finally:
            for _, path in tried:
                os.rmdir(path)

    def _slowness(self, path: str) -> float:
        """Seconds until what was deleted around a directory will be forgotten."""
        deleted_at = self._deleted_at.get(region_of(path))
        return 0 if deleted_at is None else max(0, deleted_at + FORGOTTEN_AFTER_S - self._clock())


def region_of(path: str) -> int:
    return os.stat(path).st_ino // REGION_INODES


class Deletions:
    """Counts deleted inodes by region."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def note(self, inode: int) -> None:
        self._counts[inode // REGION_INODES] += 1

    def regions(self) -> list[int]:
        """Those that many lay in."""
        return [region for region, count in self._counts.items() if count >= MANY]
