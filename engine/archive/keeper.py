"""When history is sealed and what becomes of it: the task that keeps events.db bounded.

Owns: the policy (how many events stay unsealed, when segments are thinned) and the order of steps:

    write the segment (another process) -> name it in the manifest (one row) -> delete its rows, a few at a time

Up to the row in the manifest nothing has happened, a file without one is deleted. From it on the segment is the truth
for its positions, rows that are still there are not read any more, and whoever comes next deletes them. So a death
between any two steps leaves the old state or the new one. Thinning is the same with a segment in the rows' place.
Refuses to know: formats, rules of retention.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
import trio

from engine.aggregates.catalog import ALL_DECIDERS
from engine.aggregates.decider import Decider
from engine.archive import states
from engine.archive.retention import Level
from engine.archive.segment import SegmentError
from engine.archive.states import SUFFIX, superfluous
from engine.archive.store import Archive, Sealed
from engine.clock import Clock
from engine.errors import PortError

SEGMENT_EVENTS = 16_384
LOOK_S = 20.0
DAY_NS = 86_400 * 1_000_000_000

_LOGGER = logging.getLogger("ishmael.archive")
T = TypeVar("T")


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """kept_events: stay in events.db (at least; up to a segment more). low_days: age from which low-retention events
    are left out; 0 keeps them. bytes_max: of all segments together, 0 for no limit."""

    kept_events: int = 32_768
    low_days: int = 30
    bytes_max: int = 0
    segment_events: int = SEGMENT_EVENTS


class Log(Protocol):
    """What the keeper asks of the log: the writer's verbs, done between two groups of commands."""

    @property
    def position(self) -> int: ...

    @property
    def archive(self) -> Archive: ...

    async def adopt(self, segment: Sealed) -> None:
        """Name a segment in the manifest, in place of one that begins where it does."""
        ...

    async def forget(self) -> bool:
        """Delete some rows that are sealed; whether there are more."""
        ...


Work = Callable[[list[str]], Awaitable["Sealed | None"]]
"""Runs engine.archive.sealing with arguments. Raises SegmentError."""


class Keeper:
    """deciders: whose states segments keep. work: runs the worker; None runs it in a process of its own."""

    def __init__(
        self,
        log: Log,
        path: Path,
        policy: Policy,
        clock: Clock,
        work: Work | None = None,
        deciders: Sequence[Decider[Any]] = ALL_DECIDERS,
    ) -> None:
        self._log = log
        self._path = path
        self._policy = policy
        self._clock = clock
        self._work = work or run_worker
        self._deciders = deciders
        self._restated = False
        self._warned = False
        self._told = ""

    async def run(self) -> None:
        """For ever. A refusal of the world is told and tried again at the next look."""
        while True:
            try:
                await self.look()
            except (PortError, SegmentError, OSError) as error:
                if str(error) != self._told:
                    _LOGGER.warning("old history is not sealed: %s", error)
                self._told = str(error)
            await trio.sleep(LOOK_S)

    async def look(self) -> None:
        """Everything that is due now."""
        await trio.to_thread.run_sync(self._tidy)
        while await self._log.forget():
            pass
        await self._restate()
        policy = self._policy
        while self._log.position - self._log.archive.floor >= policy.kept_events + policy.segment_events:
            made = await self._work([str(self._path), "--events", str(policy.segment_events)])
            if made is None:
                break
            await self._log.adopt(made)
            while await self._log.forget():
                pass
        await self._thin_old()
        await self._thin_to_size()

    async def _restate(self) -> None:
        """Once in a life: an upgrade may have made state snapshots useless."""
        if not self._restated and await trio.to_thread.run_sync(states.outdated, self._log.archive, self._deciders):
            await self._work([str(self._path), "--states"])
        self._restated = True

    async def _thin_old(self) -> None:
        if not self._policy.low_days:
            return
        before_ns = self._clock.now_ns() - self._policy.low_days * DAY_NS
        for segment in self._log.archive.segments:
            if segment.thinned >= Level.LOW:
                continue
            if self._log.archive.file(segment).index.blocks[-1].last_ns >= before_ns:
                return
            await self._thin(segment, Level.LOW)

    async def _thin_to_size(self) -> None:
        """The oldest first: a little of every segment before much of any."""
        for level in (Level.LOW, Level.LIVES):
            for segment in self._log.archive.segments:
                if not self._policy.bytes_max or self._bytes() <= self._policy.bytes_max:
                    self._warned = False
                    return
                if segment.thinned < level:
                    await self._thin(segment, level)
        if self._policy.bytes_max and self._bytes() > self._policy.bytes_max and not self._warned:
            self._warned = True
            _LOGGER.warning(
                "sealed history has %d bytes, more than history-max-size allows: what is left belongs to what lives, "
                "or proves the rest",
                self._bytes(),
            )

    async def _thin(self, segment: Sealed, level: Level) -> None:
        made = await self._work([str(self._path), "--thin", str(segment.first), "--level", str(int(level))])
        assert made is not None
        await self._log.adopt(made)

    def _bytes(self) -> int:
        return sum(segment.size for segment in self._log.archive.segments)

    def _tidy(self) -> None:
        """Delete what no manifest names, and snapshots that no longer help much. At the beginning of a look: somebody
        may still read a segment that the last one replaced."""
        archive = self._log.archive
        named = {segment.name for segment in archive.segments}
        named |= {Path(segment.name).with_suffix(SUFFIX).name for segment in archive.segments}
        named -= {Path(segment.name).with_suffix(SUFFIX).name for segment in superfluous(archive.segments)}
        with contextlib.suppress(FileNotFoundError):
            for path in archive.folder.iterdir():
                if path.name not in named and path.name.split(".", 1)[-1] in ("segment", "segment.new", "states"):
                    path.unlink(missing_ok=True)


async def run_worker(arguments: list[str]) -> Sealed | None:
    """In a process of its own, with the lowest claim to the processor."""
    command = [sys.executable, "-m", "engine.archive.sealing", *arguments]
    home = Path(__file__).parents[2]
    done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False, cwd=home)
    if done.returncode:
        raise SegmentError(done.stderr.decode(errors="replace").strip() or f"the worker ended with {done.returncode}")
    return msgspec.json.decode(done.stdout, type=Sealed | None)
