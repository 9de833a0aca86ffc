"""Volumes: made, used, removed, and made again under the same name."""

from __future__ import annotations

import pytest

from engine.aggregates.decider import Command, Reason
from engine.aggregates.volume import (
    DECIDER,
    CreateVolume,
    ReferenceVolume,
    ReleaseVolume,
    RemoveVolume,
    ReportVolumeRemoved,
    ReportVolumeRemoveFailed,
    VolumeCreated,
    VolumeReferenced,
    VolumeReleased,
    VolumeRemoved,
    VolumeRemoveFailed,
    VolumeRemoveRequested,
    VolumeStatus,
)
from tests.support.memory import Story, outcome

ONE, OTHER = "4f5e" * 16, "77aa" * 16
NAMED = {"name": "data"}
CREATE = CreateVolume(**NAMED, at=1, driver="local", options={"type": "nfs"}, labels={"a": "b"}, anonymous=False)
OF_NFS = CreateVolume(**NAMED, at=1, driver="nfs", options={}, labels={}, anonymous=False)
USE, USE_TOO = ReferenceVolume(**NAMED, container_id=ONE), ReferenceVolume(**NAMED, container_id=OTHER)
LEAVE = ReleaseVolume(**NAMED, container_id=ONE)
REMOVE = RemoveVolume(**NAMED, at=2)
REMOVED = ReportVolumeRemoved(**NAMED)
REMOVE_FAILED = ReportVolumeRemoveFailed(**NAMED, error="busy")
LIVES: dict[VolumeStatus, tuple[Command, ...]] = {
    VolumeStatus.ABSENT: (),
    VolumeStatus.READY: (CREATE,),
    VolumeStatus.REMOVING: (CREATE, REMOVE),
}
MISSING, CONFLICT = "no: not found", "no: conflict"
TABLE = {
    VolumeStatus.ABSENT: ("created", MISSING, "nothing", MISSING, "nothing", "nothing"),
    VolumeStatus.READY: ("nothing", "referenced", "nothing", "remove_requested", "nothing", "nothing"),
    VolumeStatus.REMOVING: (CONFLICT, MISSING, "nothing", MISSING, "removed", "remove_failed"),
}


def after(*commands: Command):
    state = DECIDER.initial("data")
    for command in commands:
        for event in DECIDER.decide(state, command):
            state = DECIDER.evolve(state, event)
    return state


@pytest.mark.parametrize("status", VolumeStatus, ids=lambda status: status.value)
def test_every_command_in_every_status(status: VolumeStatus) -> None:
    state = after(*LIVES[status])
    assert state.status is status
    commands = (CREATE, USE, LEAVE, REMOVE, REMOVED, REMOVE_FAILED)
    assert tuple(outcome(DECIDER, state, command) for command in commands) == TABLE[status]


def test_a_volume_is_made_with_what_was_asked() -> None:
    state = (
        Story(DECIDER, "data")
        .when(CREATE)
        .then(VolumeCreated(at=1, driver="local", options={"type": "nfs"}, labels={"a": "b"}))
    )
    assert (state.driver, state.options, state.labels, state.created_at) == ("local", {"type": "nfs"}, {"a": "b"}, 1)


def test_making_it_again_keeps_the_old_one_as_it_is() -> None:
    Story(DECIDER, "data").when(CREATE, CREATE).then()


def test_another_driver_for_the_same_name_is_refused() -> None:
    Story(DECIDER, "data").when(CREATE, OF_NFS).rejected(
        Reason.CONFLICT,
        "A volume named data already exists with the local driver. Choose a different volume name.",
    )


def test_a_volume_in_use_is_not_removed() -> None:
    Story(DECIDER, "data").when(CREATE, USE, USE_TOO, REMOVE).rejected(
        Reason.CONFLICT, f"remove data: volume is in use - [{ONE}, {OTHER}]"
    )


def test_a_container_uses_a_volume_once_however_often_it_says_so() -> None:
    Story(DECIDER, "data").when(CREATE, USE).then(VolumeReferenced(container_id=ONE))
    Story(DECIDER, "data").when(CREATE, USE, USE).then()


def test_the_last_user_leaving_lets_it_be_removed() -> None:
    Story(DECIDER, "data").when(CREATE, USE, LEAVE).then(VolumeReleased(container_id=ONE))
    Story(DECIDER, "data").when(CREATE, USE, LEAVE, REMOVE).then(VolumeRemoveRequested(at=2))


def test_a_volume_that_is_not_there_is_told_in_dockers_words() -> None:
    Story(DECIDER, "data").when(REMOVE).rejected(Reason.NOT_FOUND, "get data: no such volume")


def test_a_removal_that_failed_leaves_a_volume_that_can_be_used() -> None:
    state = Story(DECIDER, "data").when(CREATE, REMOVE, REMOVE_FAILED).then(VolumeRemoveFailed(error="busy"))
    assert (state.status, state.remove_error) == (VolumeStatus.READY, "busy")
    assert after(CREATE, REMOVE, REMOVE_FAILED, REMOVE).remove_error == ""


def test_a_removed_volume_leaves_nothing_behind_and_its_name_is_free() -> None:
    story = Story(DECIDER, "data").when(CREATE, REMOVE, REMOVED)
    assert story.then(VolumeRemoved()) == DECIDER.initial("data")
    assert after(CREATE, REMOVE, REMOVED, OF_NFS).driver == "nfs"
