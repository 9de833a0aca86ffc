"""The fold of a container: everything the deciders, the reactors and `inspect` know about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

import msgspec
from msgspec.structs import replace

from engine.aggregates.container import events as e
from engine.aggregates.container.lifecycle import ALIVE, Status, next_status
from engine.aggregates.values.config import ContainerConfig, HostConfig, Resources, RestartPolicy
from engine.aggregates.values.endpoints import Endpoint, NetworkAttachment, PublishedPort
from engine.aggregates.values.health import Health, HealthStatus
from engine.aggregates.values.ids import ChainID, ContainerID, ImageID
from engine.aggregates.values.links import Link
from engine.aggregates.values.mounts import MountPoint
from engine.aggregates.values.sealed import Sealed

HEALTH_LOG_LENGTH = 5


class StopIntent(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody wants the container to end. restart: and then to start again. shutdown: because the engine ends."""

    signal: int
    deadline: int
    restart: bool
    shutdown: bool = False


class UpdateIntent(msgspec.Struct, frozen=True, kw_only=True):
    """Limits on their way to the kernel."""

    resources: Resources
    restart_policy: RestartPolicy | None


class ContainerState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Times in ns, 0 for never. `run` counts starts, also failed ones. `networks` are wishes, `endpoints` what is
    joined
    now. `exits` counts ends of the process, so that a waiter can name the one it waits for. `settled_runs` counts
    starts that have an outcome. `restart_count` counts starts by policy since the last one by a user."""

    container_id: ContainerID
    status: Status = Status.ABSENT
    name: str = ""
    created_at: int = 0
    image_id: ImageID = ImageID("")
    layers: tuple[ChainID, ...] = ()
    config: ContainerConfig = ContainerConfig()
    env: Sealed | None = None
    host: HostConfig = HostConfig()
    networks: tuple[NetworkAttachment, ...] = ()
    mounts: tuple[MountPoint, ...] = ()
    platform: str = "linux"
    runtime: str = "native"
    links: tuple[Link, ...] = ()
    """Legacy links to others."""

    run: int = 0
    settled_runs: int = 0
    failed_run: int = 0
    """The last run whose start failed; `error` and `exit_code` tell why until the next start."""
    exits: int = 0
    unended: bool = False
    """A process was started whose end is not reported. It may have no pid: an engine that comes back finds the exit of
    a process that it never saw."""
    pid: int = 0
    started_at: int = 0
    finished_at: int = 0
    exit_code: int = 0
    oom_killed: bool = False
    ooms: int = 0
    """How often the kernel killed for memory in this run, as far as told."""
    error: str = ""
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[PublishedPort, ...] = ()
    carrier: str = ""
    """The endpoint that carries the ports since the start: networks that come later do not move them."""
    health: Health = Health()

    stop: StopIntent | None = None
    manually_stopped: bool = False
    kill_signal: int = 0
    """SIGKILL while it is on its way: repeated until the process is gone."""
    restart_count: int = 0
    restart_delay_ms: int = 0
    restart_due_at: int = 0
    freeze_failures: int = 0
    freeze_error: str = ""
    updates: int = 0
    """Counts updates of the container while it ran."""
    updating: UpdateIntent | None = None
    failed_update: int = 0
    update_error: str = ""
    connecting: tuple[NetworkAttachment, ...] = ()
    connect_errors: tuple[tuple[str, str], ...] = ()
    disconnecting: tuple[str, ...] = ()
    remove_volumes: bool = False
    terminal: Mapping[str, str] = {}
    """The last size that was noted: a terminal that is set to the same size again is not told again."""
    commits: tuple[str, ...] = ()
    """Commits without an outcome, by id."""
    frozen_by_commit: bool = False
    """A commit paused it: thawed when the last one has its outcome."""

    @property
    def alive(self) -> bool:
        """A process runs (paused counts)."""
        return self.status in ALIVE or (self.status is Status.REMOVING and self.unended)

    @property
    def starting(self) -> bool:
        return self.status in (Status.STARTING, Status.STARTING_AGAIN)

    @property
    def shut_down(self) -> bool:
        """It is to end because the engine ends."""
        return self.stop is not None and self.stop.shutdown

    @property
    def has_been_started(self) -> bool:
        return self.started_at > 0


def initial(key: str) -> ContainerState:
    return ContainerState(container_id=ContainerID(key))


def terminal(state: ContainerState) -> bool:
    return state.status is Status.REMOVED


def evolve(state: ContainerState, event: e.ContainerEvent) -> ContainerState:
    """The state after the event; the lifecycle table says the status."""
    before, state = state.status, replace(state, status=next_status(state.status, event))
    match event:
        case e.ContainerCreated():
            return _created(state, event)
        case e.ContainerStartRequested():
            return _start_requested(state, event, by_policy=before is Status.RESTARTING)
        case e.ContainerStarted():
            return _started(state, event)
        case e.ContainerStartFailed():
            return replace(
                state, settled_runs=event.run, failed_run=event.run, error=event.error, exit_code=event.exit_code
            )
        case e.ContainerStopRequested():
            return _stop_requested(state, event)
        case e.ContainerKillRequested():
            return replace(
                state,
                kill_signal=event.signal if event.ends else state.kill_signal,
                manually_stopped=state.manually_stopped or event.by_user or (event.ends and not state.shut_down),
            )
        case e.ContainerFreezeFailed():
            failures = state.freeze_failures + 1
            return replace(state, freeze_failures=failures, freeze_error=event.error, frozen_by_commit=False)
        case e.ContainerUnpauseRequested():
            return replace(state, frozen_by_commit=False)
        case e.ContainerPauseRequested() | e.ContainerPaused() | e.ContainerUnpaused() | e.ContainerRemoved():
            return state
        case e.ContainerOutOfMemory():
            return replace(state, ooms=event.count, oom_killed=True)
        case e.ContainerExited():
            return _exited(state, event)
        case e.ContainerStopped():
            return replace(state, stop=None, restart_due_at=0)
        case e.ContainerRestartScheduled():
            return replace(
                state,
                restart_due_at=event.due_at,
                restart_delay_ms=event.delay_ms,
                restart_count=event.restart_count,
            )
        case e.ContainerHealthReported():
            log = (*state.health.log, event.last)[-HEALTH_LOG_LENGTH:]
            return replace(state, health=Health(status=event.status, failing_streak=event.failing_streak, log=log))
        case e.ContainerCommitRequested():
            frozen = state.frozen_by_commit or event.pauses
            return replace(state, commits=(*state.commits, event.commit_id), frozen_by_commit=frozen)
        case e.ContainerCommitted(commit_id=ended) | e.ContainerCommitFailed(commit_id=ended):
            return replace(state, commits=tuple(other for other in state.commits if other != ended))
        case e.ContainerNoted():
            return replace(state, terminal=event.attributes) if event.action == "resize" else state
        case e.ContainerRenamed():
            return replace(state, name=event.name)
        case e.ContainerUnlinked():
            return replace(state, links=tuple(link for link in state.links if link.alias != event.alias))
        case e.ContainerUpdated():
            return _updated(state, event)
        case e.ContainerUpdateRequested():
            update = UpdateIntent(resources=event.resources, restart_policy=event.restart_policy)
            return replace(state, updates=event.number, updating=update)
        case e.ContainerUpdateFailed():
            return replace(state, updating=None, failed_update=state.updates, update_error=event.error)
        case e.ContainerConnectRequested():
            return replace(state, connecting=(*state.connecting, event.attachment))
        case e.ContainerConnected():
            return _connected(state, event)
        case e.ContainerConnectFailed():
            return _connect_failed(state, event)
        case e.ContainerDisconnectRequested():
            return replace(state, disconnecting=tuple(dict.fromkeys((*state.disconnecting, event.network_id))))
        case e.ContainerDisconnected():
            return _disconnected(state, event)
        case e.ContainerRemoveRequested():
            return replace(state, remove_volumes=event.volumes, restart_due_at=0)
        case _:
            assert_never(event)


def _created(state: ContainerState, event: e.ContainerCreated) -> ContainerState:
    return replace(
        state,
        name=event.name,
        created_at=event.at,
        image_id=event.image_id,
        layers=event.layers,
        config=event.config,
        env=event.env,
        host=event.host,
        networks=event.networks,
        mounts=event.mounts,
        platform=event.platform,
        runtime=event.runtime,
        links=event.links,
    )


def _stop_requested(state: ContainerState, event: e.ContainerStopRequested) -> ContainerState:
    intent = StopIntent(
        signal=event.signal, deadline=event.deadline, restart=event.restart, shutdown=event.shutdown
    )
    return replace(state, stop=intent, manually_stopped=state.manually_stopped if event.shutdown else not event.restart)


def _start_requested(state: ContainerState, event: e.ContainerStartRequested, *, by_policy: bool) -> ContainerState:
    """A start by anybody but the policy gives the policy its patience back, as moby's ResetRestartManager does."""
    networks = event.networks if event.networks is not None else state.networks
    state = replace(
        state, run=event.run, restart_due_at=0, stop=None, manually_stopped=False, networks=networks
    )
    return state if by_policy else replace(state, restart_count=0, restart_delay_ms=0)


