"""What an engine is given when it is put together: a driver for each port, and what is known of its host.

Owns the names only. Which drivers these are is bootstrap.py's to know, or a simulation's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
import trio

from engine.aggregates.container.rules import RuleFacts
from engine.aggregates.values.platform import Platform
from engine.config import DaemonConfig
from engine.drivers.ports.drift import Inspector
from engine.drivers.ports.host import Host, ProcessTable
from engine.drivers.ports.identities import HostDevices, Identities
from engine.drivers.ports.logs import Logs
from engine.drivers.ports.network import Networks, Resolver, Sandboxes
from engine.drivers.ports.registry import Registry
from engine.drivers.ports.runtime import Meter, Runtime, Streams
from engine.drivers.ports.storage import (
    BlobStore,
    ContainerFolders,
    Files,
    ImageArchives,
    LayerStore,
    RootFilesystems,
)
from engine.drivers.ports.volume import HostPaths, Volumes
from engine.oci.spec import HostTraits
from engine.transactions import EphemeralRange


class Drivers(msgspec.Struct, frozen=True, kw_only=True):
    """One driver for each port, by the names that routes know.

    begin: starts what the drivers run for as long as the engine does, in its nursery; returns when they can be asked.
    let_go: attached clients stay with their containers when the engine ends."""

    host: Host
    runtime: Runtime
    streams: Streams
    meter: Meter
    identities: Identities
    devices: HostDevices
    blobs: BlobStore
    layers: LayerStore
    archives: ImageArchives
    rootfs: RootFilesystems
    files: Files
    folders: ContainerFolders
    volumes: Volumes
    host_paths: HostPaths
    networks: Networks
    sandboxes: Sandboxes
    resolver: Resolver
    logs: Logs
    inspectors: tuple[Inspector, ...]
    """Of networks and mounts."""
    process_table: ProcessTable
    registry: Registry
    begin: Callable[[trio.Nursery], Awaitable[None]]
    let_go: Callable[[], None]
    configure: Callable[[DaemonConfig], None]
    """Take up a configuration that was reloaded."""


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine takes from its host once, when it starts.

    traits: what shapes every process. rules: what configurations are judged by. platform: what images are made for.
    ephemeral: ports to choose from. resolv_conf: the text of the host's file. link_variables: whether legacy links
    tell the environment of the linked containers."""

    traits: HostTraits
    rules: RuleFacts
    platform: Platform
    ephemeral: EphemeralRange
    resolv_conf: str
    link_variables: bool = True
