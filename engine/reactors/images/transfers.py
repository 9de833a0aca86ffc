"""The intent before a transfer and the failure behind it (engine/aggregates/transfer.py), around whatever moves bytes.

The success is the caller's to report, together with what it appends.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import trio

from engine.aggregates.decider import Cause, Rejected
from engine.aggregates.transfer import BeginTransfer, ReportTransferFailed
from engine.errors import PortError
from engine.reactors.base import Hands

NAME = "images"


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """A transfer that has begun. cause: of what is appended for it."""

    transfer_id: str
    cause: Cause


@asynccontextmanager
async def told(hands: Hands, kind: str, reference: str, cause: Cause) -> AsyncIterator[Transfer]:
    """Begin a transfer; what ends the block with an exception is its failure. Of a group of exceptions the one to tell
    is raised."""
    transfer_id = hands.entropy.hex_id()
    begin = BeginTransfer(transfer_id=transfer_id, at=hands.clock.now_ns(), kind=kind, reference=reference)
    begun = await hands.application.execute(begin, cause=cause)
    own = Cause(actor=f"reactor:{NAME}", correlation=cause.correlation, causation=f"@{begun.position}")
    try:
        yield Transfer(transfer_id=transfer_id, cause=own)
    except BaseException as error:
        failure = first_failure(error)
        words = "cancelled by the client" if isinstance(failure, trio.Cancelled) else str(failure)
        with trio.CancelScope(shield=True):
            failed = ReportTransferFailed(transfer_id=transfer_id, error=words or type(failure).__name__)
            await hands.application.execute(failed, cause=own)
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
