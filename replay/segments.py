"""`replay verify` over sealed history: every segment against the manifest, every event against the chain.

Owns: the walk through the archive, in several processes where it is long: the manifest says which seal comes before
each segment, so that a walk can begin at any of them. Findings go to whoever called, by position; a block that can not
be read is named with its positions and bridged by the seal that the next one begins with.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from engine import chain
from engine.archive.segment import BlockPlace, SegmentError, SegmentFile
from engine.archive.store import Archive, Sealed, digest_of

Find = Callable[[int, str, str], None]
"""(position, kind, message)."""

SHARED_FROM = 16
"""Segments from which on processes share the work: about two seconds of it."""


class Walked(msgspec.Struct, frozen=True, kw_only=True):
    """events, commits: how many were seen; seals: of the wanted positions where a commit ends, and at the end of each
    segment; findings: (position, kind, message)."""

    events: int = 0
    commits: int = 0
    seals: dict[int, bytes] = {}
    findings: tuple[tuple[int, str, str], ...] = ()


def walk(archive: Archive, find: Find, *, wanted: frozenset[int], processes: int) -> Walked:
    """Everything in the archive. wanted: positions whose seals somebody asks for. Blocking; damage is never raised."""
    segments = archive.segments
    parts = processes if len(segments) >= SHARED_FROM else 1
    bounds = [len(segments) * part // parts for part in range(parts + 1)]
    shares = [segments[begin:end] for begin, end in itertools.pairwise(bounds)]
    seals = [chain.GENESIS, *(share[-1].seal for share in shares[:-1])]
    work = partial(_walk, archive.folder, wanted)
    if parts == 1:
        walked = [work(segments, chain.GENESIS)]
    else:
        import multiprocessing  # here: they take longer to load than a short archive to check
        from concurrent.futures import ProcessPoolExecutor

        with ProcessPoolExecutor(parts, mp_context=multiprocessing.get_context("fork")) as pool:
            walked = list(pool.map(work, shares, seals))
    for part in walked:
        for finding in part.findings:
            find(*finding)
    return Walked(
        events=sum(part.events for part in walked),
        commits=sum(part.commits for part in walked),
        seals={position: seal for part in walked for position, seal in part.seals.items()},
    )


def _walk(folder: Path, wanted: frozenset[int], segments: Sequence[Sealed], seal: bytes) -> Walked:
    walk = _Walk(Archive(folder), wanted)
    for segment in segments:
        seal = walk.segment(segment, seal)
    return Walked(events=walk.events, commits=walk.commits, seals=walk.seals, findings=tuple(walk.findings))


class _Walk:
    """One walk over adjoining segments."""

    def __init__(self, archive: Archive, wanted: frozenset[int]) -> None:
        self._archive = archive
        self._wanted = wanted
        self.events = 0
        self.commits = 0
        self.seals: dict[int, bytes] = {}
        self.findings: list[tuple[int, str, str]] = []

    def segment(self, segment: Sealed, seal: bytes) -> bytes:
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
        commits = self.commits
        for number, place in enumerate(file.index.blocks):
            after = file.index.blocks[number + 1].seal if place is not file.index.blocks[-1] else segment.seal
            if place.seal != seal:
                self._find(place.first, "chain", f"the seal before {place.first} does not fit")
                seal = place.seal
            seal = self._block(file, place, seal, after)
        if seal != segment.seal or commits == self.commits:
            self._find(segment.last, "chain", f"the seal at {segment.last} is not the one that the manifest has")
        if not whole:
            self._find(segment.first, "segment", f"{span}, which is not the file that was sealed")
        return self._bridge(segment)

    def _find(self, position: int, kind: str, message: str) -> None:
        self.findings.append((position, kind, message))

    def _bridge(self, segment: Sealed) -> bytes:
        self.seals[segment.last] = segment.seal
        return segment.seal

    def _block(self, file: SegmentFile, place: BlockPlace, seal: bytes, after: bytes) -> bytes:
        try:
            proof = file.proof(place)
        except SegmentError as error:
            self._find(place.first, "segment", str(error))
            return after
        for first, last, leaves in proof.commits:
            seal = chain.seal(seal, first, last, leaves)
            if last in self._wanted:
                self.seals[last] = seal
        self.events += proof.events
        self.commits += len(proof.commits)
        if seal != after:
            for position in file.suspects(place):
                self._find(position, "changed", "the event is not what was recorded")
            self._find(place.first, "chain", f"the seal over {place.first} to {place.last} does not fit")
        return after
