"""The intent before a transfer and the failure behind it (engine/aggregates/transfer.py), around whatever moves bytes.

The success is the caller's to report, together with what it appends. What a pull leases outlives its failure: the next
try finds it (leases.py says until when).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import trio

from engine.aggregates.decider import Cause, Rejected
from engine.aggregates.transfer import BeginTransfer, LeaseContent, ReportTransferFailed
from engine.aggregates.values.ids import ChainID, Digest
from engine.errors import Fault, PortError
from engine.reactors.base import Hands
from engine.reactors.images.holds import Holds
from engine.reactors.images.leases import superseded

NAME = "images"
LEASE_KEPT_NS = 24 * 3600 * 1_000_000_000
"""How long what a failed pull has brought waits for another try: containerd's lease for what is being fetched."""


class Transfer:
    """A transfer that has begun. cause: of what is appended for it."""

    def __init__(self, hands: Hands, transfer_id: str, cause: Cause) -> None:
        self._hands = hands
        self.transfer_id = transfer_id
        self.cause = cause

    async def lease(self, holds: Holds, blobs: Iterable[Digest] = (), layers: Iterable[ChainID] = ()) -> None:
        """Name what is about to be brought; from then on nobody discards it. Waits while somebody is discarding, so:
        first lease, then look."""
        command = LeaseContent(transfer_id=self.transfer_id, blobs=tuple(blobs), layers=tuple(layers))
        async with holds.lock:
            await self._hands.application.execute(command, cause=self.cause)


@asynccontextmanager
async def told(
    hands: Hands, kind: str, reference: str, cause: Cause, *, kept: bool = True
) -> AsyncIterator[Transfer]:
    """Begin a transfer; what ends the block with an exception is its failure. Of a group of exceptions the one to tell
    is raised. kept: whether what it has leased outlives a failure; a crash it outlives in any case."""
    transfer_id = hands.entropy.hex_id()
    begin = BeginTransfer(transfer_id=transfer_id, at=hands.clock.now_ns(), kind=kind, reference=reference)
    begun = await hands.application.execute(begin, cause=cause)
    own = Cause(actor=f"reactor:{NAME}", correlation=cause.correlation, causation=f"@{begun.position}")
    try:
        yield Transfer(hands, transfer_id, own)
    except BaseException as error:
        failure = first_failure(error)
        words = "cancelled by the client" if isinstance(failure, trio.Cancelled) else str(failure)
        with trio.CancelScope(shield=True):
            full = isinstance(failure, PortError) and failure.fault is Fault.DISK_FULL
            kept_until = 0 if full or not kept else hands.clock.now_ns() + LEASE_KEPT_NS
            failed = ReportTransferFailed(
                transfer_id=transfer_id, error=words or type(failure).__name__, kept_until=kept_until
            )
            leases = hands.application.state("transfer", transfer_id).blobs
            older = superseded(hands, kind, reference) if leases and kept else ()
            await hands.application.execute(failed, *older, cause=own)
        if failure is error or isinstance(failure, trio.Cancelled):
            raise
        raise failure from error


def first_failure(error: BaseException) -> BaseException:
    """The one error to tell of a group: a refusal before a bug, anything before a cancellation."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = [first_failure(each) for each in error.exceptions]
    for kinds in ((PortError, Rejected), (Exception,)):
        for leaf in leaves:
            if isinstance(leaf, kinds):
                return leaf
    return leaves[0]
