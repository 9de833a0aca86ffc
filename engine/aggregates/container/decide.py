"""What a container allows: every command against every status, in Docker's words.

Reading order of the aggregate: commands, events, state (with evolve), lifecycle (the table), restart, reports, decide.
"""

from __future__ import annotations

from typing import NoReturn

from msgspec.structs import replace

from engine.aggregates.container import commands as c
from engine.aggregates.container import events as e
from engine.aggregates.container.lifecycle import ALIVE, STARTABLE, Status
from engine.aggregates.container.reports import SIGKILL, Events, ReportCommand, report, thawed
from engine.aggregates.container.resource_rules import update_conflict
from engine.aggregates.container.state import ContainerState, evolve, initial, terminal
from engine.aggregates.decider import Decider, Reason, Rejected
from engine.aggregates.values.config import RestartPolicy
from engine.aggregates.values.endpoints import NetworkAttachment
from engine.aggregates.values.signals import SIGTERM, parse_signal

UPDATE_UNDER_WAY = "another update is under way"
HOST_NETWORK_IS_FIXED = "container cannot be disconnected from host network or connected to host network"
NONE_IS_ALONE = (
    "container cannot be connected to multiple networks with one of the networks in private (none) mode"
)
SHARED_NETWORK_IS_FIXED = (
    "container sharing network namespace with another container or host cannot be connected to any other network"
)

UserCommand = (
    c.CreateContainer
    | c.StartContainer
    | c.StopContainer
    | c.RestartContainer
    | c.KillContainer
    | c.PauseContainer
    | c.UnpauseContainer
    | c.CommitContainer
    | c.NoteContainer
    | c.RequireRunning
    | c.RenameContainer
    | c.UnlinkContainer
    | c.UpdateContainer
    | c.ConnectContainer
    | c.DisconnectContainer
    | c.RemoveContainer
)
ContainerCommand = UserCommand | ReportCommand


def decide(state: ContainerState, command: ContainerCommand) -> Events:
    """The events a command leads to; Rejected when the rules say no. Stale reports lead to none."""
    if state.status is Status.ABSENT and not isinstance(command, c.CreateContainer):
        raise Rejected(Reason.NOT_FOUND, f"No such container: {command.container_id}")
    if state.status is Status.REMOVED:
        if isinstance(command, ReportCommand | c.NoteContainer):
            return ()
        raise Rejected(Reason.NOT_FOUND, f"No such container: {command.container_id}")
    match command:
        case c.CreateContainer():
            return _create(state, command)
        case c.StartContainer():
            return _start(state, command)
        case c.StopContainer():
            return _stop(state, command)
        case c.RestartContainer():
            return _restart(state, command)
        case c.KillContainer():
            return _kill(state, command)
        case c.PauseContainer():
            return _pause(state, command)
        case c.UnpauseContainer():
            return _unpause(state, command)
        case c.CommitContainer():
            return _commit(state, command)
        case c.NoteContainer():
            if command.action == "resize" and command.attributes == state.terminal:
                return ()
            return (e.ContainerNoted(action=command.action, attributes=command.attributes),)
        case c.RequireRunning():
            return _require_running(state, command)
        case c.RenameContainer():
            return _rename(state, command)
        case c.UnlinkContainer():
            linked = any(link.alias == command.alias for link in state.links)
            return (e.ContainerUnlinked(alias=command.alias),) if linked else ()
        case c.UpdateContainer():
            return _update(state, command)
        case c.ConnectContainer():
            return _connect(state, command)
        case c.DisconnectContainer():
            return _disconnect(state, command)
        case c.RemoveContainer():
            return _remove(state, command)
        case _:
            return report(state, command)


def _conflict(message: str) -> NoReturn:
    raise Rejected(Reason.CONFLICT, message)


def _create(state: ContainerState, command: c.CreateContainer) -> Events:
    if state.status is not Status.ABSENT:
        _conflict(f"container {command.container_id} exists already")
    return (
        e.ContainerCreated(
            at=command.at,
            name=command.name,
            image_id=command.image_id,
            layers=command.layers,
            config=command.config,
            env=command.env,
            host=command.host,
            networks=command.networks,
            mounts=command.mounts,
            platform=command.platform,
            runtime=command.runtime,
            links=command.links,
        ),
    )


def _start(state: ContainerState, command: c.StartContainer) -> Events:
    match state.status:
        case Status.REMOVING:
            _conflict("container is marked for removal and cannot be started")
        case Status.PAUSED | Status.PAUSING | Status.UNPAUSING:
            _conflict("cannot start a paused container, try unpause instead")
        case Status.RUNNING | Status.STARTING | Status.STARTING_AGAIN:
            raise Rejected(Reason.NOT_MODIFIED, "")
    assert state.status in STARTABLE
    return (e.ContainerStartRequested(run=state.run + 1, at=command.at, networks=command.networks),)