def _started(state: ContainerState, event: e.ContainerStarted) -> ContainerState:
    joined = {endpoint.network_id for endpoint in event.endpoints}
    probed = state.config.healthcheck is not None and (state.config.healthcheck.test or ("NONE",))[0] != "NONE"
    return replace(
        state,
        settled_runs=event.run,
        unended=True,
        pid=event.pid,
        started_at=event.at,
        exit_code=0,
        oom_killed=False,
        ooms=0,
        error="",
        kill_signal=0,
        endpoints=event.endpoints,
        ports=event.ports,
        carrier=event.carrier,
        connect_errors=tuple(pair for pair in state.connect_errors if pair[0] not in joined),
        health=Health(status=HealthStatus.STARTING if probed else HealthStatus.NONE),
    )


def _exited(state: ContainerState, event: e.ContainerExited) -> ContainerState:
    return replace(
        state,
        pid=0,
        unended=False,
        exits=state.exits + 1,
        exit_code=event.exit_code,
        oom_killed=state.oom_killed or event.oom_killed,
        finished_at=event.at,
        endpoints=(),
        ports=(),
        kill_signal=0,
        connecting=(),
        disconnecting=(),
        frozen_by_commit=False,
    )


def _updated(state: ContainerState, event: e.ContainerUpdated) -> ContainerState:
    host = state.host if event.resources is None else with_resources(state.host, event.resources)
    if event.restart_policy is not None:
        host = replace(host, restart_policy=event.restart_policy)
    return replace(state, host=host, updating=None)


