"""The composition root: the only place that names concrete drivers, and the order in which an engine comes to life.

Owns: making everything, starting it from the log outwards, and stopping it the other way round. A start is always a
recovery: the log is opened, projections are brought to its head, ports are asked what exists, differences are settled;
only then does the API listen.
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec
import trio

from engine import notify
from engine.aggregates.catalog import ALL_DECIDERS
from engine.aggregates.container.rules import RuleFacts
from engine.aggregates.values.etc_files import ALTERNATE_RESOLV_CONF, HOST_RESOLV_CONF, parse_resolv_conf
from engine.aggregates.values.platform import Platform
from engine.api.app import EngineApp, create_app
from engine.api.context import ApiContext
from engine.api.routes import (
    container_files,
    container_logs,
    container_streams,
    containers,
    disk_usage,
    execs,
    images,
    networks,
    registry,
    volumes,
)
from engine.api.serving import serve_api
from engine.application import Application
from engine.clock import SystemClock
from engine.config import ConfigError, DaemonConfig
from engine.drivers.linux.devices import LinuxHostDevices
from engine.drivers.linux.host import LinuxHost
from engine.drivers.linux.inotify import watches
from engine.drivers.linux.logs.json_file import JsonFileLogs
from engine.drivers.linux.network.driver import LinuxNetworking
from engine.drivers.linux.network.state import NetworkingOptions
from engine.drivers.linux.process_table import ProcessTable
from engine.drivers.linux.runtime.driver import LinuxRuntime
from engine.drivers.linux.runtime.meter import LinuxMeter
from engine.drivers.linux.runtime.users import LinuxIdentities
from engine.drivers.linux.storage.folders import LinuxContainerFolders
from engine.drivers.linux.storage.store import LinuxStorage
from engine.drivers.linux.volume.host_paths import LinuxHostPaths
from engine.drivers.linux.volume.local import LocalVolumes
from engine.drivers.registry.client import RegistryClient
from engine.drivers.registry.policy import RegistryPolicy
from engine.entropy import SystemEntropy
from engine.listeners import close_listeners, open_listeners
from engine.oci import seccomp
from engine.oci.spec import HostTraits
from engine.projections.containers import Containers
from engine.projections.events_feed import EventsFeed
from engine.projections.execs import Execs
from engine.projections.feed_store import FeedStore
from engine.projections.images import Images
from engine.projections.networks import Networks
from engine.projections.views import Views
from engine.projections.volumes import Volumes
from engine.reactors.base import Hands
from engine.reactors.defaults import ensure_default_networks
from engine.reactors.execs import ExecReactor
from engine.reactors.health import HealthReactor
from engine.reactors.images.service import Images as ImageService
from engine.reactors.keys import KeyReactor
from engine.reactors.lifecycle.ends import Ends
from engine.reactors.lifecycle.etc import EtcFiles
from engine.reactors.lifecycle.freezes import Freezes
from engine.reactors.lifecycle.links import Links
from engine.reactors.lifecycle.names import Names
from engine.reactors.lifecycle.reactor import Lifecycle
from engine.reactors.lifecycle.removes import Removes
from engine.reactors.lifecycle.starts import Starts
from engine.reactors.networks import NetworkReactor
from engine.reactors.processes import Processes
from engine.reactors.reconcile import Reconcile
from engine.reactors.shutdown import stop_containers
from engine.reactors.volumes import VolumeReactor
from engine.transactions import EphemeralRange
from engine.vault import Vault

logger = logging.getLogger("ishmael")
DIRECTORY_MODE = 0o710
GRACE_S = 1.0
"""What running requests get when the engine stops: streams that follow would never end by themselves."""
SECCOMP_PROFILE = Path(__file__).parent / "drivers/linux/runtime/data/seccomp-default.json"
INIT_NAMES = ("docker-init", "tini-static", "tini")


class Ports(msgspec.Struct, frozen=True, kw_only=True):
    """The drivers, by the names that routes know."""

    runtime: LinuxRuntime
    streams: LinuxRuntime
    meter: LinuxMeter
    storage: LinuxStorage
    folders: LinuxContainerFolders
    volumes: LocalVolumes
    networking: LinuxNetworking
    logs: JsonFileLogs
    process_table: ProcessTable
    registry: RegistryClient

    @property
    def rootfs(self) -> object:
        return self.storage.rootfs

    @property
    def files(self) -> object:
        return self.storage.files


async def run(config: DaemonConfig) -> None:
    """The whole life of an engine: until SIGTERM or SIGINT. Raises ConfigError when it cannot start."""
    _prepare_process()
    for folder in (config.data_root, config.exec_root):
        os.makedirs(folder, DIRECTORY_MODE, exist_ok=True)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        lock = _lock(config.data_root)
        try:
            async with Engine(config).running() as engine:
                sockets = open_listeners(config.hosts, group=config.group)
                try:
                    async with trio.open_nursery() as nursery:
                        await nursery.start(partial(serve_api, grace_s=GRACE_S), engine.app, sockets)
                        logger.info("API listens on %s", ", ".join(config.hosts))
                        notify.notify(notify.READY)
                        async for number in signals:
                            logger.info("%s: stopping", signal.Signals(number).name)
                            break
                        notify.notify(notify.STOPPING)
                        engine.let_go()
                        nursery.cancel_scope.cancel()
                finally:
                    close_listeners(sockets)
                if not config.live_restore:
                    await stop_containers(engine.hands, config.shutdown_timeout_s)
        finally:
            os.close(lock)


class Engine:
    """Everything but listening. `async with Engine(config).running() as engine:`"""

    app: EngineApp
    hands: Hands
    let_go: Callable[[], None]
    """Attached clients stay with their containers when the API ends."""

    def __init__(self, config: DaemonConfig) -> None:
        self._config = config
        self._clock = SystemClock()
        self._entropy = SystemEntropy()
        self._host = LinuxHost()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Engine]:
        """From the log outwards; left in the opposite order. Containers go on."""
        root = Path(self._config.data_root)
        async with AsyncExitStack() as stack:
            feed = FeedStore(root / "views-events.db")
            await trio.to_thread.run_sync(feed.open)
            stack.callback(feed.close)
            views = Views(
                containers=Containers(),
                images=Images(),
                networks=Networks(),
                volumes=Volumes(),
                execs=Execs(),
                events=EventsFeed(feed),
            )
            vault = await stack.enter_async_context(Vault(root / "keys.db", self._entropy).running())
            application = await stack.enter_async_context(
                Application(root, deciders=ALL_DECIDERS, clock=self._clock, projections=views.all()).running()
            )
            self.hands = Hands(
                application=application, views=views, vault=vault, clock=self._clock, entropy=self._entropy
            )
            watching = await stack.enter_async_context(watches())
            nursery = await stack.enter_async_context(_cancelled_at_exit())
            nursery.start_soon(views.events.keep, name="events feed")
            ports = self._ports(watching)
            self.let_go = ports.runtime.let_go
            await nursery.start(ports.runtime.run)
            await nursery.start(ports.networking.run)
            await ports.storage.layers.repair()
            nursery.start_soon(ports.storage.sweep, name="storage sweeper")
            await self._come_alive(nursery, ports)
            yield self

    def _ports(self, watching: object) -> Ports:
        config = self._config
        runtime = LinuxRuntime(config.exec_root, config.data_root)
        storage = LinuxStorage(config.data_root)
        return Ports(
            runtime=runtime,
            streams=runtime,
            meter=LinuxMeter(runtime, trio.CapacityLimiter(4)),
            storage=storage,
            folders=LinuxContainerFolders(storage.places),
            volumes=LocalVolumes(storage.places, storage.workers),
            networking=LinuxNetworking(
                NetworkingOptions(firewall=config.iptables, forwarding=config.ip_forward, relays=config.userland_proxy)
            ),
            logs=JsonFileLogs(watching, clock=self._clock, limiter=trio.CapacityLimiter(4)),  # type: ignore[arg-type]
            process_table=ProcessTable(),
            registry=RegistryClient(
                RegistryPolicy(mirrors=config.registry_mirrors, insecure=config.insecure_registries)
            ),
        )

    async def _come_alive(self, nursery: trio.Nursery, ports: Ports) -> None:
        """Recovery, defaults, reactors, routes."""
        config, hands = self._config, self.hands
        net = ports.networking
        resolv_conf = _host_resolv_conf()
        upstreams = config.dns or parse_resolv_conf(resolv_conf).nameservers
        names = Names(hands, net.resolver, upstreams)
        etc = EtcFiles(
            ports.folders, hands.views.networks, names, resolv_conf, config.dns, config.dns_search, config.dns_opts
        )
        processes = Processes(hands, LinuxIdentities(trio.CapacityLimiter(4)), LinuxHostDevices(), self._traits())
        ephemeral = _ephemeral_range()
        runtimes = {name: runtime.path for name, runtime in config.runtimes.items()}
        storage = ports.storage
        image_service = ImageService(
            hands,
            ports.registry,
            storage.blobs,
            storage.layers,
            storage.archives,
            host_platform=_platform(self._host.facts().machine),
            config=config,
        )
        reconcile = Reconcile(
            hands,
            ports.runtime,
            net.networks,
            net.sandboxes,
            storage.rootfs,
            storage.layers,
            ports.folders,
            ports.volumes,
            names,
        )
        await reconcile.run()
        await image_service.recover()
        subnets = await net.networks.host_subnets()
        await ensure_default_networks(hands, host_routes=subnets, config=config)
        after = hands.application.position
        await nursery.start(image_service.run, after)
        starts = Starts(
            hands,
            ports.runtime,
            storage.rootfs,
            ports.volumes,
            LinuxHostPaths(),
            net.sandboxes,
            net.resolver,
            names,
            etc,
            processes,
            runtimes,
            ephemeral,
        )
        health = HealthReactor(hands, ports.runtime, ports.streams, processes)
        lifecycle = Lifecycle(
            hands,
            starts,
            Ends(hands, ports.runtime, ports.streams, net.sandboxes, net.resolver, health.ended),
            Freezes(hands, ports.runtime),
            Links(hands, net.sandboxes, names),
            Removes(hands, storage.rootfs, ports.folders),
        )
        await nursery.start(NetworkReactor(hands, net.networks).run, after)
        await nursery.start(VolumeReactor(hands, ports.volumes).run, after)
        for network in ("none", "host", "bridge"):
            await self._network_ready(network)
        nursery.start_soon(names.follow, after, name="names")
        await nursery.start(ExecReactor(hands, ports.runtime, processes).run, after)
        await nursery.start(lifecycle.run, after)
        await nursery.start(health.run, after)
        await nursery.start(KeyReactor(hands).run, after)
        self.app = self._app(ports, image_service, health, ephemeral, subnets)

    async def _network_ready(self, name: str) -> None:
        """The first containers want the default networks; a kernel that refuses one is a reason not to start."""
        network = self.hands.views.networks.named(name)
        assert network is not None, "the default networks are in the log"
        settled = await self.hands.pump.until(f"network:{network.network_id}", lambda state: state.settled)
        if settled.error:
            raise ConfigError(f"failed to create the default network {name}: {settled.error}")

    def _app(
        self,
        ports: Ports,
        image_service: ImageService,
        health: HealthReactor,
        ephemeral: EphemeralRange,
        subnets: tuple[str, ...],
    ) -> EngineApp:
        hands, config = self.hands, self._config
        context = ApiContext(
            application=hands.application,
            pump=hands.pump,
            vault=hands.vault,
            views=hands.views,
            ports=ports,
            config=config,
            clock=hands.clock,
            entropy=hands.entropy,
            host=self._host,
            engine_id=_engine_id(config.data_root, self._entropy),
            images=image_service,
            facts=self._rule_facts(),
            ephemeral=ephemeral,
            recent_health=health.recent,
            host_routes=lambda: subnets,
        )
        app = create_app(context)
        for routes in (
            containers,
            container_streams,
            container_logs,
            container_files,
            execs,
            images,
            networks,
            registry,
            volumes,
            disk_usage,
        ):
            routes.register(app, context)
        return app

    def _rule_facts(self) -> RuleFacts:
        facts = self._host.facts()
        return RuleFacts(
            cpus=frozenset(os.sched_getaffinity(0)),
            runtimes=frozenset({"native", *self._config.runtimes}),
            cgroup_v2=facts.cgroup_version == "2",
        )

    def _traits(self) -> HostTraits:
        config, facts = self._config, self._host.facts()
        major, minor = facts.kernel_version.split(".")[:2]
        profile = None
        if config.seccomp_profile != "unconfined":
            path = SECCOMP_PROFILE if config.seccomp_profile in ("", "builtin") else Path(config.seccomp_profile)
            profile = seccomp.load(path.read_bytes())
        return HostTraits(
            machine=facts.machine,
            kernel=(int(major), int(minor)),
            cgroup_v2=facts.cgroup_version == "2",
            profile=profile,
            no_new_privileges=config.no_new_privileges,
            init=config.init,
            init_path=config.init_path or _init_path(),
            cgroup_parent=config.cgroup_parent,
            ulimits=config.default_ulimits,
        )


@asynccontextmanager
async def _cancelled_at_exit() -> AsyncIterator[trio.Nursery]:
    async with trio.open_nursery() as nursery:
        try:
            yield nursery
        finally:
            nursery.cancel_scope.cancel()


def _prepare_process() -> None:
    """Settings of the process that every part relies on."""
    os.umask(0o022)
    # Shorter turns of the interpreter: a thread that decodes a log must not hold the loop for 5 ms at a time.
    sys.setswitchinterval(0.001)
    # Blocks of 64 KB and more come from the heap and not from mmap: log batches would fault in fresh pages each time.
    ctypes.CDLL(None).mallopt(-3, 1 << 26)


def _lock(data_root: str) -> int:
    """Hold the data root: two engines on one log would both be its only writer. Raises ConfigError."""
    fd = os.open(f"{data_root}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise ConfigError(f"another engine runs on {data_root}") from error
    return fd


def _engine_id(data_root: str, entropy: SystemEntropy) -> str:
    """`Info.ID`: made once, kept in a file (SYS-06)."""
    path = Path(data_root) / "engine-id"
    if not path.exists():
        raw = entropy.token(16).hex()
        path.write_text(f"{raw[:8]}-{raw[8:12]}-{raw[12:16]}-{raw[16:20]}-{raw[20:]}")
    return path.read_text().strip()


def _platform(machine: str) -> Platform:
    """What images of this host are made for."""
    return Platform(os="linux", architecture=machine).normalized


def _host_resolv_conf() -> str:
    """The host's resolv.conf; systemd-resolved's own list where the file names only its stub."""
    try:
        text = Path(HOST_RESOLV_CONF).read_text()
        if set(parse_resolv_conf(text).nameservers) == {"127.0.0.53"}:
            text = Path(ALTERNATE_RESOLV_CONF).read_text()
    except OSError:
        return ""
    return text


def _ephemeral_range() -> EphemeralRange:
    try:
        first, last = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    except (OSError, ValueError):
        return EphemeralRange()
    return EphemeralRange(first=int(first), last=int(last))


def _init_path() -> str:
    for folder in ("/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/libexec/docker"):
        for name in INIT_NAMES:
            if os.access(f"{folder}/{name}", os.X_OK):
                return f"{folder}/{name}"
    return ""