def _stop(state: ContainerState, command: c.StopContainer) -> Events:
    request = e.ContainerStopRequested(
        at=command.at, signal=command.signal, deadline=command.deadline, shutdown=command.shutdown
    )
    if state.status is Status.RESTARTING:
        return (request, e.ContainerStopped(at=command.at))
    if state.status not in ALIVE:
        raise Rejected(Reason.NOT_MODIFIED, "")
    earlier = state.stop if state.stop is not None and not state.stop.restart and not state.stop.shutdown else None
    if earlier is not None and 0 < earlier.deadline <= command.deadline:
        return ()  # An earlier stop is due sooner: this one waits for the same exit.
    return (request, *thawed(state, command.at))


def _restart(state: ContainerState, command: c.RestartContainer) -> Events:
    if state.status in STARTABLE:
        again = e.ContainerStartRequested(run=state.run + 1, at=command.at, restart=True, networks=command.networks)
        return (again,)
    if state.status not in ALIVE:
        _conflict(f"container {state.container_id} cannot be restarted while it is {state.status.value}")
    request = e.ContainerStopRequested(at=command.at, signal=command.signal, deadline=command.deadline, restart=True)
    return (request, *thawed(state, command.at))


def _kill(state: ContainerState, command: c.KillContainer) -> Events:
    if state.status not in ALIVE | {Status.RESTARTING}:
        _conflict(f"cannot kill container: {state.name}: container {state.container_id} is not running")
    by_user = command.signal in (SIGKILL, _stop_signal(state))
    request = e.ContainerKillRequested(
        at=command.at, signal=command.signal, ends=command.signal == SIGKILL, by_user=by_user
    )
    if state.status is Status.RESTARTING:
        if not by_user:
            _conflict(f"cannot kill container: {state.name}: container {state.container_id} is not running")
        return (request, e.ContainerStopped(at=command.at))
    return (request, *thawed(state, command.at))


def _stop_signal(state: ContainerState) -> int:
    """The signal that is meant to end this container: of the stop under way, else its own (CTR-11)."""
    if state.stop is not None:
        return state.stop.signal
    return parse_signal(state.config.stop_signal) if state.config.stop_signal else SIGTERM


def _pause(state: ContainerState, command: c.PauseContainer) -> Events:
    match state.status:
        case Status.RUNNING:
            return (e.ContainerPauseRequested(at=command.at),)
        case Status.PAUSED | Status.PAUSING | Status.UNPAUSING:
            _conflict(f"container {state.container_id} is already paused")
        case Status.RESTARTING:
            _conflict(f"Container {state.container_id} is restarting, wait until the container is running")
        case _:
            _conflict(f"container {state.container_id} is not running")


def _unpause(state: ContainerState, command: c.UnpauseContainer) -> Events:
    if state.status is not Status.PAUSED:
        # moby answers 500 here, and clients have come to know it.
        raise Rejected(Reason.SYSTEM, f"Container {state.container_id} is not paused")
    return (e.ContainerUnpauseRequested(at=command.at),)


def _commit(state: ContainerState, command: c.CommitContainer) -> Events:
    match state.status:
        case Status.REMOVING:
            _conflict(f"You cannot commit container {state.container_id} which is being removed")
        case Status.STARTING | Status.STARTING_AGAIN:
            _conflict(f"You cannot commit container {state.container_id} which is being started")
    pauses = command.pause and state.status is Status.RUNNING
    request = e.ContainerCommitRequested(
        at=command.at, commit_id=command.commit_id, reference=command.reference, pauses=pauses
    )
    return (request, e.ContainerPauseRequested(at=command.at)) if pauses else (request,)


def _require_running(state: ContainerState, command: c.RequireRunning) -> Events:
    match state.status:
        case Status.RUNNING:
            return ()
        case Status.PAUSED | Status.PAUSING:
            _conflict(f"Container {command.called} is paused, unpause the container before exec")
        case Status.RESTARTING:
            _conflict(f"Container {state.container_id} is restarting, wait until the container is running")
        case _:
            _conflict(f"container {state.container_id} is not running")


def _rename(state: ContainerState, command: c.RenameContainer) -> Events:
    if state.status is Status.REMOVING:
        # The removal is giving the name back that it began with.
        _conflict(f"container {state.container_id} is marked for removal and cannot be renamed")
    if command.name == state.name:
        raise Rejected(Reason.INVALID, "Renaming a container with the same name as its current name")
    return (e.ContainerRenamed(name=command.name, old_name=state.name),)


def _update(state: ContainerState, command: c.UpdateContainer) -> Events:
    prefix = f"Cannot update container {state.container_id}: "
    if state.status is Status.REMOVING:
        _conflict(prefix + 'container is marked for removal and cannot be "update"')
    policy, resources = command.restart_policy, command.resources
    if policy is not None and policy.name not in ("", "no") and state.host.auto_remove:
        _conflict(prefix + "Restart policy cannot be updated because AutoRemove is enabled for the container")
    if resources is None and policy is None:
        return ()
    if resources is not None and (contradiction := update_conflict(state.host, resources)):
        _conflict(prefix + contradiction)
    if state.updating is not None:
        _conflict(prefix + UPDATE_UNDER_WAY)
    if resources is not None and state.status in ALIVE:
        number = state.updates + 1
        return (
            e.ContainerUpdateRequested(number=number, at=command.at, resources=resources, restart_policy=policy),
        )
    return (e.ContainerUpdated(resources=resources, restart_policy=policy),)


