"""Recorded events in the words of Docker's `/events`.

Owns: which event becomes which message, and what a message tells of its subject (name, image, labels), which later
events no longer carry. Refuses to know: where messages are kept, who reads them, API versions.

One recorded event becomes no message, or several in a fixed order: the order Docker's clients rely on (EVT-05) is kept
by construction. What only looks (attach, top, export) is an event of its own, `container.noted`
(docs/design/api.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
from msgspec.structs import replace

from engine.aggregates import daemon, drift, image, network, prune, transfer, volume
from engine.aggregates import exec as exec_
from engine.aggregates.container import events as container
from engine.aggregates.decider import Event, Recorded, Rejected
from engine.aggregates.values import reference

MESSAGES_PER_EVENT_MAX = 1024
"""A cursor is position x this + place within the event."""

TOLD_KINDS = frozenset({"container", "daemon", "drift", "exec", "image", "network", "prune", "transfer", "volume"})
"""Aggregates whose events can become messages."""

Attributes = Mapping[str, str]


class FeedMessage(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One message of `/events`. cursor: its place in the feed, growing; time in UTC ns."""

    cursor: int
    time_ns: int
    type: str
    action: str
    actor_id: str
    attributes: Mapping[str, str]


class ContainerSubject(msgspec.Struct, frozen=True, kw_only=True):
    """What messages tell of a container. networks: ids of those it is joined to now; volumes: (name, driver,
    destination, rw)."""

    name: str
    image: str
    labels: Mapping[str, str]
    networks: tuple[str, ...] = ()
    volumes: tuple[tuple[str, str, str, bool], ...] = ()
    started_at: int = 0
    health: str = ""
    restarting: bool = False
    ran_out_of_memory: bool = False

    def attributes(self, **more: str) -> dict[str, str]:
        image = {"image": self.image} if self.image else {}
        return {**self.labels, **image, "name": self.name, **more}


class Subjects(msgspec.Struct, kw_only=True):
    """Everything later events refer to, by key."""

    containers: dict[str, ContainerSubject] = {}
    networks: dict[str, tuple[str, str]] = {}
    volumes: dict[str, str] = {}
    images: dict[str, Mapping[str, str]] = {}
    execs: dict[str, tuple[str, str]] = {}
    transfers: dict[str, tuple[str, str, str]] = {}


