"""What is left over: kernel and disk of an engine compared with its log, by nothing but the log and /proc.

Owns: the fold of `events.db` (not the engine's own views: a checker lives outside the code it checks), and one function
per kind of thing that can leak. Refuses to know: how the engine would clean up.

`unsettled` and `leaks` return sentences, none when all is well. Both look once: callers poll, because trash, cgroups
and namespaces go away a moment after the log says so.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from engine.aggregates.catalog import ALL_DECIDERS
from engine.aggregates.container import events
from engine.aggregates.container.lifecycle import Status
from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Recorded
from engine.aggregates.exec import ExecStatus
from engine.aggregates.image import ImageStatus
from engine.aggregates.network import NetworkStatus
from engine.aggregates.transfer import TransferStatus
from engine.aggregates.volume import VolumeStatus
from engine.codec import EventCodec
from replay.reader import LogReader
from replay.world import World, world_at
from tests.support.engine import Engine
from tests.support.processes import content, everybody

POOL_MAX = 6
"""Ready network namespaces an engine keeps (four), and those being made."""
SETTLED = frozenset({Status.CREATED, Status.RUNNING, Status.PAUSED, Status.RESTARTING, Status.EXITED})


def world_of(engine: Engine) -> World:
    """Everything the log says now."""
    codec = EventCodec(event for decider in ALL_DECIDERS for event in decider.events)
    with LogReader(engine.data_root / "events.db", codec) as reader:
        return world_at(reader, ALL_DECIDERS, reader.head)


def events_of(engine: Engine) -> list[Recorded]:
    """The whole log."""
    codec = EventCodec(event for decider in ALL_DECIDERS for event in decider.events)
    with LogReader(engine.data_root / "events.db", codec) as reader:
        return list(reader.events())


def containers_of(world: World) -> list[ContainerState]:
    return world.living("container")


def unsettled(world: World) -> list[str]:
    """Intents without an outcome."""
    found = []
    for state in containers_of(world):
        what = f"container {state.name} ({state.container_id[:12]})"
        if state.status not in SETTLED:
            found.append(f"{what} is {state.status.value}")
        if state.alive and (state.kill_signal == 9 or state.connecting or state.disconnecting):
            found.append(f"{what}: kill {state.kill_signal} {state.connecting} {state.disconnecting}")
        if state.alive and state.stop is not None:
            found.append(f"{what} is being stopped")
    for state in world.living("exec"):
        if state.status is ExecStatus.STARTING:
            found.append(f"exec {state.exec_id[:12]} is starting")
        container = world.states.get(f"container:{state.container_id}")
        if container is None or container.status is Status.REMOVED:
            found.append(f"exec {state.exec_id[:12]} ({state.status.value}) is of a container that is gone")
        elif state.status is ExecStatus.RUNNING and not container.alive:
            found.append(f"exec {state.exec_id[:12]} runs in a container that does not")
    for state in world.living("network"):
        if state.status not in (NetworkStatus.READY, NetworkStatus.FAILED):
            found.append(f"network {state.settings.name} is {state.status.value}")
    found += [f"volume {s.name} is removing" for s in world.living("volume") if s.status is VolumeStatus.REMOVING]
    found += [f"image {s.image_id} is removing" for s in world.living("image") if s.status is ImageStatus.REMOVING]
    found += [f"transfer of {s.reference} is open" for s in world.living("transfer") if s.status is TransferStatus.OPEN]
    return found


def overdue(world: World, now_ns: int) -> list[str]:
    """Containers that their policy, or a restart that was asked for, should have started by now."""
    return [
        f"container {state.name} was to start {(now_ns - state.restart_due_at) / 1e9:.3f} s ago"
        for state in containers_of(world)
        if state.status is Status.RESTARTING and state.restart_due_at <= now_ns
    ]


def leaks(engine: Engine, world: World | None = None) -> list[str]:
    """Everything that the log knows nothing of, and everything it knows that is not there."""
    world = world if world is not None else world_of(engine)
    running = engine.process is not None
    found = [
        *_processes(engine, world),
        *_cgroups(world),
        *_mounts(engine, world),
        *ledgers(world),
        *_links(engine, world, pool=POOL_MAX if running else 0),
        *_firewall(engine, world),
        *_disk(engine, world),
        *_exec_root(engine, world),
        *_descriptors(engine, world),
    ]
    return sorted(found)


def _alive(world: World) -> dict[str, ContainerState]:
    return {state.container_id: state for state in containers_of(world) if state.alive or state.starting}


# -- processes ---------------------------------------------------------------------------------------------------------


def members() -> dict[str, set[int]]:
    """Pids by container id, from the cgroups of all processes of the machine."""
    found: dict[str, set[int]] = {}
    for pid, groups in everybody("cgroup"):
        match = re.search(rb"/docker[/-]([0-9a-f]{64})", groups)
        if match:
            with contextlib.suppress(OSError):
                if content(pid, "stat").rpartition(b")")[2].split()[0] not in b"ZX":
                    found.setdefault(match[1].decode(), set()).add(pid)
    return found


def _processes(engine: Engine, world: World) -> Iterator[str]:
    here = members()
    known = {stream.partition(":")[2] for stream in world.states if stream.startswith("container:")}
    alive = _alive(world)
    for container_id in known & here.keys() - alive.keys():
        yield f"processes {sorted(here[container_id])} run in container {container_id[:12]}, which does not"
    execs = {state.pid for state in world.living("exec") if state.status is ExecStatus.RUNNING}
    for container_id, state in alive.items():
        if not state.starting and state.pid not in here.get(container_id, ()):
            yield f"container {state.name} runs as {state.pid} by the log: its cgroup has {here.get(container_id)}"
    firsts = {state.pid for state in alive.values()}
    supervisors = set(engine.supervisors())
    for pid in supervisors:
        for child in _children(pid):
            if child not in firsts | execs | supervisors and child not in set().union(*here.values(), ()):
                yield f"process {child} ({_title(child)}) is a child of the supervisor and nobody's"


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _title(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:80]
    return "gone"


# -- kernel ------------------------------------------------------------------------------------------------------------


def _hierarchies() -> list[Path]:
    root = Path("/sys/fs/cgroup")
    found = [root] if (root / "cgroup.controllers").exists() else [path for path in root.iterdir() if path.is_dir()]
    return [path / "docker" for path in found if (path / "docker").is_dir()]


def _cgroups(world: World) -> Iterator[str]:
    alive = _alive(world)
    known = {stream.partition(":")[2] for stream in world.states if stream.startswith("container:")}
    for hierarchy in _hierarchies():
        for name in known.intersection(os.listdir(hierarchy)) - alive.keys():
            yield f"cgroup {hierarchy}/{name} is of a container that does not run"


def _mounts(engine: Engine, world: World) -> Iterator[str]:
    """Volumes may be mounted while a container that lives has them; nothing else may be."""
    used = {point.name for state in _alive(world).values() for point in state.mounts if point.type == "volume"}
    allowed = {f"{engine.data_root}/volumes/{name}/_data" for name in used}
    pids = {os.getpid(), *engine.supervisors()}
    if engine.process is not None:
        pids.add(engine.process.pid)
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
                place = line.split()[4]
                if place.startswith(str(engine.root)) and place not in allowed:
                    yield f"{place} is mounted in the mount namespace of process {pid}"


def _links(engine: Engine, world: World, pool: int) -> Iterator[str]:
    listed = json.loads(engine.in_namespace("ip", "-j", "-d", "link").stdout)
    networks = [s for s in world.living("network") if s.settings.driver == "bridge" and s.status is NetworkStatus.READY]
    bridges = {_bridge(state) for state in networks}
    veths = {f"veth{endpoint.endpoint_id[:7]}" for state in _alive(world).values() for endpoint in state.endpoints}
    names = {link["ifname"] for link in listed}
    spare = [name for name in names if name.startswith("ishmael")]
    if len(spare) > pool:
        yield f"{len(spare)} unused veths: {spare}"
    yield from (f"link {name} is nobody's" for name in sorted(names - bridges - veths - set(spare) - {"lo"}))
    yield from (f"link {name} is missing" for name in sorted((bridges | veths) - names))


def _bridge(state: Any) -> str:
    return state.settings.options.get("com.docker.network.bridge.name") or f"br-{state.network_id[:12]}"


def _firewall(engine: Engine, world: World) -> Iterator[str]:
    listed = json.loads(engine.in_namespace("nft", "-j", "list", "table", "ip", "ishmael").stdout)["nftables"]
    kinds = ("set", "map")
    sets = {each[kind]["name"]: each[kind].get("elem", []) for each in listed for kind in kinds if kind in each}
    ports = {
        (p.protocol, p.host_port, p.host_ip)
        for state in _alive(world).values() for p in state.ports if ":" not in p.host_ip
    }  # fmt: skip
    published = {(e[0]["concat"][0], e[0]["concat"][1], "0.0.0.0") for e in sets.get("published_any", ())}
    published |= {(e[0]["concat"][1], e[0]["concat"][2], e[0]["concat"][0]) for e in sets.get("published_at", ())}
    yield from (f"published port {port} is nobody's" for port in sorted(published - ports))
    if ports - published:
        # Ports go with the network that carried them, when a container leaves it.
        moved = _disconnected(engine)
        for state in _alive(world).values():
            for port in state.ports:
                if (
                    port.protocol,
                    port.host_port,
                    port.host_ip,
                ) in ports - published and state.container_id not in moved:
                    yield f"published port {port} of {state.name} is missing"
    networks = [s for s in world.living("network") if s.settings.driver == "bridge" and s.status is NetworkStatus.READY]
    wanted = {_bridge(state) for state in networks}
    have = set(sets.get("bridges", ()))
    yield from (f"bridge {name} of the firewall is nobody's" for name in sorted(have - wanted))
    yield from (f"bridge {name} is not in the firewall" for name in sorted(wanted - have))


def _disconnected(engine: Engine) -> set[str]:
    """Containers that left a network since their last start."""
    found: set[str] = set()
    for recorded in events_of(engine):
        if isinstance(recorded.event, events.ContainerDisconnected):
            found.add(recorded.key)
        elif isinstance(recorded.event, events.ContainerStarted):
            found.discard(recorded.key)
    return found


# -- the log against itself --------------------------------------------------------------------------------------------


def ledgers(world: World) -> Iterator[str]:
    alive = _alive(world)
    existing = {state.container_id for state in containers_of(world)}
    for network in world.living("network"):
        for container_id in network.endpoints.keys() - alive.keys():
            yield f"an address on {network.settings.name} is held by {container_id[:12]}, which does not run"
    ports = world.states.get("ports:host")
    if ports is not None:
        yield from (f"ports are held by {each[:12]}, which does not run" for each in ports.held.keys() - alive.keys())
    for volume in world.living("volume"):
        for container_id in volume.references - existing:
            yield f"volume {volume.name} is referenced by {container_id[:12]}, which is gone"
    owners = existing | {s.network_id for s in world.living("network") if s.status is not NetworkStatus.FAILED}
    owners |= {state.image_id for state in world.living("image")}
    for stream, state in world.states.items():
        if stream.startswith("name:") and state.owner and state.owner not in owners:
            yield f"{stream} is owned by {state.owner[:12]}, which is gone"


# -- disk --------------------------------------------------------------------------------------------------------------


def _names(path: Path) -> set[str]:
    try:
        return set(os.listdir(path))
    except FileNotFoundError:
        return set()


def hexadecimal(digests: Iterable[str]) -> set[str]:
    return {each.partition(":")[2] for each in digests}


def _disk(engine: Engine, world: World) -> Iterator[str]:
    root = engine.data_root
    existing = {state.container_id for state in containers_of(world)}
    yield from _strange("read-write layer", _names(root / "rootfs") - existing)
    yield from _strange("container folder", _names(root / "containers") - existing)
    layers = {chain for state in containers_of(world) for chain in state.layers}
    blobs: set[str] = set()
    for image in world.living("image"):
        layers.update(image.chain)
        blobs.update(image.blobs)
    leased = {each for state in world.living("transfer") for each in (*state.blobs, *state.layers)}
    have, wanted, spared = _names(root / "layers") - {"init"}, hexadecimal(layers), hexadecimal(leased)
    yield from _strange("layer", have - wanted - spared)
    yield from (f"layer {name} is missing" for name in sorted(wanted - have))
    have, wanted = _names(root / "content" / "sha256"), hexadecimal(blobs)
    yield from _strange("blob", have - wanted - spared)
    yield from (f"blob {name} is missing" for name in sorted(wanted - have))
    yield from _strange("part of a blob", _names(root / "content" / "partial") - spared)
    yield from _strange("volume", _names(root / "volumes") - {state.name for state in world.living("volume")})
    yield from _strange("temporary", _names(root / "tmp"))
    yield from _strange("tree that was not moved", (path.name for path in (root / "grounds").glob("*/*")))
    yield from _strange("piece of trash", _names(root / "trash"))
    yield from _strange("journalled exit", _names(root / "supervisor" / "exits"))


def _exec_root(engine: Engine, world: World) -> Iterator[str]:
    yield from _strange("claim of a cgroup", _names(engine.exec_root / "groups") - _alive(world).keys())
    yield from _strange("file in the mount point", _names(engine.exec_root / "rootfs"))


def _strange(what: str, names: Iterable[str]) -> Iterator[str]:
    return (f"{what} {name} is nobody's" for name in sorted(names))


# -- descriptors -------------------------------------------------------------------------------------------------------


def _descriptors(engine: Engine, world: World) -> Iterator[str]:
    """Pipes in supervisor and copier go with their processes; so do network namespaces in the engine."""
    alive = len(_alive(world)) + sum(state.status is ExecStatus.RUNNING for state in world.living("exec"))
    for pid in engine.supervisors():
        pipes = sum(link.startswith("pipe:") for link in _open_files(pid))
        if pipes > 4 * alive + 12:
            yield f"process {pid} of the supervisor holds {pipes} pipes for {alive} processes"
    if engine.process is not None:
        namespaces = {link for link in _open_files(engine.process.pid) if link.startswith("net:")}
        of_containers = set()
        for state in _alive(world).values():
            with contextlib.suppress(OSError):
                of_containers.add(os.readlink(f"/proc/{state.pid}/ns/net"))
        if len(namespaces - of_containers) > POOL_MAX + 1:
            yield f"the engine holds {len(namespaces - of_containers)} network namespaces that no container is in"


def _open_files(pid: int) -> list[str]:
    found = []
    with contextlib.suppress(OSError):
        for entry in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                found.append(os.readlink(f"/proc/{pid}/fd/{entry}"))
    return found


TRASH = "piece of trash"
"""How a finding begins of what is swept every few seconds."""


def settled_without_leaks(engine: Engine, timeout_s: float = 30.0, *, besides: str = "") -> World:
    """Wait until every intent has its outcome and nothing is left over; the world then. Fails with what is wrong.
    besides: the beginning of findings that do not count."""
    deadline = time.monotonic() + timeout_s
    while True:
        world = world_of(engine)
        wrong = unsettled(world) + overdue(world, time.time_ns())
        wrong += [leak for leak in leaks(engine, world) if not besides or besides not in leak]
        # What looked wrong may have been on its way: only a log that stands still is believed.
        if not wrong or (world_of(engine).position == world.position and time.monotonic() > deadline):
            break
        assert time.monotonic() < deadline + 30, f"it never settles: {wrong}"
        time.sleep(0.2)
    assert not wrong, "\n".join(wrong)
    return world
