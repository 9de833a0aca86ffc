"""A transfer: one attempt to bring an image here (pull, load, import) or away (push), told even when it fails.

The bytes are the drivers' business. What a pull brings is leased: named in the log before it is fetched, and kept while
the transfer is open. A pull that failed, or was cut off by a crash, keeps its lease for a while, so that the next try
finds what there is; then the lease is released, and what only it kept is discarded. Small aggregate in one module.
"""

from __future__ import annotations

import enum
from typing import ClassVar, assert_never

import msgspec
from msgspec.structs import replace

from engine.aggregates.decider import Command, Decider, Event
from engine.aggregates.values.ids import ChainID, Digest, ImageID


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


class LeaseContent(TransferCommand, frozen=True, kw_only=True):
    """What the transfer is about to bring, or has found here. What it has leased already changes nothing."""

    blobs: tuple[Digest, ...] = ()
    layers: tuple[ChainID, ...] = ()


class ReportTransferDone(TransferCommand, frozen=True, kw_only=True):
    images: tuple[ImageID, ...]


class ReportTransferFailed(TransferCommand, frozen=True, kw_only=True):
    """kept_until (ns): how long what was leased waits for another try; 0 gives it up at once."""

    error: str
    kept_until: int = 0


class ReleaseLease(TransferCommand, frozen=True, kw_only=True):
    """reason: for people."""

    reason: str


class TransferBegun(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "transfer.begun"
    at: int
    kind: str
    reference: str


class ContentLeased(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "transfer.content_leased"
    blobs: tuple[Digest, ...] = ()
    layers: tuple[ChainID, ...] = ()


class TransferDone(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "transfer.done"
    images: tuple[ImageID, ...]


class TransferFailed(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "transfer.failed"
    error: str


class TransferInterrupted(Event, frozen=True, kw_only=True):
    """Failed, and what it leased is kept for another try. kept_until: ns."""

    NAME: ClassVar[str] = "transfer.interrupted"
    error: str
    kept_until: int


class LeaseReleased(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "transfer.lease_released"
    reason: str


class TransferStatus(enum.Enum):
    ABSENT = "absent"
    OPEN = "open"
    DONE = "done"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


class TransferState(msgspec.Struct, frozen=True, kw_only=True):
    """blobs, layers: its lease, of which nothing may be discarded. kept_until: of an interrupted one, ns."""

    transfer_id: str
    status: TransferStatus = TransferStatus.ABSENT
    kind: str = ""
    reference: str = ""
    begun_at: int = 0
    error: str = ""
    blobs: frozenset[Digest] = frozenset()
    layers: frozenset[ChainID] = frozenset()
    kept_until: int = 0


TransferEvent = TransferBegun | ContentLeased | TransferDone | TransferFailed | TransferInterrupted | LeaseReleased
TransferCommands = BeginTransfer | LeaseContent | ReportTransferDone | ReportTransferFailed | ReleaseLease

TRANSITIONS: dict[tuple[TransferStatus, type[Event]], tuple[TransferStatus, str]] = {
    (TransferStatus.ABSENT, TransferBegun): (TransferStatus.OPEN, "user"),
    (TransferStatus.OPEN, ContentLeased): (TransferStatus.OPEN, "images reactor"),
    (TransferStatus.OPEN, TransferDone): (TransferStatus.DONE, "images reactor"),
    (TransferStatus.OPEN, TransferFailed): (TransferStatus.FAILED, "images reactor"),
    (TransferStatus.OPEN, TransferInterrupted): (TransferStatus.INTERRUPTED, "images reactor"),
    (TransferStatus.INTERRUPTED, LeaseReleased): (TransferStatus.FAILED, "images reactor"),
}

_NOTHING: frozenset[Digest] = frozenset()
_NO_LAYERS: frozenset[ChainID] = frozenset()


def evolve(state: TransferState, event: TransferEvent) -> TransferState:
    row = TRANSITIONS.get((state.status, type(event)))
    assert row is not None, f"no transition from {state.status.value} by {event.NAME}"
    match event:
        case TransferBegun():
            return replace(state, status=row[0], kind=event.kind, reference=event.reference, begun_at=event.at)
        case ContentLeased():
            return replace(state, blobs=state.blobs | set(event.blobs), layers=state.layers | set(event.layers))
        case TransferDone():
            return replace(state, status=row[0], blobs=_NOTHING, layers=_NO_LAYERS)
        case TransferFailed():
            return replace(state, status=row[0], error=event.error, blobs=_NOTHING, layers=_NO_LAYERS)
        case TransferInterrupted():
            return replace(state, status=row[0], error=event.error, kept_until=event.kept_until)
        case LeaseReleased():
            return replace(state, status=row[0], blobs=_NOTHING, layers=_NO_LAYERS)
        case _:
            assert_never(event)


def decide(state: TransferState, command: TransferCommands) -> tuple[Event, ...]:
    match command:
        case BeginTransfer():
            assert state.status is TransferStatus.ABSENT, "transfer ids are drawn at random"
            return (TransferBegun(at=command.at, kind=command.kind, reference=command.reference),)
        case LeaseContent():
            assert state.status is TransferStatus.OPEN, "only what is under way leases"
            blobs = tuple(digest for digest in dict.fromkeys(command.blobs) if digest not in state.blobs)
            layers = tuple(chain_id for chain_id in dict.fromkeys(command.layers) if chain_id not in state.layers)
            return (ContentLeased(blobs=blobs, layers=layers),) if blobs or layers else ()
        case ReportTransferDone():
            return (TransferDone(images=command.images),) if state.status is TransferStatus.OPEN else ()
        case ReportTransferFailed():
            if state.status is not TransferStatus.OPEN:
                return ()
            if command.kept_until and (state.blobs or state.layers):
                return (TransferInterrupted(error=command.error, kept_until=command.kept_until),)
            return (TransferFailed(error=command.error),)
        case ReleaseLease():
            return (LeaseReleased(reason=command.reason),) if state.status is TransferStatus.INTERRUPTED else ()
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
    endings=(TransferDone, TransferFailed, LeaseReleased),
)
