"""Transfers: one attempt, one outcome."""

from __future__ import annotations

import pytest

from engine.aggregates.transfer import (
    DECIDER,
    BeginTransfer,
    ReportTransferDone,
    ReportTransferFailed,
    TransferBegun,
    TransferDone,
    TransferFailed,
    TransferStatus,
)
from tests.support.memory import Story, outcome

IMAGE = "sha256:" + "e5" * 32
BEGIN = BeginTransfer(transfer_id="t1", at=1, kind="pull", reference="alpine")
DONE = ReportTransferDone(transfer_id="t1", images=(IMAGE,))
FAILED = ReportTransferFailed(transfer_id="t1", error="no route to host")


def test_a_transfer_is_told_before_its_first_byte() -> None:
    state = Story(DECIDER, "t1").when(BEGIN).then(TransferBegun(at=1, kind="pull", reference="alpine"))
    assert (state.status, state.reference, state.begun_at) == (TransferStatus.OPEN, "alpine", 1)


def test_a_transfer_ends_with_its_images() -> None:
    assert DECIDER.terminal(Story(DECIDER, "t1").when(BEGIN, DONE).then(TransferDone(images=(IMAGE,))))


def test_a_transfer_that_failed_says_why() -> None:
    state = Story(DECIDER, "t1").when(BEGIN, FAILED).then(TransferFailed(error="no route to host"))
    assert (state.status, state.error) == (TransferStatus.FAILED, "no route to host")


@pytest.mark.parametrize("first", [(), (BEGIN, DONE), (BEGIN, FAILED)])
@pytest.mark.parametrize("report", [DONE, FAILED])
def test_an_outcome_nobody_waits_for_changes_nothing(first: tuple, report: object) -> None:
    story = Story(DECIDER, "t1").when(*first, report)
    story.then()


def test_an_id_is_used_once() -> None:
    with pytest.raises(AssertionError, match="random"):
        outcome(
            DECIDER, Story(DECIDER, "t1").when(BEGIN).then(TransferBegun(at=1, kind="pull", reference="alpine")), BEGIN
        )