class Narrator:
    """Folds events into `subjects` and tells messages: `tell` once per event, in order."""

    def __init__(self) -> None:
        self.subjects = Subjects()

    def tell(self, recorded: Recorded) -> list[FeedMessage]:
        teller = TELLERS.get(type(recorded.event))
        if teller is None:
            return []
        first, time_ns = recorded.position * MESSAGES_PER_EVENT_MAX, recorded.time_ns
        return [
            FeedMessage(
                cursor=first + place, time_ns=time_ns, type=kind, action=action, actor_id=actor, attributes=attributes
            )
            for place, (kind, action, actor, attributes) in enumerate(teller(self, recorded.key, recorded))
        ]

    # -- containers ----------------------------------------------------------------------------------------------------

    def _container(self, key: str, recorded: Recorded) -> list[Told]:
        event = recorded.event
        if isinstance(event, container.ContainerCreated):
            subject = self.subjects.containers[key] = _subject(event)
            return [("container", "create", key, subject.attributes())]
        before = self.subjects.containers.get(key)
        if before is None:
            return []
        subject, told = self._change(key, before, recorded)
        self.subjects.containers[key] = subject
        if isinstance(event, container.ContainerRemoved):
            del self.subjects.containers[key]
        return told

    def _change(self, key: str, was: ContainerSubject, recorded: Recorded) -> tuple[ContainerSubject, list[Told]]:
        match recorded.event:
            case container.ContainerStarted() as event:
                return self._started(key, was, event)
            case container.ContainerExited() as event:
                return self._exited(key, was, event)
            case container.ContainerStartRequested(restart=restart):
                return replace(was, restarting=True) if restart else was, []
            case container.ContainerOutOfMemory():
                return replace(was, ran_out_of_memory=True), [("container", "oom", key, was.attributes())]
            case container.ContainerConnected(endpoint=endpoint) if endpoint is not None:
                joined = replace(was, networks=(*was.networks, endpoint.network_id))
                return joined, [self._link("connect", endpoint.network_id, key)]
            case container.ContainerDisconnected(network_id=network_id):
                left = replace(was, networks=tuple(other for other in was.networks if other != network_id))
                return left, [self._link("disconnect", network_id, key)]
            case container.ContainerRenamed() as event:
                named = replace(was, name=event.name.removeprefix("/"))
                old = "/" + event.old_name.removeprefix("/")
                return named, [("container", "rename", key, named.attributes(oldName=old))]
            case container.ContainerCommitted() as event:
                more = {"comment": event.comment, "imageID": event.image_id, "imageRef": _familiar(event.reference)}
                return was, [("container", "commit", key, was.attributes(**more))]
            case container.ContainerNoted() as event:
                return was, [("container", event.action, key, was.attributes(**event.attributes))]
            case container.ContainerHealthReported() as event:
                status = event.status.value
                told: list[Told] = []
                if status not in (was.health, "starting", "none"):
                    told.append(("container", f"health_status: {status}", key, was.attributes()))
                return replace(was, health=status), told
            case container.ContainerStartFailed():
                return replace(was, restarting=False), []
            case container.ContainerStopped() as event:
                return replace(was, restarting=event.restart), [("container", "stop", key, was.attributes())]
            case container.ContainerStopRequested(signal=signal) | container.ContainerKillRequested(signal=signal):
                return was, [("container", "kill", key, was.attributes(signal=str(signal)))]
            case event:
                action = _PLAIN_ACTIONS.get(type(event))
                return was, [("container", action, key, was.attributes())] if action else []

    def _started(
        self, key: str, was: ContainerSubject, event: container.ContainerStarted
    ) -> tuple[ContainerSubject, list[Told]]:
        networks = tuple(endpoint.network_id for endpoint in event.endpoints)
        now = replace(was, networks=networks, started_at=event.at, health="", restarting=False, ran_out_of_memory=False)
        told = [_mount(key, *entry) for entry in was.volumes]
        told += [self._link("connect", network_id, key) for network_id in networks]
        told.append(("container", "start", key, now.attributes()))
        if was.restarting:
            told.append(("container", "restart", key, now.attributes()))
        return now, told

    def _exited(
        self, key: str, was: ContainerSubject, event: container.ContainerExited
    ) -> tuple[ContainerSubject, list[Told]]:
        duration_s = max(event.at - was.started_at, 0) // 1_000_000_000 if was.started_at else 0
        ending = was.attributes(exitCode=str(event.exit_code), execDuration=str(duration_s))
        unseen = event.oom_killed and not was.ran_out_of_memory
        told: list[Told] = [("container", "oom", key, was.attributes())] if unseen else []
        told.append(("container", "die", key, ending))
        told += [self._link("disconnect", network_id, key) for network_id in was.networks]
        told += [
            ("volume", "unmount", name, {"container": key, "driver": driver}) for name, driver, _, _ in was.volumes
        ]
        return replace(was, networks=()), told

    def _link(self, action: str, network_id: str, container_id: str) -> Told:
        name, driver = self.subjects.networks.get(network_id, ("", ""))
        return ("network", action, network_id, {"container": container_id, "name": name, "type": driver})

    # -- everything else -----------------------------------------------------------------------------------------------

    def _exec(self, key: str, recorded: Recorded) -> list[Told]:
        event = recorded.event
        if isinstance(event, exec_.ExecCreated):
            self.subjects.execs[key] = (event.container_id, event.entrypoint)
        container_id, program = self.subjects.execs.get(key, ("", ""))
        subject = self.subjects.containers.get(container_id)
        if isinstance(event, exec_.ExecRemoved):
            self.subjects.execs.pop(key, None)
        if subject is None:
            return []
        match event:
            case exec_.ExecCreated():
                return [("container", f"exec_create: {program}", container_id, subject.attributes(execID=key))]
            case exec_.ExecStarted():
                return [("container", f"exec_start: {program}", container_id, subject.attributes(execID=key))]
            case exec_.ExecExited(exit_code=code):
                attributes = subject.attributes(execID=key, exitCode=str(code))
                return [("container", "exec_die", container_id, attributes)]
            case _:
                return []

    def _image(self, key: str, recorded: Recorded) -> list[Told]:
        match recorded.event:
            case image.ImageAdded(labels=labels):
                self.subjects.images[key] = labels
                return [("image", "create", key, {**labels, "name": key})]
            case image.ImageTagged(reference=name):
                if self._brought(recorded):
                    return []  # pull and load tag by nature: theirs is the message of the whole transfer
                return [("image", "tag", key, {**self.subjects.images.get(key, {}), "name": _familiar(name)})]
            case image.ImageUntagged():
                return [("image", "untag", key, {**self.subjects.images.get(key, {}), "name": key})]
            case image.ImageNoted(action=action):
                return [("image", action, key, {**self.subjects.images.get(key, {}), "name": key})]
            case image.ImageRemoved():
                self.subjects.images.pop(key, None)
                return [("image", "delete", key, {"name": key})]
            case _:
                return []

    def _brought(self, recorded: Recorded) -> bool:
        correlation = recorded.cause.correlation
        return any(correlation == other for _, _, other in self.subjects.transfers.values())

    def _transfer(self, key: str, recorded: Recorded) -> list[Told]:
        event = recorded.event
        if isinstance(event, transfer.TransferBegun):
            self.subjects.transfers[key] = (event.kind, event.reference, recorded.cause.correlation)
            return []
        if not isinstance(event, transfer.TransferDone | transfer.TransferFailed | transfer.TransferInterrupted):
            return []  # what it has leased meanwhile
        kind, name, _ = self.subjects.transfers.pop(key, ("", "", ""))
        if not isinstance(event, transfer.TransferDone):
            return []
        if kind in ("pull", "push"):
            labels = self.subjects.images.get(event.images[0], {}) if event.images else {}
            return [("image", kind, _familiar(name), {**labels, "name": _familiar_name(name)})]
        return [
            ("image", kind, image_id, {**self.subjects.images.get(image_id, {}), "name": _familiar(name) or image_id})
            for image_id in event.images
        ]

    def _network(self, key: str, recorded: Recorded) -> list[Told]:
        match recorded.event:
            case network.NetworkCreateRequested(settings=settings, predefined=predefined):
                self.subjects.networks[key] = (settings.name, settings.driver)
                # The predefined networks are made by the engine itself at its first start; dockerd tells nobody either.
                return [] if predefined else [("network", "create", key, self._network_attributes(key))]
            case network.NetworkRemoved():
                attributes = self._network_attributes(key)
                self.subjects.networks.pop(key, None)
                return [("network", "destroy", key, attributes)]
            case _:
                return []

    def _network_attributes(self, key: str) -> dict[str, str]:
        name, driver = self.subjects.networks.get(key, ("", ""))
        return {"name": name, "type": driver}

    def _volume(self, key: str, recorded: Recorded) -> list[Told]:
        match recorded.event:
            case volume.VolumeCreated(driver=driver):
                self.subjects.volumes[key] = driver
                return [("volume", "create", key, {"driver": driver})]
            case volume.VolumeRemoved():
                return [("volume", "destroy", key, {"driver": self.subjects.volumes.pop(key, "local")})]
            case _:
                return []

    def _daemon(self, key: str, recorded: Recorded) -> list[Told]:
        assert isinstance(recorded.event, daemon.DaemonReloaded), "nothing else is told of the engine"
        return [("daemon", "reload", key, recorded.event.attributes)]

    def _drift(self, _key: str, recorded: Recorded) -> list[Told]:
        """Not Docker's: what was mended, and what could not be."""
        event = recorded.event
        assert isinstance(event, drift.DriftMended | drift.DriftLeft), "nothing else is told of drift"
        attributes = {"kind": event.difference.kind, "deviation": event.difference.deviation.value}
        error = event.error if isinstance(event, drift.DriftLeft) else ""
        told = {**attributes, "subject": event.difference.subject, "owner": event.difference.owner, "error": error}
        return [("daemon", "drift", "", told)]

    def _prune(self, key: str, recorded: Recorded) -> list[Told]:
        assert isinstance(recorded.event, prune.Pruned), "prunes have one event"
        return [(key, "prune", "", {"reclaimed": str(recorded.event.reclaimed_bytes)})]


