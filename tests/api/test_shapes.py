"""What containers are called while they are on the way from one state to another."""

from __future__ import annotations

import pytest

from engine.aggregates.container.lifecycle import Status
from engine.aggregates.container.state import ContainerState
from engine.aggregates.values.ids import ContainerID
from engine.api.shapes.containers import status_of


@pytest.mark.parametrize(
    ("status", "restart_count", "word"),
    [
        (Status.RESTARTING, 1, "restarting"),
        (Status.STARTING_AGAIN, 1, "restarting"),
        (Status.STARTING_AGAIN, 0, "exited"),
        (Status.STARTING, 0, "created"),
    ],
)
def test_a_restart_by_policy_is_one_until_the_process_runs(status: Status, restart_count: int, word: str) -> None:
    """CTR-17: who waits for `exited` must not take the way to the next try for the end."""
    state = ContainerState(container_id=ContainerID("c"), status=status, restart_count=restart_count)
    assert status_of(state) == word
