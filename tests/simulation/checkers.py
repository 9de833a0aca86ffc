"""What must be true of a log and of the machine beside it, by folds of the checkers' own.

`safety` looks at the whole history: no name, address or port in two hands at any position, no exit lost or invented,
no restart before its time. `settled` compares the machine with the log once everything has come to rest. Both return
sentences, none when all is well.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from engine.aggregates.catalog import ALL_DECIDERS
from engine.aggregates.container import events as c
from engine.aggregates.container.lifecycle import Status
from engine.aggregates.decider import Recorded
from engine.aggregates.exec import ExecExited, ExecStatus
from engine.aggregates.network import EndpointAllocated, EndpointReleased, NetworkStatus
from engine.aggregates.ports import PortsReleased, PortsReserved
from engine.aggregates.volume import VolumeReferenced, VolumeReleased, VolumeRemoveRequested, VolumeStatus
from engine.application import Application
from engine.clock import SystemClock
from engine.codec import EventCodec
from replay.reader import LogReader
from replay.verify import verify
from replay.world import World, world_at
from tests.simulation.machine import Key, Machine
from tests.support.audit import ledgers, unsettled

CODEC = EventCodec(event for decider in ALL_DECIDERS for event in decider.events)
INTERRUPTED = 137


def history(log: Path) -> list[Recorded]:
    with LogReader(log, CODEC) as reader:
        return list(reader.events())


def world_of(log: Path) -> World:
    with LogReader(log, CODEC) as reader:
        return world_at(reader, ALL_DECIDERS, reader.head)


# -- at any position ---------------------------------------------------------------------------------------------------


def safety(log: Path, machine: Machine, promised: Mapping[int, bytes]) -> list[str]:
    """promised: where the log ended when somebody was answered, and its seal there."""
    events = history(log)
    found = [*_names(events), *_addresses(events), *_ports(events), *_exits(events, machine), *_restarts(events)]
    found += [*_promises(log, promised), *_references(events)]
    result = verify(log)
    if not result.whole:
        found.append(f"the chain does not verify: {result}")
    return [*found, *machine.violations]


def _promises(log: Path, promised: Mapping[int, bytes]) -> Iterator[str]:
    """What was acknowledged is in the log, behind the very history that it had then."""
    with contextlib.closing(sqlite3.connect(f"file:{log}?mode=ro", uri=True)) as connection:
        seals = dict(connection.execute("SELECT last, seal FROM chain").fetchall())
    for position, seal in promised.items():
        if position and seals.get(position) != seal:
            yield f"position {position} was acknowledged, and is {'another' if position in seals else 'lost'}"


def _references(events: Iterable[Recorded]) -> Iterator[str]:
    """A volume's users are the containers that were made with it and are there; with one it does not go."""
    mounted: dict[str, frozenset[str]] = {}
    users: dict[str, set[str]] = {}
    for recorded in events:
        match recorded.event:
            case c.ContainerCreated() as event:
                mounted[recorded.key] = frozenset(mount.name for mount in event.mounts if mount.type == "volume")
            case c.ContainerRemoved():
                mounted.pop(recorded.key, None)
            case VolumeReferenced() as event:
                users.setdefault(recorded.key, set()).add(event.container_id)
            case VolumeReleased() as event:
                users.get(recorded.key, set()).discard(event.container_id)
            case VolumeRemoveRequested():
                for each in (container for container, volumes in mounted.items() if recorded.key in volumes):
                    yield f"position {recorded.position}: volume {recorded.key} goes, and {each[:12]} is on it"
    for container, volumes in mounted.items():
        for name in volumes:
            if container not in users.get(name, ()):
                yield f"volume {name} knows nothing of {container[:12]}, which is on it"
    for name, containers in users.items():
        for container in containers:
            if name not in mounted.get(container, ()):
                yield f"volume {name} is kept by {container[:12]}, which is not on it"


def _names(events: Iterable[Recorded]) -> Iterator[str]:
    owners: dict[str, str] = {}
    names: dict[str, str] = {}
    for recorded in events:
        event = recorded.event
        if isinstance(event, c.ContainerCreated | c.ContainerRenamed):
            old = names.pop(recorded.key, None)
            if old is not None and owners.get(old) == recorded.key:
                del owners[old]
            if owners.get(event.name, recorded.key) != recorded.key:
                yield f"position {recorded.position}: the name {event.name} has two owners"
            owners[event.name], names[recorded.key] = recorded.key, event.name
        elif isinstance(event, c.ContainerRemoved):
            owners.pop(names.pop(recorded.key, ""), None)


