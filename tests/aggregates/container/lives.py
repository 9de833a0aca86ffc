"""Containers in every status, and every command, as small as they can be."""

from __future__ import annotations

from typing import Any

from engine.aggregates.container import commands as c
from engine.aggregates.container.decide import DECIDER
from engine.aggregates.container.lifecycle import Status
from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Command, Event
from engine.aggregates.values.config import ContainerConfig, HostConfig, Resources, RestartPolicy
from engine.aggregates.values.endpoints import Endpoint, NetworkAttachment
from engine.aggregates.values.health import HealthResult, HealthStatus
from engine.aggregates.values.ids import ImageID

ID = "4f5e" * 16
IMAGE = "sha256:" + "e5" * 32
NETWORK, OTHER = "d1" * 32, "d2" * 32
MS, SECOND = 1_000_000, 1_000_000_000
NOW = 1_700_000_000 * SECOND
ALWAYS = RestartPolicy(name="always")
ATTACHED = NetworkAttachment(name="front", network_id=NETWORK)
WISH = NetworkAttachment(name="back", network_id=OTHER)
HELD = Endpoint(endpoint_id="e1" * 32, network_id=NETWORK, container_id=ID, ipv4_address="172.18.0.2")
NEW = Endpoint(endpoint_id="e2" * 32, network_id=OTHER, container_id=ID, ipv4_address="172.19.0.2")
PROBE = HealthResult(started_at=NOW, finished_at=NOW, exit_code=0, output="")


def create(**host: Any) -> c.CreateContainer:
    return c.CreateContainer(
        container_id=ID,
        at=NOW,
        name="web",
        image_id=IMAGE,
        layers=(),
        config=ContainerConfig(cmd=("httpd",)),
        env=None,
        host=HostConfig(network_mode="front", **host),
        networks=(ATTACHED,),
        mounts=(),
        platform="linux",
        runtime="native",
    )


def exited(run: int = 1, code: int = 0, at: int = NOW) -> c.ReportExited:
    return c.ReportExited(container_id=ID, run=run, at=at, exit_code=code, oom_killed=False)


def started(run: int = 1, at: int = NOW, pid: int = 4711) -> c.ReportStarted:
    return c.ReportStarted(container_id=ID, run=run, at=at, pid=pid, endpoints=(HELD,), ports=())


def failed(run: int = 1, exit_code: int = 127) -> c.ReportStartFailed:
    return c.ReportStartFailed(container_id=ID, run=run, at=NOW, error="no such file", exit_code=exit_code)


def stop(deadline: int = NOW + 10 * SECOND, at: int = NOW, *, shutdown: bool = False) -> c.StopContainer:
    return c.StopContainer(container_id=ID, at=at, signal=15, deadline=deadline, shutdown=shutdown)


def kill(signal: int = 9) -> c.KillContainer:
    return c.KillContainer(container_id=ID, at=NOW, signal=signal)


def remove(*, force: bool = False) -> c.RemoveContainer:
    return c.RemoveContainer(container_id=ID, at=NOW, force=force, volumes=False)


START = c.StartContainer(container_id=ID, at=NOW)
RESTART = c.RestartContainer(container_id=ID, at=NOW, signal=15, deadline=NOW + 10 * SECOND)
PAUSE = c.PauseContainer(container_id=ID, at=NOW)
UNPAUSE = c.UnpauseContainer(container_id=ID, at=NOW)
REPORT_PAUSED = c.ReportPaused(container_id=ID, at=NOW)
REPORT_UNPAUSED = c.ReportUnpaused(container_id=ID, at=NOW)
REPORT_FREEZE_FAILED = c.ReportFreezeFailed(container_id=ID, error="EBUSY")
REPORT_REMOVED = c.ReportRemoved(container_id=ID, at=NOW)
HEALTH = c.ReportHealth(container_id=ID, run=1, at=NOW, status=HealthStatus.HEALTHY, failing_streak=0, last=PROBE)
RENAME = c.RenameContainer(container_id=ID, name="shop")
OVERDUE = c.ReportStopOverdue(container_id=ID, run=1, at=NOW)
COMMIT = c.CommitContainer(container_id=ID, at=NOW, commit_id="c1", reference="", pause=True)
COMMITTED = c.ReportCommitted(
    container_id=ID, at=NOW, commit_id="c1", image_id=ImageID(IMAGE), reference="", comment=""
)
COMMIT_FAILED = c.ReportCommitFailed(container_id=ID, at=NOW, commit_id="c1", error="no room")
NOTE = c.NoteContainer(container_id=ID, action="top")
LIMITS = Resources(memory=64 << 20, memory_swap=128 << 20)
UPDATE = c.UpdateContainer(container_id=ID, resources=LIMITS, restart_policy=None)
REPORT_UPDATED = c.ReportUpdated(container_id=ID, update=1)
REPORT_UPDATE_FAILED = c.ReportUpdateFailed(container_id=ID, update=1, error="EBUSY")
CONNECT = c.ConnectContainer(container_id=ID, at=NOW, attachment=WISH)
CONNECTED = c.ReportConnected(container_id=ID, network_id=OTHER, endpoint=NEW)
CONNECT_FAILED = c.ReportConnectFailed(container_id=ID, network_id=OTHER, error="no room")
DISCONNECT = c.DisconnectContainer(container_id=ID, at=NOW, network_id=NETWORK)
DISCONNECTED = c.ReportDisconnected(container_id=ID, network_id=NETWORK)

LIVES: dict[Status, tuple[Command, ...]] = {
    Status.ABSENT: (),
    Status.CREATED: (create(),),
    Status.STARTING: (create(), START),
    Status.STARTING_AGAIN: (create(), START, started(), exited(), START),
    Status.RUNNING: (create(), START, started()),
    Status.PAUSING: (create(), START, started(), PAUSE),
    Status.PAUSED: (create(), START, started(), PAUSE, REPORT_PAUSED),
    Status.UNPAUSING: (create(), START, started(), PAUSE, REPORT_PAUSED, UNPAUSE),
    Status.RESTARTING: (create(restart_policy=ALWAYS), START, started(), exited()),
    Status.EXITED: (create(), START, started(), exited()),
    Status.REMOVING: (create(), START, started(), remove(force=True)),
    Status.REMOVED: (create(), remove(), REPORT_REMOVED),
}
"""The shortest life that leads to each status."""


def live(*commands: Command) -> ContainerState:
    """The state after commands that must all be accepted."""
    state = DECIDER.initial(ID)
    for command in commands:
        for event in DECIDER.decide(state, command):
            state = DECIDER.evolve(state, event)
    return state


def history(*commands: Command) -> tuple[Event, ...]:
    """The events of commands that must all be accepted."""
    state, events = DECIDER.initial(ID), []
    for command in commands:
        for event in DECIDER.decide(state, command):
            state = DECIDER.evolve(state, event)
            events.append(event)
    return tuple(events)
