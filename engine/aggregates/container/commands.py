"""What may be asked of a container, and what is reported about it.

Wishes come from the API and from reactors (restart, auto-remove); `Report...` commands carry what the world did. Every
command names the container; times are UTC ns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from engine.aggregates.decider import Command
from engine.aggregates.values.config import ContainerConfig, HostConfig, Resources, RestartPolicy
from engine.aggregates.values.endpoints import Endpoint, NetworkAttachment, PublishedPort
from engine.aggregates.values.health import HealthResult, HealthStatus
from engine.aggregates.values.ids import ChainID, ContainerID, ImageID
from engine.aggregates.values.links import Link
from engine.aggregates.values.mounts import MountPoint
from engine.aggregates.values.sealed import Sealed


class ContainerCommand(Command, frozen=True, kw_only=True):
    container_id: ContainerID

    @property
    def key(self) -> str:
        return self.container_id


class CreateContainer(ContainerCommand, frozen=True, kw_only=True):
    """`config` is merged with the image's and has no env; `layers` are the image's, lowest first."""

    BEGINS: ClassVar[bool] = True
    at: int
    name: str
    image_id: ImageID
    layers: tuple[ChainID, ...]
    config: ContainerConfig
    env: Sealed | None
    host: HostConfig
    networks: tuple[NetworkAttachment, ...]
    mounts: tuple[MountPoint, ...]
    platform: str
    runtime: str
    links: tuple[Link, ...] = ()


class StartContainer(ContainerCommand, frozen=True, kw_only=True):
    """networks: the container's own, when some of them were known by name only until now."""

    at: int
    networks: tuple[NetworkAttachment, ...] | None = None


class ReportStarted(ContainerCommand, frozen=True, kw_only=True):
    run: int
    at: int
    pid: int
    endpoints: tuple[Endpoint, ...]
    ports: tuple[PublishedPort, ...]
    carrier: str = ""


class ReportStartFailed(ContainerCommand, frozen=True, kw_only=True):
    """exit_code: 126, 127, 128 (Docker's for a command that could not be executed), or 0 when it never came to that."""

    run: int
    at: int
    error: str
    exit_code: int


class StopContainer(ContainerCommand, frozen=True, kw_only=True):
    """signal: a number; deadline: when SIGKILL follows, 0 for never. shutdown: the engine ends and its containers with
    it, so that the policy `unless-stopped` has them again with the next engine."""

    at: int
    signal: int
    deadline: int
    shutdown: bool = False


class ReportStopOverdue(ContainerCommand, frozen=True, kw_only=True):
    """The deadline of a stop has passed, and the process lives."""

    run: int
    at: int


class RestartContainer(ContainerCommand, frozen=True, kw_only=True):
    """networks: as of StartContainer."""

    at: int
    signal: int
    deadline: int
    networks: tuple[NetworkAttachment, ...] | None = None


class KillContainer(ContainerCommand, frozen=True, kw_only=True):
    at: int
    signal: int


class PauseContainer(ContainerCommand, frozen=True, kw_only=True):
    at: int


class UnpauseContainer(ContainerCommand, frozen=True, kw_only=True):
    at: int


class ReportPaused(ContainerCommand, frozen=True, kw_only=True):
    at: int


class ReportUnpaused(ContainerCommand, frozen=True, kw_only=True):
    at: int


class ReportFreezeFailed(ContainerCommand, frozen=True, kw_only=True):
    """A pause or unpause that the kernel refused."""

    error: str


class ReportOutOfMemory(ContainerCommand, frozen=True, kw_only=True):
    """count: how often in this run so far."""

    run: int
    at: int
    count: int


class ReportExited(ContainerCommand, frozen=True, kw_only=True):
    """lost: nobody saw the exit (the supervisor is gone too); the code is 255 then."""

    run: int
    at: int
    exit_code: int
    oom_killed: bool
    lost: bool = False


class ReportHealth(ContainerCommand, frozen=True, kw_only=True):
    run: int
    at: int
    status: HealthStatus
    failing_streak: int
    last: HealthResult


class CommitContainer(ContainerCommand, frozen=True, kw_only=True):
    """Make an image of the read-write layer. reference: the name it will get, or ""; pause: freeze it meanwhile."""

    at: int
    commit_id: str
    reference: str
    pause: bool


class ReportCommitted(ContainerCommand, frozen=True, kw_only=True):
    at: int
    commit_id: str
    image_id: ImageID
    reference: str
    comment: str


class ReportCommitFailed(ContainerCommand, frozen=True, kw_only=True):
    at: int
    commit_id: str
    error: str


class NoteContainer(ContainerCommand, frozen=True, kw_only=True):
    """Somebody looked at it or talked to it (attach, top, export, ...): told, and nothing changes."""

    action: str
    attributes: Mapping[str, str] = {}


class RequireRunning(ContainerCommand, frozen=True, kw_only=True):
    """No event; refused unless the container runs. For the transaction of something that belongs to a running one.
    called: the name by which the client asked, for the words."""

    called: str


class RenameContainer(ContainerCommand, frozen=True, kw_only=True):
    name: str


class UnlinkContainer(ContainerCommand, frozen=True, kw_only=True):
    """Take back a legacy link of this container to another."""

    alias: str


class UpdateContainer(ContainerCommand, frozen=True, kw_only=True):
    """resources: those given anew (resource_rules.UPDATABLE), admitted."""

    at: int = 0
    resources: Resources | None
    restart_policy: RestartPolicy | None


class ReportUpdated(ContainerCommand, frozen=True, kw_only=True):
    """update: the number of the update (ContainerState.updates)."""

    update: int


class ReportUpdateFailed(ContainerCommand, frozen=True, kw_only=True):
    update: int
    error: str


class ConnectContainer(ContainerCommand, frozen=True, kw_only=True):
    at: int
    attachment: NetworkAttachment


class ReportConnected(ContainerCommand, frozen=True, kw_only=True):
    network_id: str
    endpoint: Endpoint


class ReportConnectFailed(ContainerCommand, frozen=True, kw_only=True):
    network_id: str
    error: str


class DisconnectContainer(ContainerCommand, frozen=True, kw_only=True):
    """name: of the network, for a wish that knows it by that. network_id: "" for a network that is gone."""

    at: int
    network_id: str
    name: str = ""


class ReportDisconnected(ContainerCommand, frozen=True, kw_only=True):
    network_id: str


class RemoveContainer(ContainerCommand, frozen=True, kw_only=True):
    at: int
    force: bool
    volumes: bool


class ReportRemoved(ContainerCommand, frozen=True, kw_only=True):
    at: int