Told = tuple[str, str, str, Mapping[str, str]]
"""Type, action, actor's id, attributes."""

_PLAIN_ACTIONS: Mapping[type[Event], str] = {
    container.ContainerPaused: "pause",
    container.ContainerUnpaused: "unpause",
    container.ContainerUpdated: "update",
    container.ContainerRemoved: "destroy",
}


Teller = Callable[[Narrator, str, Recorded], list[Told]]

TELLERS: Mapping[type[Event], Teller] = {
    **dict.fromkeys(
        (
            container.ContainerCreated,
            container.ContainerStartRequested,
            container.ContainerStarted,
            container.ContainerStartFailed,
            container.ContainerStopRequested,
            container.ContainerKillRequested,
            container.ContainerOutOfMemory,
            container.ContainerExited,
            container.ContainerStopped,
            container.ContainerHealthReported,
            container.ContainerCommitted,
            container.ContainerNoted,
            container.ContainerRenamed,
            container.ContainerConnected,
            container.ContainerDisconnected,
            *_PLAIN_ACTIONS,
        ),
        Narrator._container,
    ),
    **dict.fromkeys((exec_.ExecCreated, exec_.ExecStarted, exec_.ExecExited, exec_.ExecRemoved), Narrator._exec),
    **dict.fromkeys(
        (image.ImageAdded, image.ImageTagged, image.ImageUntagged, image.ImageNoted, image.ImageRemoved),
        Narrator._image,
    ),
    **dict.fromkeys((network.NetworkCreateRequested, network.NetworkRemoved), Narrator._network),
    **dict.fromkeys((volume.VolumeCreated, volume.VolumeRemoved), Narrator._volume),
    **dict.fromkeys(
        (transfer.TransferBegun, transfer.TransferDone, transfer.TransferFailed, transfer.TransferInterrupted),
        Narrator._transfer,
    ),
    daemon.DaemonReloaded: Narrator._daemon,
    drift.DriftMended: Narrator._drift,
    drift.DriftLeft: Narrator._drift,
    prune.Pruned: Narrator._prune,
}
"""Of the events that become messages, or change what messages say."""


def _subject(event: container.ContainerCreated) -> ContainerSubject:
    return ContainerSubject(
        name=event.name.removeprefix("/"),
        image=event.config.image,
        labels=event.config.labels or {},
        volumes=tuple(
            (mount.name, mount.driver or "local", mount.destination, mount.rw)
            for mount in event.mounts
            if mount.type == "volume"
        ),
    )


def _mount(container_id: str, name: str, driver: str, destination: str, rw: bool) -> Told:
    attributes = {
        "container": container_id,
        "destination": destination,
        "driver": driver,
        "propagation": "",
        "read/write": "true" if rw else "false",
    }
    return ("volume", "mount", name, attributes)


def _familiar(text: str) -> str:
    try:
        return reference.parse(text).familiar
    except Rejected:
        return text


def _familiar_name(text: str) -> str:
    try:
        return reference.parse(text).familiar_name
    except Rejected:
        return text
