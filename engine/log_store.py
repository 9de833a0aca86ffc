"""The log's file as `eventsourcing` opens it, and what is said of one that can not be read.

Owns: the parts that the library is given, and telling damage from a disk's trouble or a bug.
Refuses to know: what is written, and what is done about damage.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import msgspec
from eventsourcing.application import Application
from eventsourcing.persistence import InfrastructureFactory, PersistenceError
from eventsourcing.utils import Environment, EnvType

from engine.codec import LogError
from engine.errors import LogDamaged, PortError
from engine.mapper import EventMapper
from engine.recorder import LogFactory, LogRecorder

_DAMAGE_CODES = frozenset({sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
"""SQLite's for a file that is none, pages that do not fit, tables that are not what they were."""


class LogStore(Application[str]):
    """`eventsourcing`'s application over one file, with our recorder and mapper and nothing from the environment."""

    name = "ishmael"

    def __init__(self, path: Path, mapper: EventMapper) -> None:
        self._given_mapper = mapper
        super().__init__({"SQLITE_DBNAME": str(path), "ORIGINATOR_ID_TYPE": "text"})

    @property
    def log_recorder(self) -> LogRecorder:
        assert isinstance(self.recorder, LogRecorder)
        return self.recorder

    def construct_env(self, name: str, env: EnvType | None = None) -> Environment:
        return Environment(name, dict(env or {}))

    def construct_factory(self, env: Environment) -> InfrastructureFactory:
        return cast("InfrastructureFactory", LogFactory(env))

    def construct_mapper(self) -> EventMapper:
        return self._given_mapper


@contextlib.contextmanager
def damage_told() -> Iterator[None]:
    """Around the opening of a log: LogDamaged for what is the log's own fault."""
    try:
        yield
    except Exception as error:
        if not _is_damage(error):
            raise
        words = str(error)
        if "the log is damaged" not in words:
            words = f"the log is damaged: {words or type(error).__name__} (see `replay verify`)"
        raise LogDamaged("open the log", words) from error


def _is_damage(error: BaseException | None) -> bool:
    """Whether a refusal to open is the log's own fault, and not the disk's or a bug's."""
    match error:
        case None:
            return False
        case sqlite3.Error():
            return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE_CODES
        case PortError():
            return "the log is damaged" in error.message or _is_damage(error.__cause__)
        case PersistenceError():
            return any(_is_damage(each) for each in (error.__cause__, *error.args) if isinstance(each, BaseException))
        case LogError() | AssertionError() | LookupError() | ValueError() | TypeError() | msgspec.MsgspecError():
            return True  # events that can not be read, or can not have happened after one another
        case _:
            return False
