"""Transfers: one attempt, one outcome."""

from __future__ import annotations

import pytest

from engine.aggregates.transfer import (
    DECIDER,
    BeginTransfer,
    ContentLeased,
    LeaseContent,
    LeaseReleased,
    ReleaseLease,
    ReportTransferDone,
    ReportTransferFailed,
    TransferBegun,
    TransferDone,
    TransferFailed,
    TransferInterrupted,
    TransferStatus,
)
from tests.support.memory import Story, outcome

IMAGE = "sha256:" + "e5" * 32
BEGIN = BeginTransfer(transfer_id="t1", at=1, kind="pull", reference="alpine")
DONE = ReportTransferDone(transfer_id="t1", images=(IMAGE,))
FAILED = ReportTransferFailed(transfer_id="t1", error="no route to host")
BLOB, LAYER = "sha256:" + "b1" * 32, "sha256:" + "1a" * 32
LEASE = LeaseContent(transfer_id="t1", blobs=(BLOB, BLOB), layers=(LAYER,))
LEASED = ContentLeased(blobs=(BLOB,), layers=(LAYER,))
CUT = ReportTransferFailed(transfer_id="t1", error="cut", kept_until=5)
RELEASE = ReleaseLease(transfer_id="t1", reason="nobody tried again")


def test_a_transfer_is_told_before_its_first_byte() -> None:
    state = Story(DECIDER, "t1").when(BEGIN).then(TransferBegun(at=1, kind="pull", reference="alpine"))
    assert (state.status, state.reference, state.begun_at) == (TransferStatus.OPEN, "alpine", 1)


def test_a_transfer_ends_with_its_images() -> None:
    assert DECIDER.terminal(Story(DECIDER, "t1").when(BEGIN, DONE).then(TransferDone(images=(IMAGE,))))


def test_a_transfer_that_failed_says_why() -> None:
    state = Story(DECIDER, "t1").when(BEGIN, FAILED).then(TransferFailed(error="no route to host"))
    assert (state.status, state.error) == (TransferStatus.FAILED, "no route to host")


def test_what_is_leased_is_named_once_and_kept_until_the_image_has_it() -> None:
    story = Story(DECIDER, "t1").when(BEGIN, LEASE)
    state = story.then(LEASED)
    assert (state.blobs, state.layers) == ({BLOB}, {LAYER})
    story.when(LEASE).then()
    state = story.when(DONE).then(TransferDone(images=(IMAGE,)))
    assert (state.blobs, state.layers) == (frozenset(), frozenset())


def test_a_lease_outlives_its_transfer_until_it_is_released() -> None:
    story = Story(DECIDER, "t1").when(BEGIN, LEASE, CUT)
    state = story.then(TransferInterrupted(error="cut", kept_until=5))
    assert not DECIDER.terminal(state)
    assert (state.blobs, state.layers, state.kept_until) == ({BLOB}, {LAYER}, 5)
    state = story.when(RELEASE).then(LeaseReleased(reason="nobody tried again"))
    assert DECIDER.terminal(state)
    assert (state.status, state.blobs, state.error) == (TransferStatus.FAILED, frozenset(), "cut")


def test_what_leased_nothing_or_shall_keep_nothing_has_just_failed() -> None:
    Story(DECIDER, "t1").when(BEGIN, CUT).then(TransferFailed(error="cut"))
    state = Story(DECIDER, "t1").when(BEGIN, LEASE, FAILED).then(TransferFailed(error="no route to host"))
    assert (state.blobs, state.layers) == (frozenset(), frozenset())
    Story(DECIDER, "t1").when(BEGIN, LEASE, FAILED, RELEASE).then()


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
