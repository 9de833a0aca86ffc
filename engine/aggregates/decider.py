"""The shape every aggregate has: pure functions, tied together by a table.

Owns: the `Decider` record, the base records of commands and events, and the error a rule raises.
Refuses to know: storage, clocks, identifiers of its own making, drivers, HTTP.

A decider is `decide(state, command) -> events` and `evolve(state, event) -> state`. Both are plain functions without
I/O; time, identifiers and randomness come in as fields of the command. The shell (engine/application.py) loads the
fold of a stream, calls `decide`, and appends what comes back.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar

import msgspec

S = TypeVar("S")


class Retention(enum.Enum):
    """How long sealed history keeps an event: `PERMANENT` for ever, `LOW` for the likes of probes and execs."""

    PERMANENT = "permanent"
    LOW = "low"


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A fact that happened, in the past tense. `NAME` is the stored name and never changes; `SCHEMA` counts the
    versions of its fields, each older one with an upcaster in engine/upcasters.py."""

    NAME: ClassVar[str]
    SCHEMA: ClassVar[int] = 1
    RETENTION: ClassVar[Retention] = Retention.PERMANENT


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """A wish, in the imperative, or (`ReportX`) an observation of the world. Addressed to exactly one stream.

    BEGINS: the stream's key was drawn at random for this very command, so nobody need look for its past."""

    BEGINS: ClassVar[bool] = False

    @property
    def key(self) -> str:
        """The identifier part of the stream this command is for (`container:<key>`)."""
        raise NotImplementedError


class Reason(enum.Enum):
    """Why a rule said no. `engine/api/errors.py` maps each to Docker's status code."""

    INVALID = "invalid"  # 400
    UNAUTHORIZED = "unauthorized"  # 401
    FORBIDDEN = "forbidden"  # 403
    NOT_FOUND = "not found"  # 404
    CONFLICT = "conflict"  # 409
    NOT_MODIFIED = "not modified"  # 304
    NOT_IMPLEMENTED = "not implemented"  # 501
    UNAVAILABLE = "unavailable"  # 503
    SYSTEM = "system"  # 500


class Rejected(Exception):  # noqa: N818 - "Rejected" is the word of the architecture
    """A rule said no: nothing was appended, nothing changed. The text is what the client reads, in Docker's words."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class Decider(msgspec.Struct, Generic[S], frozen=True, kw_only=True):
    """One aggregate: its stream prefix, its empty state, its two functions, and what they accept.

    `terminal(state)` says that the stream has ended: its fold may be forgotten by caches. endings: the events after
    which it is terminal whatever came before, so that nobody need fold what leads to one.
    """

    name: str
    initial: Callable[[str], S]
    decide: Callable[[S, Any], tuple[Event, ...]]
    evolve: Callable[[S, Any], S]
    terminal: Callable[[S], bool]
    commands: tuple[type[Command], ...]
    events: tuple[type[Event], ...]
    endings: tuple[type[Event], ...] = ()

    def stream(self, key: str) -> str:
        return f"{self.name}:{key}"


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """Who and why, stamped on every event of a transaction.

    actor: `uid=0 gid=0 pid=412 user=root exe=/usr/bin/docker` of a socket peer, `tls:<CN>`,
    `reactor:<name>`, or `signal:<name>`.
    correlation: the API request (or start-up) that everything descends from.
    causation: the position (`@412`) of the event, or the command, that led to it directly.
    """

    actor: str
    correlation: str
    causation: str = ""


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """An event with its envelope, as read from the log. `position` is global, gap-free from 1; `version` counts within
    the stream from 1; `time_ns` is UTC nanoseconds when it was appended."""

    position: int
    stream: str
    version: int
    time_ns: int
    cause: Cause
    event: Event

    @property
    def kind(self) -> str:
        """The aggregate's name: `container` of `container:4f5e...`."""
        return self.stream.partition(":")[0]

    @property
    def key(self) -> str:
        """The identifier within the aggregate: `4f5e...` of `container:4f5e...`."""
        return self.stream.partition(":")[2]
