"""The application: commands in, events on disk, everybody told. The only writer of the log.

Owns: deciding on the newest folds, the queue of undecided durability (group commit), what is told to whom in which
order after a commit, and checkpoints of derived state.
Refuses to know: what any command means, kernels, HTTP.

`execute` decides at once, without awaiting, on *pending* folds: committed ones overlaid with those of calls that wait
for the disk. The writer task takes every waiting call and commits their events as one transaction. While the disk is
quick and the group small it does so on the loop (0.38 ms rather than 0.56 by way of a thread), else in a thread.
Everything past the commit is synchronous and in order: folds, projections, pump, callers.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import trio
from eventsourcing.persistence import StoredEvent

from engine.aggregates.decider import Cause, Command, Decider, Recorded, Rejected
from engine.archive.segment import Row
from engine.archive.store import Archive, Sealed
from engine.bisection import position_before
from engine.checkpoints import Checkpoints
from engine.clock import Clock
from engine.codec import EventCodec
from engine.errors import PortError
from engine.folds import Fold, Folds, kind_of
from engine.log_store import LogStore, damage_told
from engine.mapper import EventMapper
from engine.private_file import create_private
from engine.projections.audience import Audience
from engine.projections.base import Checkpoint, Head, Projection
from engine.pump import Pump
from engine.recorder import LogRecorder
from engine.upcasters import UPCASTERS, Upcasters

WAL_COMMITS = 1024
"""After so many commits the pages of the write-ahead log (about 16 KiB a commit) are copied to the main file; after
twice as many the writer makes it begin anew."""

CHORE_COMMITS = 32
"""A chore of the writer's counts as so many: 256 deleted rows touch some hundred pages."""

_LOGGER = logging.getLogger("ishmael.log")


class LogOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes and limits of the log's shell.

    folds: committed states kept in memory. snapshot_from: a stream of so many events gets a state snapshot at every
    checkpoint after it moved. checkpoint_events, checkpoint_s: derived state is checkpointed after so many events, or
    so long after the first. queue_calls: calls that may wait for the disk; further ones wait before they decide.
    inline_events, inline_s: a group of at most so many events is committed on the loop while commits take less than
    so long."""

    folds: int = 2048
    snapshot_from: int = 32
    checkpoint_events: int = 4096
    checkpoint_s: float = 60.0
    queue_calls: int = 1024
    inline_events: int = 64
    inline_s: float = 0.003


class Committed(msgspec.Struct, frozen=True, kw_only=True):
    """What a call appended, now on disk. position: of its last event; of the log, when it appended nothing."""

    recorded: tuple[Recorded, ...]
    position: int


class _Call:
    """One `execute` between decision and durability."""

    __slots__ = ("folds", "shown", "stored", "written")

    def __init__(self) -> None:
        self.shown: list[tuple[Recorded, Any]] = []  # each event with the fold of its stream after it
        self.stored: list[StoredEvent] = []
        self.folds: dict[str, Fold] = {}  # of every stream the call looked at, after it
        self.written: dict[str, Fold] = {}  # of every stream the call appends to, after it


class _Group:
    """Calls that are committed together, in their order, and the one event that all of them wait for."""

    __slots__ = ("calls", "done", "error")

    def __init__(self) -> None:
        self.calls: list[_Call] = []
        self.done = trio.Event()
        self.error: PortError | None = None

    def __len__(self) -> int:
        return len(self.calls)

    def wrote(self, streams: Iterable[str]) -> bool:
        """Whether it appends to one of the streams."""
        return any(not call.written.keys().isdisjoint(streams) for call in self.calls)


class _Chore:
    """Something that only the writer may do, and whoever waits for it."""

    __slots__ = ("done", "error", "result", "verb")

    def __init__(self, verb: Callable[[], Any]) -> None:
        self.verb = verb
        self.done = trio.Event()
        self.result: Any = None
        self.error: PortError | None = None


class Application:
    """The log with its folds, projections and pump. Use inside `async with application.running():`."""

    def __init__(
        self,
        directory: Path,
        *,
        deciders: Sequence[Decider[Any]],
        clock: Clock,
        projections: Sequence[Projection] = (),
        upcasters: Upcasters = UPCASTERS,
        options: LogOptions = LogOptions(),  # noqa: B008 - a frozen value
    ) -> None:
        self._path = directory / "events.db"
        self._deciders = {decider.name: decider for decider in deciders}
        self._by_command = {command: decider for decider in deciders for command in decider.commands}
        self._clock = clock
        self._audience = Audience(projections)
        self._options = options
        codec = EventCodec((event for decider in deciders for event in decider.events), upcasters)
        self._mapper = EventMapper(codec)
        self._checkpoints = Checkpoints(
            directory / "views.db",
            deciders=self._deciders,
            projections=projections,
            snapshot_from=options.snapshot_from,
        )
        self._store: LogStore | None = None
        self._recorder: LogRecorder  # set by _open
        self._opened = False
        self._limiter = trio.CapacityLimiter(2)
        # The writer never stands in line behind a checkpoint or somebody's long look back.
        self._writer_limiter = trio.CapacityLimiter(1)
        self._folds = Folds(
            self._deciders,
            capacity=options.folds,
            load_known=self._known,
            load_snapshot=self._checkpoints.load_snapshot,
            load_tail=self.history,
            long_load=self._checkpoints.remember,
        )
        self.pump = Pump(read=self.read, fold=self._folds.get, ended=self._folds.ended, limiter=self._limiter)
        """Follows what is committed: `subscribe(after)`, `until(stream, predicate)`."""
        self._pending: dict[str, Fold] = {}
        self._decided = 0  # the position of the last event that was decided
        self._queue = _Group()
        self._in_flight = _Group()
        self._chores: deque[_Chore] = deque()
        self._wake = trio.Event()
        self._room = trio.Event()
        self._urgent = trio.Event()
        self._dirty = trio.Event()
        self._closing = False
        self._commit_s = 0.0
        self._commits = 0  # since the write-ahead log began
        self._copied = 0  # of these, how many had their pages copied
        self._rewind_at = 2 * WAL_COMMITS

    # -- life ----------------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Application]:
        """Open the log, bring projections to its head, and write until the block is left; then everything that waits
        is committed and derived state checkpointed. Raises PortError when the log can not be used."""
        failure: Exception | None = None
        try:
            await trio.to_thread.run_sync(self._open, limiter=self._limiter)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write_forever, name="log writer")
                nursery.start_soon(self._keep_house, name="log housekeeper")
                try:
                    yield self
                except Exception as error:
                    failure = error  # raised again below, without the nursery's group around it
                finally:
                    self._closing = True
                    for event in (self._wake, self._dirty, self._urgent):
                        event.set()
            if failure is not None:
                raise failure
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._close, limiter=self._limiter)

    def _open(self) -> None:
        create_private(self._path)
        with damage_told():
            self._store = LogStore(self._path, self._mapper)
            self._recorder = self._store.log_recorder
            self._recorder.open()
            self._checkpoints.open(
                self._folds,
                self._recorder.archive,
                head=self._recorder.position,
                codec=self._mapper.codec,
                batches=self._recorder.batches,
                seal_at=self._recorder.seal_at,
            )
        self.pump.position = self._decided = self._recorder.position
        self._opened = True

    def _close(self) -> None:
        """Also after an `_open` that failed half-way."""
        try:
            # A projection that failed half-way through a commit is not to be believed.
            settled = self._opened and self._recorder.position == self.position
            if settled and (self.position != self._checkpoints.position or self._checkpoints.has_due):
                self._save(self._derived_state())
        finally:
            self._checkpoints.close()
            if self._store is not None:
                self._store.log_recorder.close()
                self._store.close()

    # -- commands ------------------------------------------------------------------------------------------------------

    async def execute(self, *commands: Command, cause: Cause) -> Committed:
        """Decide all commands in order and append their events as one transaction, or nothing.

        Returns once the events are on disk and in every projection. Raises Rejected when a rule says no (nothing was
        appended; what it was decided on is on disk, so that who looks now sees why), PortError DISK_FULL or SYSTEM when
        the log can not be written (nothing was appended). A caller cancelled while it waits does not undo what was
        decided."""
        while len(self._queue) >= self._options.queue_calls:
            await self._room.wait()
        call = await self._decide_durably(commands, cause)
        if call.shown:
            self._decided += len(call.shown)
            self._pending.update(call.written)
            self._queue.calls.append(call)
            self._wake.set()
            basis: _Group | None = self._queue
        else:
            basis = self._latest_group_on(call.folds)
        if basis is None:
            await trio.lowlevel.checkpoint()
        else:
            await basis.done.wait()
            if basis.error is not None:
                raise basis.error.again() from basis.error
        recorded = tuple(one for one, _ in call.shown)
        return Committed(recorded=recorded, position=recorded[-1].position if recorded else self.position)

    async def _decide_durably(self, commands: Sequence[Command], cause: Cause) -> _Call:
        """Without waiting, but for a refusal: that waits for what it was decided on, and is decided again when that
        came to nothing."""
        while True:
            try:
                return self._decide(commands, cause)
            except Rejected:
                streams = [self._by_command[type(command)].stream(command.key) for command in commands]
                basis = self._latest_group_on(streams)
                if basis is None:
                    raise
                await basis.done.wait()
                if basis.error is None:
                    raise

    def _decide(self, commands: Sequence[Command], cause: Cause) -> _Call:
        """The events of all commands, on folds of its own: a Rejected leaves no trace."""
        assert not self._closing, "the application is closed"
        call = _Call()
        time_ns = self._clock.now_ns()
        position = self._decided
        for command in commands:
            decider = self._by_command[type(command)]
            stream = decider.stream(command.key)
            fold = call.folds.get(stream) or self._newest(stream, begins=command.BEGINS)
            for event in decider.decide(fold.state, command):
                fold = call.written[stream] = Fold(decider.evolve(fold.state, event), fold.version + 1)
                position += 1
                recorded = Recorded(
                    position=position, stream=stream, version=fold.version, time_ns=time_ns, cause=cause, event=event
                )
                call.shown.append((recorded, fold.state))
                # Encoded before anything is queued: an event that can not be stored fails its own call only.
                call.stored.append(self._mapper.to_stored_event(recorded))
            call.folds[stream] = fold
        return call

    def _newest(self, stream: str, *, begins: bool = False) -> Fold:
        return self._pending.get(stream) or self._folds.get(stream, begins=begins)

    def _latest_group_on(self, streams: Iterable[str]) -> _Group | None:
        """The last group that waits for the disk and writes to one of the streams: what was decided depends on it."""
        return next((group for group in (self._queue, self._in_flight) if group.wrote(streams)), None)

    # -- reading -------------------------------------------------------------------------------------------------------

    @property
    def position(self) -> int:
        """The last position that is on disk and in every projection."""
        return self.pump.position

    def state(self, kind: str, key: str) -> Any:
        """The committed fold of a stream; the initial state for an unknown key."""
        return self._folds.get(self._deciders[kind].stream(key)).state

    def newest(self, kind: str, key: str) -> Any:
        """The fold that the next command is decided on, with what waits for the disk. For composing a transaction out
        of it: what is handed to `execute` without awaiting in between is decided on the same state."""
        return self._newest(self._deciders[kind].stream(key)).state

    def live(self, kind: str) -> tuple[str, ...]:
        """The keys of all streams of an aggregate that have begun and not ended, sorted."""
        return self._checkpoints.live(kind)

    @property
    def restored(self) -> Mapping[str, int]:
        """Where each projection was restored at this start; 0 means folded from the beginning."""
        return self._checkpoints.restored

    def read(self, after: int, limit: int) -> list[Recorded]:
        """Up to `limit` committed events past a position, in order. Blocks (about 6 us an event)."""
        return [self._recorded(row) for row in self._recorder.rows_after(after, limit)]

    def history(self, stream: str, after_version: int = 0) -> list[Recorded]:
        """All committed events of a stream past a version, in order. Blocks."""
        return [self._recorded(row) for row in self._recorder.rows_of(stream, after_version)]

    @property
    def archive(self) -> Archive:
        """Sealed history, for who makes more of it."""
        return self._recorder.archive

    async def adopt(self, segment: Sealed) -> None:
        """Name a segment in the manifest. Commands go on, and wait for one small commit. Raises PortError."""
        await self._between_groups(partial(self._recorder.adopt, segment))

    async def forget(self) -> bool:
        """Delete some sealed rows from events.db; whether there are more. Raises PortError."""
        return bool(await self._between_groups(self._recorder.forget))

    def position_before(self, time_ns: int) -> int:
        """The last position recorded before a time (0: none), assuming that the clock never stepped back. Blocks."""
        return position_before(self.read, self.position, time_ns)

    def _known(self, stream: str) -> Fold | None:
        """Of what lives and has a view: only the version is looked up, and not the whole past read."""
        state = self._checkpoints.known_state(stream)
        return Fold(state, self._recorder.last_version(stream)) if state is not None else None

    def _recorded(self, row: Row) -> Recorded:
        position, stream, version, topic, state = row
        time_ns, cause, event = self._mapper.codec.decode(topic, state)
        return Recorded(position=position, stream=stream, version=version, time_ns=time_ns, cause=cause, event=event)

    # -- the writer ----------------------------------------------------------------------------------------------------

    async def _write_forever(self) -> None:
        # Shielded: calls queued by others' shielded clean-up are still committed when the root is being cancelled.
        with trio.CancelScope(shield=True):
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                # Whoever is ready goes first: a commit on the loop holds everybody up for as long as the disk takes.
                await trio.lowlevel.checkpoint()
                while self._queue or self._chores:
                    if self._queue:
                        await self._commit_group()
                    if self._commits >= self._rewind_at:
                        await self._rewind()
                    if self._chores:
                        await self._do(self._chores.popleft())
                if self._closing:
                    return

    async def _do(self, chore: _Chore) -> None:
        try:
            chore.result = await trio.to_thread.run_sync(chore.verb, limiter=self._writer_limiter)
        except PortError as error:
            chore.error = error
        # Deleting sealed rows fills the write-ahead log as commits do, also when nobody else writes.
        self._commits += CHORE_COMMITS
        chore.done.set()

    async def _between_groups(self, verb: Callable[[], Any]) -> Any:
        """A verb of the recorder's writer, in its turn."""
        if self._closing:
            raise PortError("seal history", "the log is being closed")
        chore = _Chore(verb)
        self._chores.append(chore)
        self._wake.set()
        await chore.done.wait()
        if chore.error is not None:
            raise chore.error.again() from chore.error
        return chore.result

    async def _commit_group(self) -> None:
        group, self._queue = self._queue, _Group()
        self._in_flight = group
        self._room.set()
        self._room = trio.Event()
        stored = [event for call in group.calls for event in call.stored]
        try:
            await self._append(stored)
        except PortError as error:
            self._fail(error)
            return
        finally:
            self._in_flight = _Group()
        self._publish(group)
        await trio.lowlevel.checkpoint()

    async def _append(self, stored: Sequence[StoredEvent]) -> None:
        began = time.monotonic()
        if len(stored) <= self._options.inline_events and self._commit_s < self._options.inline_s:
            self._recorder.insert_events(stored)
        else:
            await trio.to_thread.run_sync(self._recorder.insert_events, stored, limiter=self._writer_limiter)
        # A moving average decides where the next group is committed; one slow fsync does not move it far.
        self._commit_s += (time.monotonic() - began - self._commit_s) / 8

    async def _rewind(self) -> None:
        try:
            done = await trio.to_thread.run_sync(self._recorder.rewind, limiter=self._writer_limiter)
        except PortError as error:
            _LOGGER.warning("the write-ahead log grows on: %s", error)
            done = True
        if done:
            self._commits = self._copied = 0
            self._rewind_at = 2 * WAL_COMMITS
        else:
            self._rewind_at = self._commits + WAL_COMMITS // 8

    def _publish(self, group: _Group) -> None:
        """Everything past the commit, in order, without awaiting."""
        shown = [each for call in group.calls for each in call.shown]
        position = shown[-1][0].position
        assert position == self._recorder.position, "events are not where they were decided to be"
        for call in group.calls:
            for stream, fold in call.written.items():
                self._settle(stream, fold)
        for recorded, state in shown:
            self._audience.tell(recorded, state)
        self.pump.publish(shown)
        group.done.set()
        self._dirty.set()
        # A big group has as many pages as several small ones: 64 writers would make the write-ahead log 600 MB long.
        self._commits += 1 + len(shown) // 16
        if (
            position - self._checkpoints.position >= self._options.checkpoint_events
            or self._commits - self._copied >= WAL_COMMITS
        ):
            self._urgent.set()

    def _settle(self, stream: str, fold: Fold) -> None:
        """A pending fold has become the committed one."""
        kind = kind_of(stream)
        ended = self._deciders[kind].terminal(fold.state)
        self._folds.put(stream, fold, ended=ended)
        if self._pending.get(stream) is fold:
            del self._pending[stream]
        self._checkpoints.note(kind, stream, fold, ended=ended)

    def _fail(self, error: PortError) -> None:
        """Nothing of these calls was appended, and later ones were decided on what never happened."""
        assert self._recorder.position == self.position, "a failed commit is in the log: only a restart can tell"
        for group in (self._in_flight, self._queue):
            group.error = error
            group.done.set()
        self._queue = _Group()
        self._decided = self.position
        self._pending.clear()
        self._folds.clear()

    # -- derived state -------------------------------------------------------------------------------------------------

    async def _keep_house(self) -> None:
        """Checkpoint derived state and the write-ahead log now and then, off the command path."""
        while not self._closing:
            await self._dirty.wait()
            self._dirty = trio.Event()
            with trio.move_on_after(self._options.checkpoint_s) as waiting:
                await self._urgent.wait()
            self._urgent = trio.Event()
            self._copied = self._commits
            due = self.position - self._checkpoints.position >= self._options.checkpoint_events
            if self._closing:
                return
            if due or waiting.cancelled_caught:
                await self.checkpoint()
            else:
                await trio.to_thread.run_sync(self._copy_pages, limiter=self._limiter)

    async def checkpoint(self) -> None:
        """Write projections and state snapshots to views.db now. Failing costs the next start time, and no truth."""
        await trio.to_thread.run_sync(self._save, self._derived_state(), limiter=self._limiter)

    def _derived_state(self) -> Checkpoint:
        seal = self._recorder.seal_at(self.position)
        assert seal is not None, "the log's head is not the end of a commit"
        return self._checkpoints.take(Head(position=self.position, seal=seal))

    def _save(self, checkpoint: Checkpoint) -> None:
        self._checkpoints.save(checkpoint)
        self._copy_pages()

    def _copy_pages(self) -> None:
        try:
            self._recorder.checkpoint()
        except PortError as error:
            _LOGGER.warning("the write-ahead log is not copied: %s", error)
