"""The vault: seals secret values under keys that live outside the log.

Owns: keys.db, one 256-bit key per owner stream, and AES-256-GCM over it. A key is on disk before anything is sealed
with it, else a crash would leave values in the log that nobody can ever open. Erasing a key erases every value it
sealed, wherever copies of the log lie.
Refuses to know: what is secret, and when an owner is forgotten (a reactor's decision).
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import trio
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from engine.aggregates.values.sealed import Sealed
from engine.entropy import Entropy
from engine.errors import Fault, PortError
from engine.private_file import create_private
from engine.sqlite_errors import translated

KEY_BYTES = 32
NONCE_BYTES = 12
CACHED_KEYS_MAX = 4096
INLINE_S_MAX = 0.003

_LOGGER = logging.getLogger("ishmael.keys")


class Vault:
    """Seals and opens values. Use inside `async with vault.running():`."""

    def __init__(self, path: Path, entropy: Entropy) -> None:
        self._path = path
        self._entropy = entropy
        self._limiter = trio.CapacityLimiter(1)
        self._lock = trio.Lock()
        self._keys: dict[str, bytes] = {}
        self._unsaved: dict[str, bytes] = {}
        self._doomed: set[str] = set()
        self._save_s = 0.0
        self._connection: sqlite3.Connection | None = None
        self.damage = ""
        """What is lost of the keys, in a sentence, as long as the file lies there that was set aside."""
        # Only the loop reads, by a connection of its own: a look at one that a thread is erasing with would make the
        # erasure fail as locked.
        self._reader: sqlite3.Connection | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Vault]:
        """Open keys.db (made with mode 0600) for the length of the block."""
        await trio.to_thread.run_sync(self._open, limiter=self._limiter)
        try:
            yield self
        finally:
            for connection in (self._reader, self._connection):
                if connection is not None:
                    connection.close()
            self._reader = self._connection = None

    async def seal(self, owner: str, value: bytes) -> Sealed:
        """Encrypt under the owner's key, made on first use. Callers at the same time share one write to the disk.
        Raises PortError when a new key can not be stored."""
        while (key := self._key(owner)) is None:
            self._unsaved.setdefault(owner, self._entropy.token(KEY_BYTES))
            try:
                await trio.lowlevel.checkpoint()  # others in the same breath add their keys to this write
                async with self._lock:
                    if owner in self._unsaved:
                        await self._save_new_keys()
            except BaseException:
                # Nobody waits for it any more: saved with a later one's, it would be a key that seals nothing.
                self._unsaved.pop(owner, None)
                raise
        nonce = self._entropy.token(NONCE_BYTES)
        return Sealed(owner=owner, box=nonce + AESGCM(key).encrypt(nonce, value, owner.encode()))

    def open(self, sealed: Sealed) -> bytes:
        """Decrypt. Raises PortError NOT_FOUND when the key was erased, SYSTEM when the value was tampered with."""
        key = self._key(sealed.owner)
        if key is None:
            raise PortError("open a sealed value", f"the key of {sealed.owner} is erased", fault=Fault.NOT_FOUND)
        nonce, text = sealed.box[:NONCE_BYTES], sealed.box[NONCE_BYTES:]
        try:
            return AESGCM(key).decrypt(nonce, text, sealed.owner.encode())
        except (InvalidTag, ValueError) as error:
            raise PortError("open a sealed value", f"a sealed value of {sealed.owner} is damaged") from error

    async def erase(self, *owners: str) -> None:
        """Destroy the owners' keys, in the file too. Idempotent; callers at the same time share one write."""
        self._doomed.update(owners)
        for owner in owners:
            self._keys.pop(owner, None)
        async with self._lock:
            if self._doomed.isdisjoint(owners):
                return
            doomed, self._doomed = self._doomed, set()
            try:
                await trio.to_thread.run_sync(self._erase, doomed, limiter=self._limiter)
            except BaseException:
                self._doomed |= doomed
                raise
            for owner in doomed:  # one that was being saved when this began
                self._keys.pop(owner, None)

    def owners(self) -> tuple[str, ...]:
        """Everybody who has a key, in no order."""
        return tuple(row[0] for row in self._read("SELECT owner FROM keys"))

    def _key(self, owner: str) -> bytes | None:
        key = self._keys.get(owner)
        if key is None and owner not in self._doomed:
            rows = self._read("SELECT key FROM keys WHERE owner=?", owner)
            if rows:
                key = rows[0][0]
                self._remember({owner: key})
        return key

    def _remember(self, keys: dict[str, bytes]) -> None:
        while len(self._keys) + len(keys) > CACHED_KEYS_MAX and self._keys:
            del self._keys[next(iter(self._keys))]
        self._keys.update(keys)

    async def _save_new_keys(self) -> None:
        """On the loop while the disk is quick, as the log's commits. Of keys that could not be saved each sealer tries,
        and fails, by itself."""
        fresh = dict(self._unsaved)
        began = time.monotonic()
        if self._save_s < INLINE_S_MAX:
            self._insert(fresh)
        else:
            await trio.to_thread.run_sync(self._insert, fresh, limiter=self._limiter)
        self._save_s += (time.monotonic() - began - self._save_s) / 8
        for owner in fresh:
            self._unsaved.pop(owner, None)
        self._remember(fresh)

    def _insert(self, keys: dict[str, bytes]) -> None:
        with translated("store a key"), self._opened as transaction:
            transaction.executemany("INSERT OR REPLACE INTO keys (owner, key) VALUES (?, ?)", keys.items())

    def _erase(self, owners: Iterable[str]) -> None:
        with translated("erase a key"):
            with self._opened as transaction:
                transaction.executemany("DELETE FROM keys WHERE owner=?", [(owner,) for owner in owners])
            # secure_delete overwrites the page; the write-ahead log still has the old one until it is cut off.
            transaction.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _read(self, statement: str, *parameters: str) -> list[tuple[Any, ...]]:
        assert self._reader is not None, "the vault is not open"
        with translated("read a key"):
            return self._reader.execute(statement, parameters).fetchall()

    @property
    def _opened(self) -> sqlite3.Connection:
        assert self._connection is not None, "the vault is not open"
        return self._connection

    def _open(self) -> None:
        with translated("open the vault"):
            create_private(self._path)
            try:
                self._connect()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                self._set_aside(error)
                self._connect()
            self._tell_damage()

    def _tell_damage(self) -> None:
        aside = sorted(self._path.parent.glob(f"{self._path.name}.damaged-*"))
        if aside:
            files = ", ".join(map(str, aside))
            self.damage = f"keys.db was damaged and set aside as {files}: values that it had sealed can not be read"

    def _set_aside(self, error: sqlite3.DatabaseError) -> None:
        """Damaged keys are kept for whoever can mend them; the engine goes on without: values sealed with them can not
        be read, and new ones get new keys."""
        aside = next(path for number in range(1, 1000) if not (path := Path(f"{self._path}.damaged-{number}")).exists())
        self._path.rename(aside)
        for suffix in ("-wal", "-shm"):
            Path(f"{self._path}{suffix}").unlink(missing_ok=True)
        _LOGGER.error("keys.db is damaged (%s) and set aside as %s: what it sealed can not be read", error, aside)
        create_private(self._path)

    def _connect(self) -> None:
        connection = sqlite3.connect(self._path, check_same_thread=False)
        try:
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON"):
                connection.execute(f"PRAGMA {pragma}")
            connection.execute("CREATE TABLE IF NOT EXISTS keys (owner TEXT PRIMARY KEY, key BLOB NOT NULL)")
            _check(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self._reader = sqlite3.connect(self._path, check_same_thread=False)


def _check(connection: sqlite3.Connection) -> None:
    """Raises sqlite3.DatabaseError."""
    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise sqlite3.DatabaseError(found)
