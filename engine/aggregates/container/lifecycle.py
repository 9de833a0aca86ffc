"""The life of a container as a table: which event leads from which status to which, and who may cause it.

The table is the rule; `evolve` follows it and `decide` never emits an event it has no row for. The diagram in
docs/design/container.md is drawn from it.
"""

from __future__ import annotations

import enum

from engine.aggregates.container import events as e
from engine.aggregates.decider import Event


class Status(enum.Enum):
    """ABSENT before the first event, REMOVED after the last. STARTING is a first start under way, STARTING_AGAIN a
    later
    one; a failed first start goes back to CREATED, as in Docker. RESTARTING waits for a restart policy's deadline."""

    ABSENT = "absent"
    CREATED = "created"
    STARTING = "starting"
    STARTING_AGAIN = "starting again"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    UNPAUSING = "unpausing"
    RESTARTING = "restarting"
    EXITED = "exited"
    REMOVING = "removing"
    REMOVED = "removed"


class Owner(enum.Enum):
    """Whose fact moves the container along."""

    USER = "user"
    LIFECYCLE = "lifecycle reactor"
    SUPERVISOR = "supervisor"
    POLICY = "restart policy"


S = Status
TRANSITIONS: dict[tuple[Status, type[Event]], tuple[Status, Owner]] = {
    (S.ABSENT, e.ContainerCreated): (S.CREATED, Owner.USER),
    (S.CREATED, e.ContainerStartRequested): (S.STARTING, Owner.USER),
    (S.EXITED, e.ContainerStartRequested): (S.STARTING_AGAIN, Owner.USER),
    (S.RESTARTING, e.ContainerStartRequested): (S.STARTING_AGAIN, Owner.POLICY),
    (S.STARTING, e.ContainerStarted): (S.RUNNING, Owner.LIFECYCLE),
    (S.STARTING_AGAIN, e.ContainerStarted): (S.RUNNING, Owner.LIFECYCLE),
    (S.STARTING, e.ContainerStartFailed): (S.CREATED, Owner.LIFECYCLE),
    (S.STARTING_AGAIN, e.ContainerStartFailed): (S.EXITED, Owner.LIFECYCLE),
    (S.RUNNING, e.ContainerPauseRequested): (S.PAUSING, Owner.USER),
    (S.PAUSING, e.ContainerPaused): (S.PAUSED, Owner.LIFECYCLE),
    (S.PAUSING, e.ContainerFreezeFailed): (S.RUNNING, Owner.LIFECYCLE),
    (S.PAUSED, e.ContainerUnpauseRequested): (S.UNPAUSING, Owner.USER),
    (S.UNPAUSING, e.ContainerUnpaused): (S.RUNNING, Owner.LIFECYCLE),
    (S.UNPAUSING, e.ContainerFreezeFailed): (S.PAUSED, Owner.LIFECYCLE),
    (S.RUNNING, e.ContainerExited): (S.EXITED, Owner.SUPERVISOR),
    (S.PAUSING, e.ContainerExited): (S.EXITED, Owner.SUPERVISOR),
    (S.PAUSED, e.ContainerExited): (S.EXITED, Owner.SUPERVISOR),
    (S.UNPAUSING, e.ContainerExited): (S.EXITED, Owner.SUPERVISOR),
    (S.REMOVING, e.ContainerExited): (S.REMOVING, Owner.SUPERVISOR),
    (S.EXITED, e.ContainerRestartScheduled): (S.RESTARTING, Owner.POLICY),
    (S.RESTARTING, e.ContainerStopRequested): (S.RESTARTING, Owner.USER),
    (S.RESTARTING, e.ContainerStopped): (S.EXITED, Owner.USER),
    (S.CREATED, e.ContainerRemoveRequested): (S.REMOVING, Owner.USER),
    (S.RUNNING, e.ContainerRemoveRequested): (S.REMOVING, Owner.USER),
    (S.PAUSED, e.ContainerRemoveRequested): (S.REMOVING, Owner.USER),
    (S.RESTARTING, e.ContainerRemoveRequested): (S.REMOVING, Owner.USER),
    (S.EXITED, e.ContainerRemoveRequested): (S.REMOVING, Owner.USER),
    (S.REMOVING, e.ContainerRemoved): (S.REMOVED, Owner.LIFECYCLE),
}
"""Events without a row for a status but listed in UNMOVED leave the status as it is."""

ALIVE = frozenset({S.RUNNING, S.PAUSING, S.PAUSED, S.UNPAUSING})
"""A process runs and is expected to."""

STARTABLE = frozenset({S.CREATED, S.EXITED, S.RESTARTING})

_EXISTING = frozenset(S) - {S.ABSENT, S.REMOVED}
UNMOVED: dict[type[Event], frozenset[Status]] = {
    e.ContainerStopRequested: ALIVE,
    e.ContainerStopped: frozenset({S.EXITED, S.REMOVING}),
    e.ContainerKillRequested: ALIVE | {S.RESTARTING},
    e.ContainerHealthReported: ALIVE,
    e.ContainerOutOfMemory: ALIVE | {S.REMOVING},
    e.ContainerCommitRequested: _EXISTING - {S.STARTING, S.STARTING_AGAIN, S.REMOVING},
    e.ContainerCommitted: _EXISTING,
    e.ContainerCommitFailed: _EXISTING,
    e.ContainerNoted: _EXISTING,
    e.ContainerRenamed: _EXISTING,
    e.ContainerUnlinked: _EXISTING,
    e.ContainerUpdated: _EXISTING,
    e.ContainerUpdateRequested: ALIVE,
    e.ContainerUpdateFailed: ALIVE | {S.REMOVING},
    e.ContainerConnectRequested: ALIVE,
    e.ContainerConnected: _EXISTING,
    e.ContainerConnectFailed: _EXISTING,
    e.ContainerDisconnectRequested: ALIVE,
    e.ContainerDisconnected: _EXISTING,
}


def next_status(status: Status, event: Event) -> Status:
    """Where an event leads. An event that has no row here is a bug of `decide`, or a damaged log."""
    row = TRANSITIONS.get((status, type(event)))
    if row is not None:
        return row[0]
    if status in UNMOVED.get(type(event), frozenset()):
        return status
    raise AssertionError(f"no transition from {status.value} by {event.NAME}")
