"""`replay verify` over sealed history: every segment against the manifest, every event against the chain.

Owns: the walk through the archive. Findings go to whoever called, by position; a block that can not be read is named
with its positions and bridged by the seal that the next one begins with.
"""

from __future__ import annotations

from collections.abc import Callable

from engine import chain
from engine.archive.segment import BlockPlace, SegmentError, SegmentFile
from engine.archive.store import Archive, Sealed, digest_of

Find = Callable[[int, str, str], None]
"""(position, kind, message)."""


class SegmentWalk:
    """One walk. events, commits: how many were seen; seals: by the last position of each commit."""

    def __init__(self, archive: Archive, find: Find) -> None:
        self._archive = archive
        self._find = find
        self.events = 0
        self.commits = 0
        self.seals: dict[int, bytes] = {}

    def walk(self) -> None:
        seal = chain.GENESIS
        for segment in self._archive.segments:
            seal = self._segment(segment, seal)

    def _segment(self, segment: Sealed, seal: bytes) -> bytes:
        """The seal after it, as the manifest has it."""
        span = f"positions {segment.first} to {segment.last} are in archive/{segment.name}"
        try:
            whole = digest_of(self._archive.path(segment)) == segment.digest
            file = self._archive.file(segment)
        except FileNotFoundError:
            self._find(segment.first, "lost", f"{span}, which is not there")
            return self._bridge(segment)
        except (OSError, SegmentError) as error:
            self._find(segment.first, "segment", f"{span}, which can not be read: {error}")
            return self._bridge(segment)
        found = len(self.seals)
        for number, place in enumerate(file.index.blocks):
            after = file.index.blocks[number + 1].seal if place is not file.index.blocks[-1] else segment.seal
            if place.seal != seal:
                self._find(place.first, "chain", f"the seal before {place.first} does not fit")
                seal = place.seal
            seal = self._block(file, place, seal, after)
        if seal != segment.seal or found == len(self.seals):
            self._find(segment.last, "chain", f"the seal at {segment.last} is not the one that the manifest has")
        if not whole:
            self._find(segment.first, "segment", f"{span}, which is not the file that was sealed")
        return self._bridge(segment)

    def _bridge(self, segment: Sealed) -> bytes:
        self.seals[segment.last] = segment.seal
        return segment.seal

    def _block(self, file: SegmentFile, place: BlockPlace, seal: bytes, after: bytes) -> bytes:
        try:
            commits = file.commits(place)
        except SegmentError as error:
            self._find(place.first, "segment", str(error))
            return after
        for commit in commits:
            seal = chain.seal(seal, commit.first, commit.last, commit.leaves)
            self.seals[commit.last] = seal
            self.events += len(commit.rows)
            self.commits += 1
        if seal != after:
            for position in file.suspects(place):
                self._find(position, "changed", "the event is not what was recorded")
            self._find(place.first, "chain", f"the seal over {place.first} to {place.last} does not fit")
        return after