def _addresses(events: Iterable[Recorded]) -> Iterator[str]:
    held: dict[tuple[str, str], str] = {}
    for recorded in events:
        event = recorded.event
        if isinstance(event, EndpointAllocated) and event.endpoint.ipv4_address:
            place = (recorded.key, event.endpoint.ipv4_address)
            if place in held:
                yield f"position {recorded.position}: {place} is given twice"
            held[place] = event.endpoint.endpoint_id
        elif isinstance(event, EndpointReleased):
            held = {place: endpoint for place, endpoint in held.items() if endpoint != event.endpoint_id}


def _ports(events: Iterable[Recorded]) -> Iterator[str]:
    held: dict[str, tuple[Any, ...]] = {}
    for recorded in events:
        event = recorded.event
        if isinstance(event, PortsReserved):
            for owner, ports in held.items():
                taken = {(p.host_port, p.protocol, p.host_ip) for p in ports}
                if owner != event.container_id and taken & {(p.host_port, p.protocol, p.host_ip) for p in event.ports}:
                    yield f"position {recorded.position}: a port of {owner[:12]} is given to {event.container_id[:12]}"
            held[event.container_id] = event.ports
        elif isinstance(event, PortsReleased):
            held.pop(event.container_id, None)


def _exits(events: Iterable[Recorded], machine: Machine) -> Iterator[str]:
    """Every run has one end at most, with the code of the process, and none that the supervisor saw is missing."""
    truth = {ended.key: ended for ended in machine.ended}
    known_runs: set[Key] = set()
    ends: dict[Key, Any] = {}
    removed: set[str] = set()
    of_exec: dict[str, Key] = {key[2]: key for key in machine.begun if key[2]}
    for recorded in events:
        event = recorded.event
        match event:
            case c.ContainerStarted():
                known_runs.add((recorded.key, event.run, ""))
            case c.ContainerRemoved():
                removed.add(recorded.key)
            case c.ContainerExited():
                key = (recorded.key, event.run, "")
                if key in ends:
                    yield f"run {event.run} of {recorded.key[:12]} ended twice"
                ends[key] = event
                yield from _judged(key, event.exit_code, event.lost, truth, machine)
            case ExecExited(error=""):
                key = of_exec.get(recorded.key, ("", 0, recorded.key))
                ended = truth.get(key)
                if ended is not None and ended.known and event.exit_code != ended.code:
                    yield f"exec {recorded.key[:12]} ended with {ended.code}, the log says {event.exit_code}"
    for key in known_runs - ends.keys():
        if key in truth and key in machine.begun and key not in machine.journal and truth[key].known:
            yield f"the exit of run {key[1]} of {key[0][:12]} is lost"
        if key[0] in removed:
            yield f"{key[0][:12]} was removed while run {key[1]} had no end"


def _judged(key: Key, code: int, lost: bool, truth: Mapping[Key, Any], machine: Machine) -> Iterator[str]:
    ended = truth.get(key)
    if lost:
        if ended is not None and ended.known:
            yield f"run {key[1]} of {key[0][:12]} ended with {ended.code}, and was reported lost"
    elif ended is None:
        yield f"run {key[1]} of {key[0][:12]} ended with {code} by the log, and lives"
    elif ended.code != code:
        yield f"run {key[1]} of {key[0][:12]} ended with {ended.code}, the log says {code}"


def _restarts(events: Iterable[Recorded]) -> Iterator[str]:
    """A policy never starts before its deadline."""
    due: dict[str, int] = {}
    for recorded in events:
        event = recorded.event
        if isinstance(event, c.ContainerRestartScheduled):
            due[recorded.key] = event.due_at
        elif isinstance(event, c.ContainerStopped):
            due.pop(recorded.key, None)  # By hand; a start that follows is one of a start of the engine.
        elif isinstance(event, c.ContainerStartRequested):
            deadline = due.pop(recorded.key, 0)
            if recorded.cause.actor == "reactor:restart" and event.at < deadline:
                yield f"position {recorded.position}: {recorded.key[:12]} starts {(deadline - event.at) / 1e9} s early"


# -- at rest -----------------------------------------------------------------------------------------------------------


def settled(log: Path, machine: Machine, now_ns: int) -> list[str]:
    world = world_of(log)
    return [
        *unsettled(world),
        *ledgers(world),
        *_processes(world, machine),
        *_deadlines(world, now_ns),
        *_network(world, machine),
        *_disk(world, machine),
    ]


def _alive(world: World) -> dict[str, Any]:
    return {state.container_id: state for state in world.living("container") if state.alive}


