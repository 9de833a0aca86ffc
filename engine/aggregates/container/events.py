"""What happens to a container. Stored names are for ever; fields change only with SCHEMA and an upcaster.

`...Requested` is an intent: it is in the log before the first effect. The others are outcomes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from engine.aggregates.decider import Event, Retention
from engine.aggregates.values.config import ContainerConfig, HostConfig, Resources, RestartPolicy
from engine.aggregates.values.endpoints import Endpoint, NetworkAttachment, PublishedPort
from engine.aggregates.values.health import HealthResult, HealthStatus
from engine.aggregates.values.ids import ChainID, ImageID
from engine.aggregates.values.links import Link
from engine.aggregates.values.mounts import MountPoint
from engine.aggregates.values.sealed import Sealed


class ContainerCreated(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "container.created"
    at: int
    name: str
    image_id: ImageID
    layers: tuple[ChainID, ...]
    config: ContainerConfig
    env: Sealed | None = None
    host: HostConfig
    networks: tuple[NetworkAttachment, ...] = ()
    mounts: tuple[MountPoint, ...] = ()
    platform: str = "linux"
    runtime: str = "native"
    links: tuple[Link, ...] = ()


class ContainerStartRequested(Event, frozen=True, kw_only=True):
    """`run` counts the starts from 1; it is the key of every effect of this start."""

    NAME: ClassVar[str] = "container.start_requested"
    run: int
    at: int
    restart: bool = False
    """Asked for as a restart of a container that did not run."""
    networks: tuple[NetworkAttachment, ...] | None = None
    """The container's own, when some of them were known by name only until now."""


class ContainerStarted(Event, frozen=True, kw_only=True):
    """carrier: the endpoint that the ports lead to; "" in older logs, where it is the one with the default route."""

    NAME: ClassVar[str] = "container.started"
    run: int
    at: int
    pid: int
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[PublishedPort, ...] = ()
    carrier: str = ""


