"""Leases: what pulls that failed or were cut off have brought, kept for another try.

A lease is a fold over its transfer's events: nothing is counted. Owns the decision that one is over, which is an event
(`transfer.lease_released`) before anything is discarded: a later transfer of the same reference has taken its place, a
prune gave it up, or its time has come.
"""

from __future__ import annotations

from collections.abc import Iterator

from engine.aggregates.decider import Cause
from engine.aggregates.transfer import ReleaseLease, TransferState, TransferStatus
from engine.reactors.base import Hands


def transfers(hands: Hands) -> Iterator[TransferState]:
    """Those that are open, and those that keep something."""
    for transfer_id in hands.application.live("transfer"):
        yield hands.application.state("transfer", transfer_id)


def interrupted(hands: Hands) -> tuple[TransferState, ...]:
    return tuple(state for state in transfers(hands) if state.status is TransferStatus.INTERRUPTED)


def superseded(hands: Hands, kind: str, reference: str) -> tuple[ReleaseLease, ...]:
    """Commands, for the transaction in which a later transfer of the same has brought everything."""
    reason = f"a later {kind} of {reference} has ended"
    return tuple(
        ReleaseLease(transfer_id=state.transfer_id, reason=reason)
        for state in interrupted(hands)
        if (state.kind, state.reference) == (kind, reference)
    )


def needless(hands: Hands, kind: str) -> tuple[ReleaseLease, ...]:
    """Commands: leases whose layers have become images' by now, whoever brought them."""
    here = {chain_id for state in hands.views.images for chain_id in state.chain}
    return tuple(
        ReleaseLease(transfer_id=state.transfer_id, reason=f"a later {kind} has brought what it kept")
        for state in interrupted(hands)
        if state.kind == kind and state.layers <= here
    )


async def release(hands: Hands, reason: str, cause: Cause, *, until_ns: int | None = None) -> int:
    """Release leases, or those whose time has come by `until_ns`: how many. What they kept is not discarded yet."""
    late = [state for state in interrupted(hands) if until_ns is None or state.kept_until <= until_ns]
    if late:
        commands = [ReleaseLease(transfer_id=state.transfer_id, reason=reason) for state in late]
        await hands.application.execute(*commands, cause=cause)
    return len(late)