def _connect(state: ContainerState, command: c.ConnectContainer) -> Events:
    attachment = command.attachment
    _check_links_may_change(state)
    if state.host.network_mode == "host":
        raise Rejected(Reason.INVALID, HOST_NETWORK_IS_FIXED)
    if state.host.network_mode.startswith("container:"):
        raise Rejected(Reason.INVALID, SHARED_NETWORK_IS_FIXED)
    wishes = (*state.networks, *state.connecting)
    known = any(_is_of(a, attachment.network_id, attachment.name) for a in wishes)
    if known and state.status not in ALIVE:
        return ()  # The wish is there already: moby keeps it as it is (updateNetworkSettings).
    if known:
        raise Rejected(
            Reason.FORBIDDEN,
            f"endpoint with name {state.name} already exists in network {attachment.name}",
        )
    names = {a.name for a in state.networks}
    if names and "none" in {*names, attachment.name}:
        raise Rejected(Reason.INVALID, NONE_IS_ALONE)
    if state.status in ALIVE:
        return (e.ContainerConnectRequested(at=command.at, attachment=attachment),)
    return (e.ContainerConnected(attachment=replace(attachment, network_id="")),)


def _check_links_may_change(state: ContainerState) -> None:
    """A start has its addresses already and will join what it was asked to: whoever changes that waits for it."""
    if state.starting:
        _conflict(f"container {state.container_id} is starting: try again")
    if state.status is Status.REMOVING:
        _conflict(f"container {state.container_id} is marked for removal and cannot be connected or disconnected")


def _disconnect(state: ContainerState, command: c.DisconnectContainer) -> Events:
    _check_links_may_change(state)
    wishes = state.networks
    wish = next(
        (a for a in wishes if _is_of(a, command.network_id, command.name)),
        # A wish that follows a network which is gone can be taken back by the name it had.
        next((a for a in wishes if a.name == command.name and state.status not in ALIVE), None),
    )
    if wish is None:
        # moby has no better word for it than 500 (daemon/container_operations.go).
        known_as = command.name or command.network_id
        raise Rejected(
            Reason.SYSTEM, f"container {state.container_id} is not connected to the network {known_as}"
        )
    if state.host.network_mode == "host":
        raise Rejected(Reason.INVALID, HOST_NETWORK_IS_FIXED)
    joined = any(endpoint.network_id == command.network_id for endpoint in state.endpoints)
    if command.network_id in state.disconnecting:
        return ()  # under way: who asks again waits with who asked first
    if state.status in ALIVE and joined:
        return (e.ContainerDisconnectRequested(at=command.at, network_id=command.network_id),)
    left = wish.network_id or command.network_id
    return (e.ContainerDisconnected(network_id=left, name="" if wish.network_id else wish.name),)


def _is_of(attachment: NetworkAttachment, network_id: str, name: str) -> bool:
    """A wish that was never fulfilled knows its network by name only."""
    return attachment.network_id == network_id if attachment.network_id else attachment.name == name


def _remove(state: ContainerState, command: c.RemoveContainer) -> Events:
    match state.status:
        case Status.REMOVING:
            _conflict(f"removal of container {state.container_id} is already in progress")
        case Status.STARTING | Status.STARTING_AGAIN | Status.PAUSING | Status.UNPAUSING:
            raise Rejected(
                Reason.CONFLICT,
                f'cannot remove container "{state.name}": container is {state.status.value}: try again',
            )
        case Status.RUNNING | Status.RESTARTING if not command.force:
            word = state.status.value
            _conflict(
                f'cannot remove container "{state.name}": container is {word}: '
                "stop the container before removing or force remove"
            )
        case Status.PAUSED if not command.force:
            _conflict(f'cannot remove container "{state.name}": container is paused and must be unpaused first')
    request = e.ContainerRemoveRequested(at=command.at, force=command.force, volumes=command.volumes)
    if state.status in ALIVE:
        return (e.ContainerKillRequested(at=command.at, signal=SIGKILL, ends=True), request)
    return (request,)


def restarts_at_boot(state: ContainerState) -> bool:
    """SYS-10: whether an engine that starts on a machine where the container does not run starts it again."""
    policy: RestartPolicy = state.host.restart_policy
    if policy.name == "always":
        return state.has_been_started
    if policy.name == "unless-stopped":
        return state.has_been_started and not state.manually_stopped
    if policy.name == "on-failure":
        left = policy.maximum_retry_count == 0 or state.restart_count < policy.maximum_retry_count
        return state.has_been_started and state.exit_code != 0 and left
    return False


DECIDER: Decider[ContainerState] = Decider(
    name="container",
    initial=initial,
    decide=decide,
    evolve=evolve,
    terminal=terminal,
    commands=ContainerCommand.__args__,
    events=e.ContainerEvent.__args__,
    endings=(e.ContainerRemoved,),
)
