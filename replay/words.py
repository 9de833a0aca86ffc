"""Events and actors as sentences.

Owns: the wording. An event without a sentence of its own is told by its stored name and what it says, so that a new
one is never silent.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterable

from engine.aggregates import content, image, names, network, ports, transfer, volume
from engine.aggregates import exec as x
from engine.aggregates.container import events as c
from engine.aggregates.decider import Event, Recorded
from engine.aggregates.values.endpoints import Endpoint, PublishedPort
from engine.aggregates.values.ids import short
from replay.plain import clock_time, human_duration, payload
from replay.reader import name_of
from replay.world import familiar

_PEER = re.compile(
    r"uid=(?P<uid>\d+)(?: gid=\d+)?(?: pid=(?P<pid>\d+))?(?: user=(?P<user>\S+))?"
    r"(?: login=(?P<login>\S+))?(?: exe=(?P<exe>\S+))?"
)
VALUE_LENGTH_MAX = 60


def actor(text: str) -> str:
    """`uid 0 (root), logged in as carol, by /usr/bin/docker (pid 412)`; `the lifecycle reactor`; `TLS client carol`."""
    peer = _PEER.fullmatch(text)
    if peer is not None:
        name = f" ({peer['user']})" if peer["user"] else ""
        login = f", logged in as {peer['login']}" if peer["login"] else ""
        program = f", by {peer['exe']}" if peer["exe"] else ""
        process = f" (pid {peer['pid']})" if peer["pid"] else ""
        return f"uid {peer['uid']}{name}{login}{program}{process}"
    kind, _, rest = text.partition(":")
    if kind == "reactor":
        return f"the {rest} reactor"
    if kind == "tls":
        return f"TLS client {rest}"
    return text


def sentence(recorded: Recorded) -> str:
    """What happened, without who and when; the subject is the stream, which the reader sees beside it."""
    event = recorded.event
    return _of_container(event) or _of_others(event) or _of_any(event)


def _of_container(event: Event) -> str:
    match event:
        case c.ContainerCreated():
            return f"created as {event.name!r} from {event.config.image or short(event.image_id)}"
        case c.ContainerStartRequested():
            return f"asked to start (run {event.run})"
        case c.ContainerStarted():
            begun = f"started with pid {event.pid}" if event.pid else "started"
            return ", ".join((begun, *map(_joined, event.endpoints), *_once(_published, event.ports)))
        case c.ContainerStartFailed():
            return f"failed to start with {event.exit_code}: {event.error}"
        case c.ContainerStopRequested():
            verb = "restart" if event.restart else "stop"
            wait = f", SIGKILL {clock_time(event.deadline)}" if event.deadline else ", without a deadline"
            return f"asked to {verb} with {signal_name(event.signal)}{wait}"
        case c.ContainerKillRequested():
            return f"sent {signal_name(event.signal)}"
        case c.ContainerExited():
            how = ", lost while nobody looked" if event.lost else ", out of memory" if event.oom_killed else ""
            return f"exited with {exit_words(event.exit_code)}{how}"
        case c.ContainerStopped():
            return "stopped, as asked" + (", to start again" if event.restart else "")
        case c.ContainerRestartScheduled():
            delay = human_duration(event.delay_ms * 1_000_000).lower()
            return f"to be started again by its policy in {delay} (restart {event.restart_count})"
        case c.ContainerHealthReported():
            return f"found {event.status.value} (probe exit {event.last.exit_code}, streak {event.failing_streak})"
        case c.ContainerRenamed():
            return f"renamed from {event.old_name!r} to {event.name!r}"
        case c.ContainerUnlinked():
            return f"no longer linked as {event.alias!r}"
        case c.ContainerConnected():
            return f"connected to network {event.attachment.network_id[:12]}"
        case c.ContainerRemoveRequested():
            how = "by --rm" if event.auto else "by force" if event.force else ""
            return f"asked to be removed {how}".rstrip()
        case c.ContainerRemoved():
            return "removed"
        case _:
            return ""


def _of_others(event: Event) -> str:
    match event:
        case x.ExecCreated():
            return f"made for {event.entrypoint!r} in container {short(event.container_id)}"
        case x.ExecStarted():
            return f"started with pid {event.pid}"
        case x.ExecExited():
            return f"ended with {exit_words(event.exit_code)}" + (f": {event.error}" if event.error else "")
        case image.ImageAdded():
            return f"added{f' by {event.origin}' if event.origin else ''}, layers: {len(event.layers)}"
        case image.ImageTagged():
            return f"tagged {familiar(event.reference)}"
        case image.ImageUntagged():
            return f"untagged {familiar(event.reference)}"
        case image.ImageRemoved():
            return f"removed, and with it {len(event.layers)} layers and {len(event.blobs)} blobs"
        case content.ContentDiscarded():
            return f"{len(event.blobs)} blobs and {len(event.layers)} layers discarded; {event.why}"
        case names.NameReserved():
            return f"given to {short(event.owner)}"
        case names.NameReleased():
            return "free again"
        case network.NetworkCreateRequested():
            subnets = ", ".join(pool.subnet for pool in event.settings.pools)
            return f"asked for, driver {event.settings.driver}{', subnet ' * bool(subnets)}{subnets}"
        case network.EndpointAllocated():
            return f"address {_address(event.endpoint)} given to container {short(event.endpoint.container_id)}"
        case network.EndpointReleased():
            return f"address of container {short(event.container_id)} free again"
        case ports.PortsReserved():
            return f"reserved for container {short(event.container_id)}: {', '.join(_once(_port, event.ports))}"
        case ports.PortsReleased():
            return f"those of container {short(event.container_id)} free again"
        case transfer.TransferBegun():
            return f"{event.kind} begun{f' of {event.reference}' if event.reference else ''}"
        case transfer.TransferFailed():
            return f"failed: {event.error}"
        case transfer.ContentLeased():
            return f"leased {len(event.blobs)} blobs and {len(event.layers)} layers"
        case transfer.TransferInterrupted():
            return f"interrupted: {event.error}; what it has leased is kept until {clock_time(event.kept_until)}"
        case transfer.LeaseReleased():
            return f"lease released: {event.reason}"
        case volume.VolumeCreated():
            return "made" + (", without a name of its own" if event.anonymous else "")
        case volume.VolumeReferenced():
            return f"used by container {short(event.container_id)}"
        case volume.VolumeReleased():
            return f"no longer used by container {short(event.container_id)}"
        case _:
            return ""


def _of_any(event: Event) -> str:
    verb = name_of(event).partition(".")[2]
    said = ", ".join(f"{key} {_brief(value)}" for key, value in payload(event).items() if key != "at")
    return verb.replace("_", " ") + (f": {said}" if said else "")


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= VALUE_LENGTH_MAX else f"{text[: VALUE_LENGTH_MAX - 1]}…"


def signal_name(number: int) -> str:
    """`SIGTERM` of 15; the number itself where it has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def exit_words(code: int) -> str:
    """`0`; `137, SIGKILL`; `127, command not found`."""
    meanings = {125: "the engine failed", 126: "not executable", 127: "command not found"}
    meaning = meanings.get(code) or (signal_name(code - 128) if 128 < code < 128 + 65 else "")
    return f"{code}, {meaning}" if meaning else str(code)


def _joined(endpoint: Endpoint) -> str:
    return f"address {_address(endpoint)}"


def _address(endpoint: Endpoint) -> str:
    return " ".join(filter(None, (endpoint.ipv4_address, endpoint.ipv6_address))) or "(none)"


def _once(told: Callable[[PublishedPort], str], ports: Iterable[PublishedPort]) -> Iterable[str]:
    """A port of the host's two families is told once."""
    return dict.fromkeys(map(told, ports))


def _published(port: PublishedPort) -> str:
    return f"port {_port(port)}"


def _port(port: PublishedPort) -> str:
    return f"{port.host_port} to {port.container_port}/{port.protocol}"
