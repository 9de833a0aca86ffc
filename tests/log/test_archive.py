"""WIN-16: old history in sealed segments. It reads as before, proves itself as before, and sealing can die anywhere."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from engine import application as module
from engine import folds, recorder
from engine.archive import retention, sealing, states
from engine.archive.keeper import Keeper, Policy
from engine.archive.retention import Level
from engine.archive.segment import SegmentFile, encode
from engine.archive.store import FOLDER, Sealed
from engine.codec import EventCodec, LogError
from replay.reader import LogReader
from replay.verify import verify
from tests.support.counter import CAUSE, COUNTER, Add, CounterState, End, SteppingClock, Totals, counters

POLICY = Policy(kept_events=50, segment_events=100, low_days=0)


async def work(arguments: list[str]) -> Sealed | None:
    """The worker's program, here and with the counters."""
    log = Path(arguments[0])
    if arguments[1] == "--states":
        return sealing.restate(log, [COUNTER])
    if arguments[1] == "--thin":
        return sealing.thin(log, int(arguments[2]), Level(int(arguments[4])), [COUNTER])
    return sealing.seal_next(log, int(arguments[2]), [COUNTER])


async def fill(application: Any, calls: int = 100) -> None:
    for number in range(calls):
        await application.execute(Add(name=f"c{number % 7}", amount=4), cause=CAUSE)
        await application.execute(Add(name=f"once{number}"), End(name=f"once{number}"), cause=CAUSE)


def keeper(application: Any, directory: Path, policy: Policy = POLICY) -> Keeper:
    return Keeper(application, directory / "events.db", policy, SteppingClock(), work, [COUNTER])


def everything(application: Any, page_events: int = 77) -> list[Any]:
    """The whole history, as the engine reads it."""
    found: list[Any] = []
    while page := application.read(found[-1].position if found else 0, page_events):
        found += page
    return found


def rows_in_file(directory: Path) -> int:
    with sqlite3.connect(directory / "events.db") as database:
        count = database.execute("SELECT COUNT(*) FROM stored_events").fetchone()[0]
    database.close()
    return count


def told(directory: Path) -> list[tuple[int, str, int]]:
    """The whole history, as `replay` reads it."""
    with LogReader(directory / "events.db", EventCodec(COUNTER.events)) as reader:
        return [(one.position, one.stream, one.version) for one in reader.events()]


async def test_sealed_history_reads_as_it_did_before(tmp_path: Path) -> None:
    async with counters(tmp_path, totals=Totals()).running() as application:
        await fill(application)
        position = application.position
        before = everything(application)
        streams = {stream: application.history(stream) for stream in ("counter:c3", "counter:once17")}
        seals = {at: application._recorder.seal_at(at) for at in (4, 5, 6, 300, position)}
        await keeper(application, tmp_path).look()
        assert application.archive.floor >= 500
        assert rows_in_file(tmp_path) == position - application.archive.floor
        assert everything(application) == before
        assert {stream: application.history(stream) for stream in streams} == streams
        assert {at: application._recorder.seal_at(at) for at in seals} == seals
        assert seals[5] is None
        await application.execute(Add(name="c1"), cause=CAUSE)
    assert [entry[0] for entry in told(tmp_path)] == list(range(1, position + 2))
    result = verify(tmp_path / "events.db", views=tmp_path / "views.db")
    assert result.whole, result.findings
    assert result.events == position + 1


async def test_views_are_folded_anew_through_the_archive(tmp_path: Path) -> None:
    totals = Totals()
    async with counters(tmp_path, totals=totals).running() as application:
        await fill(application)
        await keeper(application, tmp_path).look()
    (tmp_path / "views.db").unlink()
    again = Totals()
    async with counters(tmp_path, totals=again).running() as application:
        assert again.totals == totals.totals
        assert application.state("counter", "c2").total == totals.totals["c2"]


async def test_what_has_no_checkpoint_begins_with_the_states_of_sealed_history(tmp_path: Path) -> None:
    async with counters(tmp_path, totals=Totals()).running() as application:
        await fill(application)
        await keeper(application, tmp_path).look()
        floor, living = application.archive.floor, application.live("counter")
    changed = msgspec.structs.replace(COUNTER, initial=told_of)
    for decider, begins_at in ((COUNTER, floor), (changed, 0)):
        (tmp_path / "views.db").unlink()
        async with counters(tmp_path, totals=Totals(), decider=decider).running() as application:
            assert application.restored == {"totals": 0, "live-streams": begins_at}
            assert application.live("counter") == living


