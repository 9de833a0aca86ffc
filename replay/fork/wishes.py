"""From what was recorded back to what was asked for: the commands behind an event, to be decided again elsewhere.

Only what came from outside is a wish: requests of people, and what processes did of their own accord. What the engine
made of it (outcomes, releases, restarts by policy) follows by itself and is no wish.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from engine import transactions
from engine.aggregates.container import commands as c
from engine.aggregates.container import events as e
from engine.aggregates.container.lifecycle import STARTABLE
from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Command, Recorded
from engine.aggregates.exec import ExecCreated
from engine.aggregates.image import ImageRemoveRequested
from engine.aggregates.names import NameKind, ReserveName
from engine.aggregates.network import CreateNetwork, NetworkCreateRequested, NetworkRemoveRequested, RemoveNetwork
from engine.aggregates.values.ids import ContainerID, NetworkID, VolumeName
from engine.aggregates.values.signals import SIGTERM
from engine.aggregates.volume import CreateVolume, RemoveVolume, VolumeCreated, VolumeRemoveRequested
from replay.fork.branch import Branch
from replay.fork.host import Host
from replay.fork.record import Record

DECIDED_AGAIN = frozenset({"container", "network", "volume", "ports"})
"""Aggregates whose events follow from wishes; names do, too, where they are of one of these. Everything else (images,
transfers, execs) is taken as it was recorded."""


def is_copied(recorded: Recorded) -> bool:
    """Whether an event is taken as it is."""
    kind = recorded.key.partition("/")[0] if recorded.kind == "name" else recorded.kind
    return kind not in DECIDED_AGAIN


def in_the_way(recorded: Recorded, branch: Branch) -> str:
    """Why what would be taken as it is can not be: an image that is used here, a process in a container that does not
    run here; "" when nothing speaks against it."""
    match recorded.event:
        case ImageRemoveRequested():
            users = [each.name for each in branch.world.living("container") if each.image_id == recorded.key]
            return f"image {recorded.key} is used by container {users[0]}" if users else ""
        case ExecCreated() as event if not branch.state("container", event.container_id).alive:
            return f"container {event.container_id} is not running"
        case _:
            return ""


def leading(history: Sequence[Recorded]) -> Iterable[Recorded]:
    """The events that stand for wishes, in order: of each request and container one. A removal by force kills first,
    and a signal thaws; both are part of it."""
    removals = {
        (each.cause.correlation, each.stream)
        for each in history
        if isinstance(each.event, e.ContainerRemoveRequested) and not each.event.auto
    }
    seen: set[tuple[str, str]] = set()
    for recorded in history:
        request = (recorded.cause.correlation, recorded.stream)
        event = recorded.event
        if isinstance(event, e.ContainerExited | e.ContainerOutOfMemory | e.ContainerHealthReported):
            yield recorded
        elif request not in seen and _from_outside(recorded):
            if request in removals and not isinstance(event, e.ContainerRemoveRequested):
                continue
            seen.add(request)
            yield recorded


def _from_outside(recorded: Recorded) -> bool:
    """The predefined networks are as the configuration wants them."""
    actor = recorded.cause.actor
    return not actor.startswith("reactor:") or actor == "reactor:defaults"


def commands_of(recorded: Recorded, branch: Branch, host: Host, record: Record) -> tuple[Command, ...]:
    """The transaction that is asked for again; nothing for what was no wish. Raises Rejected."""
    match recorded.event:
        case NetworkCreateRequested() as event:
            name, network_id = event.settings.name, NetworkID(recorded.key)
            make = CreateNetwork(
                network_id=network_id, at=event.at, settings=event.settings, predefined=event.predefined
            )
            return (ReserveName(kind=NameKind.NETWORK, name=name, owner=recorded.key), make)
        case NetworkRemoveRequested() as event:
            return (RemoveNetwork(network_id=NetworkID(recorded.key), at=event.at),)
        case VolumeCreated() as event:
            return (
                CreateVolume(
                    name=VolumeName(recorded.key), at=event.at, driver=event.driver, options=event.options,
                    labels=event.labels, anonymous=event.anonymous,
                ),
            )  # fmt: skip
        case VolumeRemoveRequested() as event:
            return (RemoveVolume(name=VolumeName(recorded.key), at=event.at),)
        case _ if recorded.kind == "container":
            state = branch.state("container", recorded.key)
            return _of_container(recorded, state, host, record)
        case _:
            return ()


def _of_container(recorded: Recorded, state: ContainerState, host: Host, record: Record) -> tuple[Command, ...]:
    of = ContainerID(recorded.key)
    match recorded.event:
        case e.ContainerCreated() as event:
            fields = {name: getattr(event, name) for name in event.__struct_fields__}
            return transactions.create(c.CreateContainer(container_id=of, **fields))
        case e.ContainerStartRequested(restart=True) | e.ContainerStopRequested(restart=True) as event:
            signal, deadline = getattr(event, "signal", SIGTERM), getattr(event, "deadline", 0)
            return restart(
                host, state, c.RestartContainer(container_id=of, at=event.at, signal=signal, deadline=deadline)
            )
        case e.ContainerStartRequested() as event:
            return host.start(state, c.StartContainer(container_id=of, at=event.at))
        case e.ContainerStopRequested() as event:
            stop = c.StopContainer(
                container_id=of, at=event.at, signal=event.signal, deadline=event.deadline, shutdown=event.shutdown
            )
            return (stop,)
        case e.ContainerKillRequested() as event:
            return (c.KillContainer(container_id=of, at=event.at, signal=event.signal),)
        case e.ContainerPauseRequested() as event:
            return (c.PauseContainer(container_id=of, at=event.at),)
        case e.ContainerUnpauseRequested() as event:
            return (c.UnpauseContainer(container_id=of, at=event.at),)
        case e.ContainerRenamed() as event:
            return transactions.rename(state, event.name)
        case e.ContainerUnlinked() as event:
            return (c.UnlinkContainer(container_id=of, alias=event.alias),)
        case e.ContainerUpdated() | e.ContainerUpdateRequested() as event:
            policy = event.restart_policy
            return (
                c.UpdateContainer(
                    container_id=of, at=recorded.time_ns, resources=event.resources, restart_policy=policy
                ),
            )
        case e.ContainerConnected() | e.ContainerConnectRequested() as event:
            return (c.ConnectContainer(container_id=of, at=recorded.time_ns, attachment=event.attachment),)
        case e.ContainerDisconnected() | e.ContainerDisconnectRequested() as event:
            name = getattr(event, "name", "")
            return (
                c.DisconnectContainer(container_id=of, at=recorded.time_ns, network_id=event.network_id, name=name),
            )
        case e.ContainerRemoveRequested() as event:
            return (c.RemoveContainer(container_id=of, at=event.at, force=event.force, volumes=event.volumes),)
        case e.ContainerExited() as event:
            if (of, event.run) in record.asked or not state.alive or state.run != event.run:
                return ()
            return host.exited(state, at=event.at, exit_code=event.exit_code, oom_killed=event.oom_killed)
        case e.ContainerOutOfMemory() as event:
            return (c.ReportOutOfMemory(container_id=of, run=event.run, at=event.at, count=event.count),)
        case e.ContainerHealthReported() as event:
            return (
                c.ReportHealth(
                    container_id=of, run=state.run, at=event.at, status=event.status,
                    failing_streak=event.failing_streak, last=event.last,
                ),
            )  # fmt: skip
        case _:
            return ()


def restart(host: Host, state: ContainerState, intent: c.RestartContainer) -> tuple[Command, ...]:
    """Of a container that runs, or does not."""
    return host.start(state, intent) if state.status in STARTABLE else (intent,)