class ContainerStartFailed(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "container.start_failed"
    run: int
    at: int
    error: str
    exit_code: int = 0


class ContainerStopRequested(Event, frozen=True, kw_only=True):
    """restart: start again after the exit. deadline: when SIGKILL follows (ns), 0 for never. shutdown: not by a user,
    but because the engine ends."""

    NAME: ClassVar[str] = "container.stop_requested"
    at: int
    signal: int
    deadline: int = 0
    restart: bool = False
    shutdown: bool = False


class ContainerKillRequested(Event, frozen=True, kw_only=True):
    """ends: repeated until the process is gone (SIGKILL). by_user: meant as a stop, so restart policies keep away."""

    NAME: ClassVar[str] = "container.kill_requested"
    at: int
    signal: int
    ends: bool = False
    by_user: bool = False


class ContainerPauseRequested(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "container.pause_requested"
    at: int


class ContainerPaused(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "container.paused"
    at: int


class ContainerUnpauseRequested(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "container.unpause_requested"
    at: int


class ContainerUnpaused(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "container.unpaused"
    at: int


class ContainerFreezeFailed(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "container.freeze_failed"
    error: str


class ContainerOutOfMemory(Event, frozen=True, kw_only=True):
    """The kernel killed in the container, which was at its memory limit. count: how often in this run so far."""

    NAME: ClassVar[str] = "container.out_of_memory"
    run: int
    at: int
    count: int


class ContainerExited(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "container.exited"
    run: int
    at: int
    exit_code: int
    oom_killed: bool = False
    lost: bool = False


class ContainerStopped(Event, frozen=True, kw_only=True):
    """The exit that somebody asked for has come (Docker's `stop`); follows ContainerExited in the same transaction."""

    NAME: ClassVar[str] = "container.stopped"
    at: int
    restart: bool = False


class ContainerRestartScheduled(Event, frozen=True, kw_only=True):
    """The restart policy's next start as a deadline (ns); `restart_count` starts by policy so far, this one
    included."""

    NAME: ClassVar[str] = "container.restart_scheduled"
    due_at: int
    delay_ms: int
    restart_count: int


class ContainerHealthReported(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "container.health_reported"
    at: int
    status: HealthStatus
    failing_streak: int
    last: HealthResult


class ContainerCommitRequested(Event, frozen=True, kw_only=True):
    """pauses: frozen for the commit, and thawed when the last commit has its outcome."""

    NAME: ClassVar[str] = "container.commit_requested"
    at: int
    commit_id: str
    reference: str = ""
    pauses: bool = False


class ContainerCommitted(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "container.committed"
    at: int
    commit_id: str
    image_id: ImageID
    reference: str = ""
    comment: str = ""


class ContainerCommitFailed(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "container.commit_failed"
    at: int
    commit_id: str
    error: str


class ContainerNoted(Event, frozen=True, kw_only=True):
    """What is no change of state and yet told by `/events`, in Docker's words: attach, detach, top, export, ..."""

    NAME: ClassVar[str] = "container.noted"
    RETENTION: ClassVar[Retention] = Retention.LOW
    action: str
    attributes: Mapping[str, str] = {}


class ContainerRenamed(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "container.renamed"
    name: str
    old_name: str


class ContainerUnlinked(Event, frozen=True, kw_only=True):
    """A legacy link to another container is taken back."""

    NAME: ClassVar[str] = "container.unlinked"
    alias: str


class ContainerUpdated(Event, frozen=True, kw_only=True):
    """New limits; for a running container the kernel follows. `previous` is what an undo goes back to."""

    NAME: ClassVar[str] = "container.updated"
    resources: Resources | None = None
    restart_policy: RestartPolicy | None = None


class ContainerUpdateRequested(Event, frozen=True, kw_only=True):
    """Limits of a running container are to change: the kernel has the last word. number: counts these
    requests. resources: what is given anew."""

    NAME: ClassVar[str] = "container.update_requested"
    number: int
    at: int
    resources: Resources
    restart_policy: RestartPolicy | None = None


class ContainerUpdateFailed(Event, frozen=True, kw_only=True):
    """The kernel refused; every limit is as it was."""

    NAME: ClassVar[str] = "container.update_failed"
    error: str


class ContainerConnectRequested(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "container.connect_requested"
    at: int
    attachment: NetworkAttachment


class ContainerConnected(Event, frozen=True, kw_only=True):
    """endpoint is None while the container does not run: the next start joins it."""

    NAME: ClassVar[str] = "container.connected"
    attachment: NetworkAttachment
    endpoint: Endpoint | None = None


class ContainerConnectFailed(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "container.connect_failed"
    network_id: str
    error: str


class ContainerDisconnectRequested(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "container.disconnect_requested"
    at: int
    network_id: str


class ContainerDisconnected(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "container.disconnected"
    network_id: str
    name: str = ""
    """Of a network that the container knew by its name only."""


class ContainerRemoveRequested(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "container.remove_requested"
    at: int
    force: bool = False
    volumes: bool = False
    auto: bool = False


class ContainerRemoved(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "container.removed"
    at: int


ContainerEvent = (
    ContainerCreated
    | ContainerStartRequested
    | ContainerStarted
    | ContainerStartFailed
    | ContainerStopRequested
    | ContainerKillRequested
    | ContainerPauseRequested
    | ContainerPaused
    | ContainerUnpauseRequested
    | ContainerUnpaused
    | ContainerFreezeFailed
    | ContainerOutOfMemory
    | ContainerExited
    | ContainerStopped
    | ContainerRestartScheduled
    | ContainerHealthReported
    | ContainerCommitRequested
    | ContainerCommitted
    | ContainerCommitFailed
    | ContainerNoted
    | ContainerRenamed
    | ContainerUnlinked
    | ContainerUpdated
    | ContainerUpdateRequested
    | ContainerUpdateFailed
    | ContainerConnectRequested
    | ContainerConnected
    | ContainerConnectFailed
    | ContainerDisconnectRequested
    | ContainerDisconnected
    | ContainerRemoveRequested
    | ContainerRemoved
)