async def test_without_sealed_history_no_states_are_made(tmp_path: Path) -> None:
    async def refuse(arguments: list[str]) -> Sealed | None:
        raise AssertionError(arguments)

    async with counters(tmp_path).running() as application:
        await application.execute(Add(name="a"), cause=CAUSE)
        await Keeper(application, tmp_path / "events.db", Policy(), SteppingClock(), refuse, [COUNTER]).look()


async def test_states_that_other_code_has_made_are_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with counters(tmp_path, totals=Totals()).running() as application:
        await fill(application)
        await keeper(application, tmp_path).look()
        assert not states.outdated(application.archive, [COUNTER])
        monkeypatch.setattr(states, "fingerprint_of", lambda folding: "of tomorrow")
        assert states.outdated(application.archive, [COUNTER])
        await keeper(application, tmp_path).look()
        assert not states.outdated(application.archive, [COUNTER])
        kept = states.kept_before(application.archive, [COUNTER], application.archive.floor)["counter"]
        folded = states.Living([COUNTER])
        folded.fold(application.archive.rows(1, application.archive.floor))
        assert [f"counter:{key}" for key in kept.states] == list(folded.states)


def told_of(key: str) -> CounterState:
    """The same fold by other code."""
    return CounterState(name=key)


class Cut(BaseException):
    """The engine dies here."""


@pytest.mark.parametrize("steps", range(1, 10))
async def test_a_death_at_any_step_of_sealing_leaves_the_old_state_or_the_new(tmp_path: Path, steps: int) -> None:
    """The steps: worker begun, worker done, named in the manifest, and each lot of rows deleted."""
    left = steps

    def step() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            for suffix in ("", "-wal"):
                shutil.copy(tmp_path / f"events.db{suffix}", dead / f"events.db{suffix}")
            shutil.copytree(tmp_path / FOLDER, dead / FOLDER, dirs_exist_ok=True)
            raise Cut

    dead = tmp_path / "dead"
    dead.mkdir()
    (tmp_path / FOLDER).mkdir()
    async with counters(tmp_path, totals=Totals()).running() as application:
        await fill(application)
        before = told(tmp_path)
        cut = keeper(application, tmp_path)

        async def cut_work(arguments: list[str]) -> Sealed | None:
            step()
            made = await work(arguments)
            step()
            return made

        class Steps:
            archive = application.archive
            position = application.position

            async def adopt(self, segment: Sealed) -> None:
                await application.adopt(segment)
                step()

            async def forget(self) -> bool:
                more = await application.forget()
                step()
                return more

        cut._log, cut._work = Steps(), cut_work
        with pytest.raises(Cut):
            await cut.look()
    assert told(dead) == before
    assert verify(dead / "events.db").whole
    async with counters(dead, totals=Totals()).running() as application:
        await keeper(application, dead).look()
        assert [entry.position for entry in everything(application)] == [entry[0] for entry in before]
        await application.execute(Add(name="c1"), cause=CAUSE)
        assert rows_in_file(dead) == application.position - application.archive.floor
        await keeper(application, dead).look()
        named = {segment.name for segment in application.archive.segments}
        assert {path.name for path in (dead / FOLDER).glob("*.segment*")} == named
    assert verify(dead / "events.db").whole


async def test_commands_go_on_while_history_is_sealed(tmp_path: Path) -> None:
    async with counters(tmp_path, totals=Totals()).running() as application:
        await fill(application)
        answered = 0
        sealed = trio.Event()

        async def ask() -> None:
            nonlocal answered
            while not sealed.is_set():
                await application.execute(Add(name="asked"), cause=CAUSE)
                answered += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await keeper(application, tmp_path).look()
            sealed.set()
        assert answered >= len(application.archive.segments)
        assert application.state("counter", "asked").total == answered


