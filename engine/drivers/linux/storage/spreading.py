"""Where on the disk a tree begins: away from what was deleted a moment ago.

ext4 without a journal does not use an inode again within a minute or more of its deletion, and steps over each such
inode of a block group whenever it makes a file there: a layer made where another has just been removed costs up to ten
times as much. Where a directory lies is told by its parent, and `kernel.mark_top_directory` sends each child of a
directory to the part of the disk with the fewest directories: to where something has just been removed, more often
than not. So the sweeper tells where it has deleted much, and trees are born in *grounds*: empty directories, at most
one in a region of the disk, of which one is used until its region is full or much is deleted there. On other file
systems this costs a few dozen empty directories at most. Stdlib only: workers import it.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

TRIES_MAX = 48
"""Directories made in search of a new region. Each that is in vain makes its region less attractive to the next."""
REGION_INODES = 16 * 8192
"""What ext4 fills from its beginning before it goes elsewhere: a flex group, as mke2fs makes them on large disks."""
MANY = 300
"""Deleted inodes of a region that make it slow enough to be avoided: ext4 spends 0.1 us on each, on every file."""
FORGOTTEN_AFTER_S = 360.0
"""fs/ext4/ialloc.c: a minute, and five more while the inode's block has not been written back."""


class Spreading:
    """Gives trees their place. new_ground: a path for one more ground. clock: seconds. For any thread."""

    def __init__(self, new_ground: Callable[[], str], clock: Callable[[], float] = time.monotonic) -> None:
        self._new_ground = new_ground
        self._clock = clock
        self._lock = threading.Lock()
        self._deletions: dict[int, tuple[float, float]] = {}
        """Of each region: how many inodes it is slow by, and since when."""
        self._grounds: dict[int, str] = {}
        """By region, the one in use last."""

    def deleted(self, counts: Mapping[int, int]) -> None:
        """So many inodes of these regions have been deleted (`Deletions`)."""
        with self._lock:
            for region, count in counts.items():
                self._deletions[region] = self._burden(region) + count, self._clock()

    def make(self, path: str, mode: int) -> None:
        """Make a directory for a tree. Raises OSError, leaving nothing."""
        with self._lock:
            while True:
                region = self._ground()
                ground = self._grounds[region]
                born = f"{ground}/{os.path.basename(path)}"
                try:
                    os.mkdir(born, mode)
                except FileNotFoundError:
                    if os.path.isdir(ground):
                        raise
                    del self._grounds[region]  # somebody tidied up.
                    continue
                break
            try:
                if region_of(born) != region:  # full.
                    self._deletions[region] = REGION_INODES, self._clock()
                os.rename(born, path)
            except BaseException:
                os.rmdir(born)
                raise

    def _ground(self) -> int:
        """The region to use: the last one as long as it is good, a ground known to be good, a new one, the best."""
        for region in reversed(self._grounds):
            if self._burden(region) < MANY:
                break
        else:
            region = self._found_ground()
        self._grounds[region] = self._grounds.pop(region)
        return region

    def _found_ground(self) -> int:
        vain: list[str] = []
        try:
            for _ in range(TRIES_MAX):
                path = self._new_ground()
                os.mkdir(path, 0o700)
                vain.append(path)
                region = region_of(path)
                if region not in self._grounds:
                    self._grounds[region] = vain.pop()
                    if self._burden(region) < MANY:
                        return region
        finally:
            for path in vain:
                os.rmdir(path)
        return min(self._grounds, key=self._burden)

    def _burden(self, region: int) -> float:
        """Deleted inodes of a region, each counting less as time goes by."""
        count, since = self._deletions.get(region, (0.0, 0.0))
        return count * max(0.0, 1 - (self._clock() - since) / FORGOTTEN_AFTER_S)


def region_of(path: str) -> int:
    return os.stat(path).st_ino // REGION_INODES


class Deletions:
    """Counts deleted inodes by region."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()

    def note(self, inode: int) -> None:
        self.counts[inode // REGION_INODES] += 1
