"""The disk below the log and the keys: it can be full, and the power can fail while it writes.

Owns: what of a commit under way is on the disk afterwards. SQLite writes its pages behind one another and syncs: what
it had synced is there, of the rest any sector may be. Files that nobody syncs (views) may be whole, torn or gone.
Refuses to know: engines and their lives (who is told that the power failed).
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from engine.recorder import LogRecorder
from engine.sqlite_errors import translated
from engine.vault import Vault

SECTOR_BYTES = 512
HEADER_BYTES = 32
"""Of a write-ahead log."""
Files = Mapping[Path, bytes]
"""Write-ahead logs as they were before the commit under way."""


class Disk:
    """full: nothing more can be written. The power fails in the next commit when `cut_in_commit` was called."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._cut: Callable[[Files], None] | None = None
        self.full = False

    def cut_in_commit(self, cut: Callable[[Files], None]) -> None:
        """The next commit is the last thing that happens: `cut` is told what its file was before."""
        self._cut = cut

    def heal(self) -> None:
        self.full, self._cut = False, None

    def check_room(self) -> None:
        """Raises what SQLite does when a page finds no room."""
        if self.full:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error

    @contextlib.contextmanager
    def committing(self, database: Path) -> Iterator[None]:
        """Around a commit."""
        cut, self._cut = self._cut, None
        ahead = Path(f"{database}-wal")
        before = ahead.read_bytes() if cut is not None and ahead.exists() else b""
        yield
        if cut is not None:
            cut({ahead: before})

    def copy(self, path: Path, to: Path, before: Files) -> None:
        """A file as the power's failure left it, which is whole unless a commit was under way in it."""
        data = path.read_bytes()
        to.write_bytes(self._torn(before[path], data) if path in before else data)

    def copy_unsynced(self, path: Path, to: Path) -> None:
        """One that nobody has waited for."""
        match self._random.choice(("whole", "torn", "gone")):
            case "whole":
                shutil.copy(path, to)
            case "torn":
                data = path.read_bytes()
                to.write_bytes(self._torn(bytes(len(data)), data[: self._random.randrange(len(data) + 1)]))

    def _torn(self, before: bytes, after: bytes) -> bytes:
        """Sectors that changed are each written or not; or in order, up to some byte of one of them."""
        # A log that begins anew has its header synced before the first frame is written.
        before = after[:HEADER_BYTES] + before.ljust(len(after), b"\0")[HEADER_BYTES:]
        changed = [at for at in range(0, len(after), SECTOR_BYTES) if _sector(before, at) != _sector(after, at)]
        if not changed:
            return after
        found = bytearray(before)
        if self._random.random() < 0.5:
            upto = self._random.choice(changed) + self._random.randrange(SECTOR_BYTES + 1)
            found[:upto] = after[:upto]
        else:
            for at in changed:
                if self._random.random() < 0.7:
                    found[at : at + SECTOR_BYTES] = _sector(after, at)
        return bytes(found)


def _sector(data: bytes, at: int) -> bytes:
    return data[at : at + SECTOR_BYTES]


@contextlib.contextmanager
def below(disk: Disk) -> Iterator[None]:
    """Every log and every vault of this process is on `disk` while the block runs."""
    insert, insert_events, insert_keys = LogRecorder._insert_events, LogRecorder.insert_events, Vault._insert

    def insert_in_transaction(self: LogRecorder, cursor: Any, *arguments: Any, **options: Any) -> Sequence[int]:
        positions = insert(self, cursor, *arguments, **options)
        disk.check_room()
        return positions

    def commit_events(self: LogRecorder, *arguments: Any, **options: Any) -> Sequence[int]:
        with disk.committing(Path(self._path)):
            return insert_events(self, *arguments, **options)

    def commit_keys(self: Vault, keys: dict[str, bytes]) -> None:
        with translated("store a key"), disk.committing(self._path):
            disk.check_room()
            insert_keys(self, keys)

    LogRecorder._insert_events = insert_in_transaction  # type: ignore[method-assign]
    LogRecorder.insert_events = commit_events  # type: ignore[method-assign]
    Vault._insert = commit_keys  # type: ignore[method-assign]
    try:
        yield
    finally:
        LogRecorder._insert_events = insert  # type: ignore[method-assign]
        LogRecorder.insert_events = insert_events  # type: ignore[method-assign]
        Vault._insert = insert_keys  # type: ignore[method-assign]