def _processes(world: World, machine: Machine) -> Iterator[str]:
    alive = _alive(world)
    firsts = {p.key[0]: p for p in machine.processes.values() if not p.key[2]}
    for container_id, state in alive.items():
        process = firsts.pop(container_id, None)
        if process is None:
            yield f"{state.name} runs by the log, and no process does"
        elif (process.pid, process.key[1]) != (state.pid, state.run):
            yield f"{state.name} is {state.pid}, run {state.run}, by the log: it is {process.pid}, {process.key}"
        elif process.frozen != (state.status is Status.PAUSED):
            yield f"{state.name} is {state.status.value} by the log, and {'' if process.frozen else 'not '}frozen"
        elif not process.held:
            yield f"nobody holds {state.name}"
    yield from (f"process {p.pid} ({p.key}) runs, and nobody knows it" for p in firsts.values())
    for name in machine.cgroups ^ alive.keys():
        yield f"cgroup {name[:12]} is {'left over' if name in machine.cgroups else 'missing'}"
    for state in world.living("exec"):
        if state.status is ExecStatus.RUNNING and state.pid not in machine.processes:
            yield f"exec {state.exec_id[:12]} runs by the log only"
    yield from (f"the exit {key} is still in the journal" for key in machine.journal)


def _deadlines(world: World, now_ns: int) -> Iterator[str]:
    for state in world.living("container"):
        if state.status is Status.RESTARTING and state.restart_due_at < now_ns - 1_000_000_000:
            yield f"{state.name} was to start {(now_ns - state.restart_due_at) / 1e9} s ago"


def _network(world: World, machine: Machine) -> Iterator[str]:
    bridges = {
        s.network_id: s
        for s in world.living("network")
        if s.settings.driver == "bridge" and s.status is NetworkStatus.READY
    }
    yield from _same("bridge", machine.bridges.keys(), {network_id[:12] for network_id in bridges})
    wanted = {
        endpoint.endpoint_id: endpoint
        for state in _alive(world).values()
        for endpoint in state.endpoints
        if endpoint.network_id in bridges
    }
    veths = machine.veths()
    yield from _same("interface", veths.keys(), wanted.keys())
    for endpoint_id in veths.keys() & wanted.keys():
        address = veths[endpoint_id].endpoints[endpoint_id][1]
        if address != wanted[endpoint_id].ipv4_address:
            yield f"interface {endpoint_id[:7]} has {address}, the log says {wanted[endpoint_id].ipv4_address}"
    ports = {port: state for state in _alive(world).values() for port in state.ports}
    yield from (f"port {port.host_port} is published for nobody" for port in machine.published.keys() - ports.keys())
    for port, state in ports.items():
        if state.carrier and machine.published.get(port, state.carrier) != state.carrier:
            yield f"port {port.host_port} leads to {machine.published[port][:7]}, and not to {state.carrier[:7]}"
    if any(not namespace.members for namespace in machine.living_namespaces()):
        yield "a network namespace is held by nobody's process"


def _same(what: str, there: Iterable[str], wanted: Iterable[str]) -> Iterator[str]:
    there, wanted = set(there), set(wanted)
    yield from (f"{what} {name[:12]} is nobody's" for name in sorted(there - wanted))
    yield from (f"{what} {name[:12]} is missing" for name in sorted(wanted - there))


def _disk(world: World, machine: Machine) -> Iterator[str]:
    existing = {state.container_id for state in world.living("container")}
    yield from (f"read-write layer {name[:12]} is nobody's" for name in sorted(machine.rootfs - existing))
    yield from (f"folder {name[:12]} is nobody's" for name in sorted(machine.folders.keys() - existing))
    yield from (f"{name[:12]} runs without a layer" for name in sorted(_alive(world).keys() - machine.rootfs))
    volumes = {state.name for state in world.living("volume")}
    ready = {s.name for s in world.living("volume") if s.status is VolumeStatus.READY and not s.references}
    yield from (f"volume {name} is nobody's" for name in sorted(machine.volumes.keys() - volumes))
    yield from (f"volume {name} is missing" for name in sorted(ready - machine.volumes.keys()))


# -- derived state -----------------------------------------------------------------------------------------------------


async def derived(lived: Path, fresh: Path, projections: Callable[[], Any]) -> list[str]:
    """Views restored from what an engine left are those that a fold of the log alone gives. lived: a folder with log
    and views; fresh: one with the log."""
    folded = {}
    for folder in (lived, fresh):
        views = projections()
        async with Application(folder, deciders=ALL_DECIDERS, clock=SystemClock(), projections=views.all()).running():
            folded[folder] = dumps(views)
    differ = [name for name, dumped in folded[fresh].items() if dumped != folded[lived][name]]
    return [f"the view {name} is not the fold of the log" for name in differ]


def dumps(views: Any) -> dict[str, bytes]:
    """Comparable forms of all projections; the feed's own bookkeeping of its file is left out."""
    found = {}
    for view in views.all():
        dumped = view.dump()
        if view.name == "events_feed":
            dumped = (dumped.subjects, dumped.cursor)
        found[view.name] = msgspec.msgpack.encode(dumped, order="sorted", enc_hook=list)
    return found