async def test_a_segment_that_forgets_still_proves_what_it_forgot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WIN-15, WIN-16: whole lives are left out of the oldest segments when history is larger than it may be."""
    monkeypatch.setattr(retention, "MORTAL", frozenset({"counter"}))
    async with counters(tmp_path, totals=Totals()).running() as application:
        await fill(application)
        await keeper(application, tmp_path).look()
        before, head = everything(application), application.position
        small = Policy(kept_events=50, segment_events=100, low_days=0, bytes_max=1)
        await keeper(application, tmp_path, small).look()
        left = everything(application)
        gone = {entry.position for entry in before} - {entry.position for entry in left}
        streams = {entry.stream for entry in before if entry.position in gone}
        assert streams and all(stream.startswith("counter:once") for stream in streams)
        assert {entry.stream for entry in left} & streams == set(), "a life is forgotten wholly or not at all"
    result = verify(tmp_path / "events.db")
    assert result.whole, result.findings
    assert (result.position, result.events) == (head, len(before) - len(gone))


@pytest.fixture
async def sealed(tmp_path: Path) -> Path:
    async with counters(tmp_path, totals=Totals()).running() as application:
        await fill(application)
        await keeper(application, tmp_path).look()
    return tmp_path


def segments(directory: Path) -> list[Path]:
    return sorted((directory / FOLDER).glob("*.segment"))


async def test_verify_names_a_segment_that_is_gone_and_goes_on_behind_it(sealed: Path) -> None:
    segments(sealed)[1].unlink()
    result = verify(sealed / "events.db")
    assert [finding.kind for finding in result.findings] == ["lost"]
    assert result.findings[0].position == SegmentFile(segments(sealed)[0]).index.last + 1


async def test_verify_finds_a_garbled_segment(sealed: Path) -> None:
    victim = segments(sealed)[2]
    data = bytearray(victim.read_bytes())
    data[len(data) // 3] ^= 4
    victim.write_bytes(data)
    kinds = {finding.kind for finding in verify(sealed / "events.db").findings}
    assert "segment" in kinds
    assert kinds <= {"segment", "chain"}


async def test_verify_names_the_event_that_was_rewritten_in_a_segment(sealed: Path) -> None:
    """Somebody who knows the format changes one event and lets everything else fit, the manifest too."""
    victim = segments(sealed)[0]
    file = SegmentFile(victim)
    commits = [commit for place in file.index.blocks for commit in file.commits(place)]
    rewritten = []
    for commit in commits:
        rows = [(*row[:4], row[4].replace(b"docker", b"dokker")) if row[0] == 11 else row for row in commit.rows]
        rewritten.append(commit._replace(rows=rows))  # with the old leaves: marks and seals are as they were
    data, _ = encode(rewritten, file.index.blocks[0].seal)
    forged = Sealed(
        first=file.index.first, last=file.index.last, events=file.index.events, size=len(data),
        seal=file.index.seal, digest=hashlib.sha256(data).digest(),
    )  # fmt: skip
    (sealed / FOLDER / forged.name).write_bytes(data)
    with sqlite3.connect(sealed / "events.db") as database:
        database.execute("UPDATE segments SET digest=? WHERE first=1", (forged.digest,))
    database.close()
    findings = verify(sealed / "events.db").findings
    assert 11 in {finding.position for finding in findings if finding.kind == "changed"}


async def test_a_copied_file_without_its_archive_says_so(sealed: Path) -> None:
    copied = sealed / "copied"
    copied.mkdir()
    shutil.copy(sealed / "events.db", copied / "events.db")
    with pytest.raises(LogError, match=r"archive/.*segment"):
        told(copied)


async def test_the_write_ahead_log_stays_small_while_sealed_rows_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "FORGET_ROWS", 4)
    monkeypatch.setattr(recorder, "WAL_BYTES", 0)
    monkeypatch.setattr(module, "CHORE_COMMITS", 400)
    async with counters(tmp_path, totals=Totals()).running() as application:
        await fill(application)
        before = (tmp_path / "events.db-wal").stat().st_size
        sizes = []
        forget = application.forget

        async def measured() -> bool:
            more = await forget()
            sizes.append((tmp_path / "events.db-wal").stat().st_size)
            return more

        monkeypatch.setattr(application, "forget", measured)
        for _ in range(3):
            await keeper(application, tmp_path).look()
        assert len(sizes) > 100
        assert max(sizes) < 1.2 * before, "as long as what 600 events had made it, and no longer"


async def test_what_was_long_to_load_is_loaded_from_a_snapshot_by_the_next_engine(tmp_path: Path) -> None:
    async with counters(tmp_path).running() as application:
        for _ in range(folds.LONG_EVENTS // 4):
            await application.execute(Add(name="old", amount=4), cause=CAUSE)
            await application.execute(Add(name="other", amount=4), cause=CAUSE)
        await keeper(application, tmp_path).look()
    (tmp_path / "views.db").unlink()
    async with counters(tmp_path).running() as application:
        assert application.state("counter", "old").total == folds.LONG_EVENTS
    async with counters(tmp_path).running() as application:
        assert application.state("counter", "old").total == folds.LONG_EVENTS
        assert len(application.archive._blocks) == 1, "more was read than the newest of it"