def with_resources(host: HostConfig, given: Resources) -> HostConfig:
    """The configuration with the limits that `given` names, and its own for the rest."""
    blank = Resources()
    names = Resources.__struct_fields__
    return replace(host, **{n: getattr(given, n) for n in names if getattr(given, n) != getattr(blank, n)})


def _connect_failed(state: ContainerState, event: e.ContainerConnectFailed) -> ContainerState:
    errors = tuple(pair for pair in state.connect_errors if pair[0] != event.network_id)
    return replace(
        state,
        connecting=tuple(wish for wish in state.connecting if wish.network_id != event.network_id),
        connect_errors=(*errors, (event.network_id, event.error)),
    )


def _disconnected(state: ContainerState, event: e.ContainerDisconnected) -> ContainerState:
    left = {endpoint.endpoint_id for endpoint in state.endpoints if endpoint.network_id == event.network_id}
    return replace(
        state,
        networks=tuple(attachment for attachment in state.networks if not _is_left(attachment, event)),
        endpoints=tuple(x for x in state.endpoints if x.network_id != event.network_id),
        ports=() if state.carrier in left else state.ports,
        disconnecting=tuple(n for n in state.disconnecting if n != event.network_id),
    )


def _is_left(attachment: NetworkAttachment, event: e.ContainerDisconnected) -> bool:
    if attachment.network_id:
        return attachment.network_id == event.network_id
    return attachment.name == event.name


def _connected(state: ContainerState, event: e.ContainerConnected) -> ContainerState:
    network_id = event.attachment.network_id
    return replace(
        state,
        networks=(*(a for a in state.networks if not _same_network(a, event.attachment)), event.attachment),
        endpoints=state.endpoints if event.endpoint is None else (*state.endpoints, event.endpoint),
        connecting=tuple(a for a in state.connecting if a.network_id != network_id),
        connect_errors=tuple(pair for pair in state.connect_errors if pair[0] != network_id),
    )


def _same_network(one: NetworkAttachment, other: NetworkAttachment) -> bool:
    """Of two networks with one name at most one exists: the newer wish means that one."""
    return one.name == other.name or (one.network_id != "" and one.network_id == other.network_id)
