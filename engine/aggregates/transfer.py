"""A transfer: one attempt to bring an image here (pull, load, import) or away (push), told even when it fails.

The bytes are the drivers' business; the intent keeps half-fetched content from being swept, and a start-up finds every
transfer that a crash cut off. Small aggregate in one module.
"""

from __future__ import annotations

import enum
from typing import ClassVar, assert_never

import msgspec
from msgspec.structs import replace

from engine.aggregates.decider import Command, Decider, Event
from engine.aggregates.values.ids import ImageID


class TransferCommand(Command, frozen=True, kw_only=True):
    transfer_id: str

    @property
    def key(self) -> str:
        return self.transfer_id


class BeginTransfer(TransferCommand, frozen=True, kw_only=True):
    """kind: `pull`, `load`, `import`, `push`. reference: what was asked for, "" for a load."""

    at: int
    kind: str
    reference: str


class ReportTransferDone(TransferCommand, frozen=True, kw_only=True):
    images: tuple[ImageID, ...]


class ReportTransferFailed(TransferCommand, frozen=True, kw_only=True):
    error: str


class TransferBegun(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "transfer.begun"
    at: int
    kind: str
    reference: str


class TransferDone(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "transfer.done"
    images: tuple[ImageID, ...]


class TransferFailed(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "transfer.failed"
    error: str


class TransferStatus(enum.Enum):
    ABSENT = "absent"
    OPEN = "open"
    DONE = "done"
    FAILED = "failed"


class TransferState(msgspec.Struct, frozen=True, kw_only=True):
    transfer_id: str
    status: TransferStatus = TransferStatus.ABSENT
    kind: str = ""
    reference: str = ""
    begun_at: int = 0
    error: str = ""


TransferEvent = TransferBegun | TransferDone | TransferFailed
TransferCommands = BeginTransfer | ReportTransferDone | ReportTransferFailed

TRANSITIONS: dict[tuple[TransferStatus, type[Event]], tuple[TransferStatus, str]] = {
    (TransferStatus.ABSENT, TransferBegun): (TransferStatus.OPEN, "user"),
    (TransferStatus.OPEN, TransferDone): (TransferStatus.DONE, "images reactor"),
    (TransferStatus.OPEN, TransferFailed): (TransferStatus.FAILED, "images reactor"),
}


def evolve(state: TransferState, event: TransferEvent) -> TransferState:
    row = TRANSITIONS.get((state.status, type(event)))
    assert row is not None, f"no transition from {state.status.value} by {event.NAME}"
    match event:
        case TransferBegun():
            return replace(state, status=row[0], kind=event.kind, reference=event.reference, begun_at=event.at)
        case TransferDone():
            return replace(state, status=row[0])
        case TransferFailed():
            return replace(state, status=row[0], error=event.error)
        case _:
            assert_never(event)


def decide(state: TransferState, command: TransferCommands) -> tuple[Event, ...]:
    match command:
        case BeginTransfer():
            assert state.status is TransferStatus.ABSENT, "transfer ids are drawn at random"
            return (TransferBegun(at=command.at, kind=command.kind, reference=command.reference),)
        case ReportTransferDone():
            return (TransferDone(images=command.images),) if state.status is TransferStatus.OPEN else ()
        case ReportTransferFailed():
            return (TransferFailed(error=command.error),) if state.status is TransferStatus.OPEN else ()
        case _:
            assert_never(command)


DECIDER: Decider[TransferState] = Decider(
    name="transfer",
    initial=lambda key: TransferState(transfer_id=key),
    decide=decide,
    evolve=evolve,
    terminal=lambda state: state.status in (TransferStatus.DONE, TransferStatus.FAILED),
    commands=TransferCommands.__args__,
    events=TransferEvent.__args__,
)
