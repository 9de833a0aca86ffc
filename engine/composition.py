"""The composition of an engine out of given drivers: what is made, in which order it comes to life, and how it ends.

Owns: starting from the log outwards, and stopping it the other way round. A start is always a recovery: the log is
opened, projections are brought to its head, ports are asked what exists, differences are settled; only then is there
an application to serve. Refuses to know: which drivers these are, sockets, signals (bootstrap.py, and simulations).
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import cast

import trio
from msgspec.structs import replace

from engine.aggregates.catalog import ALL_DECIDERS
from engine.aggregates.daemon import ReportReloaded
from engine.aggregates.decider import Cause
from engine.aggregates.values.drift import Outcome
from engine.aggregates.values.etc_files import parse_resolv_conf
from engine.aggregates.values.ids import NetworkID
from engine.api.app import EngineApp
from engine.api.context import ApiContext
from engine.api.front import app_of
from engine.api.sampling import Sampling
from engine.api.sizes import Sizes
from engine.application import Application
from engine.clock import Clock
from engine.config import BUILT_IN_RUNTIMES, ConfigError, DaemonConfig
from engine.drivers.ports.runtime import Exit
from engine.entropy import Entropy
from engine.errors import LogDamaged
from engine.projections.containers import Containers
from engine.projections.events_feed import EventsFeed
from engine.projections.execs import Execs
from engine.projections.feed_store import FeedStore
from engine.projections.images import Images
from engine.projections.networks import Networks
from engine.projections.views import Views
from engine.projections.volumes import Volumes
from engine.reactors.base import Hands
from engine.reactors.defaults import NO_BRIDGE, ensure_default_networks
from engine.reactors.drift import Drift
from engine.reactors.execs import ExecReactor
from engine.reactors.health import HealthReactor
from engine.reactors.images.service import Images as ImageService
from engine.reactors.inspections import LeaseInspector, ProcessInspector, StorageInspector
from engine.reactors.keys import KeyReactor
from engine.reactors.lifecycle.ends import Ends
from engine.reactors.lifecycle.etc import EtcFiles
from engine.reactors.lifecycle.freezes import Freezes
from engine.reactors.lifecycle.linked import Linked
from engine.reactors.lifecycle.links import Links
from engine.reactors.lifecycle.names import Names
from engine.reactors.lifecycle.reactor import Lifecycle
from engine.reactors.lifecycle.removes import Removes
from engine.reactors.lifecycle.starts import Starts
from engine.reactors.lifecycle.updates import Updates
from engine.reactors.networks import NetworkReactor
from engine.reactors.processes import Processes
from engine.reactors.reconcile import Reconcile
from engine.reactors.shutdown import stop_containers
from engine.reactors.volume_mounts import VolumeMounts
from engine.reactors.volumes import VolumeReactor
from engine.reload import attributes, reloaded
from engine.surroundings import Drivers, Surroundings
from engine.vault import Vault

logger = logging.getLogger("ishmael")
HISTORY_AFTER_S = 5.0
"""After a start: old history has time."""


class Engine:
    """Everything but listening. `async with Engine(config, drivers, ...).running() as engine:`"""

    app: EngineApp
    hands: Hands
    config: DaemonConfig
    """The one in force: `reload` replaces it."""
    damage = ""
    """Why this engine only reads; "" for one that is whole."""
    let_go: Callable[[], None]
    """Attached clients stay with their containers when the API ends."""

    def __init__(
        self, config: DaemonConfig, drivers: Drivers, surroundings: Surroundings, clock: Clock, entropy: Entropy
    ) -> None:
        self.config = config
        self._drivers = drivers
        self._surroundings = surroundings
        self._clock = clock
        self._entropy = entropy
        self.let_go = drivers.let_go

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Engine]:
        """From the log outwards; left in the opposite order. Containers go on."""
        async with AsyncExitStack() as stack:
            try:
                nursery = await stack.enter_async_context(self._opened())
            except LogDamaged as damaged:
                await self._only_read(stack, damaged.message)
                yield self
                return
            await self._come_alive(nursery)
            nursery.start_soon(self._keep_history, name="history keeper")
            yield self

    async def _only_read(self, stack: AsyncExitStack, why: str) -> None:
        """WIN-09: what is whole of a damaged log is served, and nothing is changed: neither the log nor the world, of
        which the engine no longer knows enough."""
        from engine.salvage import ReadOnlyLog, salvage  # here: a log that is whole needs none of it

        root = Path(self.config.data_root)
        views = Views(
            containers=Containers(),
            images=Images(),
            networks=Networks(),
            volumes=Volumes(),
            execs=Execs(),
            events=EventsFeed(),
        )
        salvaged = await trio.to_thread.run_sync(salvage, root, views.all(), why)
        logger.error("read only: %s", salvaged.statement)
        log = cast(Application, ReadOnlyLog(root, salvaged))
        vault = await stack.enter_async_context(Vault(root / "keys.db", self._entropy).running())
        nursery = await stack.enter_async_context(_cancelled_at_exit())
        self.hands = Hands(application=log, views=views, vault=vault, clock=self._clock, entropy=self._entropy)
        self._mounts = VolumeMounts(self.hands, self._drivers.volumes)
        images, linked = self._image_service(), self._linked()
        drift = self._drift(images, linked)
        self.damage = salvaged.statement
        self._context = self._make_context(nursery, images, (), drift)
        self.app = app_of(self._context)
        self.app.refusal = salvaged.statement

    async def examine(self) -> tuple[Outcome, ...]:
        """How the log of an engine that does not run differs from the world. Changes nothing."""
        async with self._opened():
            return await self._drift(self._image_service(), self._linked()).look()

    async def recover(self) -> tuple[Outcome, ...]:
        """The first half of a start: what differed, and what became of it. Nothing starts and nothing is served."""
        async with self._opened():
            names = Names(self.hands, self._drivers.sandboxes, self._drivers.resolver, self._upstreams())
            linked = self._linked()
            return await self._reconcile(names, linked, self._drift(self._image_service(), linked)).run()

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[trio.Nursery]:
        """The log with its views, and the drivers."""
        root = Path(self.config.data_root)
        async with AsyncExitStack() as stack:
            feed = FeedStore(root / "views-events.db")
            await trio.to_thread.run_sync(feed.open)
            stack.callback(feed.close)
            views = Views.empty(EventsFeed(feed))
            vault = await stack.enter_async_context(Vault(root / "keys.db", self._entropy).running())
            application = await stack.enter_async_context(
                Application(root, deciders=ALL_DECIDERS, clock=self._clock, projections=views.all()).running()
            )
            self.hands = Hands(
                application=application, views=views, vault=vault, clock=self._clock, entropy=self._entropy
            )
            self._mounts = VolumeMounts(self.hands, self._drivers.volumes)
            nursery = await stack.enter_async_context(_cancelled_at_exit())
            nursery.start_soon(views.events.keep, name="events feed")
            await self._drivers.begin(nursery)
            yield nursery

    def _upstreams(self) -> tuple[str, ...]:
        """The name servers that the resolver asks."""
        return tuple(self.config.dns or parse_resolv_conf(self._surroundings.resolv_conf).nameservers)

    def _image_service(self) -> ImageService:
        drivers = self._drivers
        return ImageService(
            self.hands,
            drivers.registry,
            drivers.blobs,
            drivers.layers,
            drivers.archives,
            drivers.rootfs,
            host_platform=self._surroundings.platform,
            config=self.config,
        )

    def _linked(self) -> Linked:
        drivers = self._drivers
        return Linked(
            self.hands, drivers.folders, drivers.sandboxes, with_variables=self._surroundings.link_variables
        )

    def _drift(self, image_service: ImageService, linked: Linked) -> Drift:
        """The order is that of mending: what ends processes comes before what they hold."""
        hands, drivers = self.hands, self._drivers
        return Drift(
            hands,
            linked,
            self._mounts,
            (
                LeaseInspector(hands),
                ProcessInspector(drivers.runtime),
                *drivers.inspectors,
                StorageInspector(
                    drivers.layers, drivers.rootfs, drivers.folders, drivers.volumes, image_service.collect_unused
                ),
            ),
        )

    def _reconcile(self, names: Names, linked: Linked, drift: Drift) -> Reconcile:
        drivers = self._drivers
        return Reconcile(self.hands, drivers.runtime, drivers.networks, drivers.sandboxes, names, linked, drift)

    async def _keep_history(self) -> None:
        await trio.sleep(HISTORY_AFTER_S)
        from engine.archive.keeper import Keeper, Policy  # here: nothing of it is needed to start

        config = self.config
        policy = Policy(
            kept_events=config.history_events, low_days=config.history_low_days, bytes_max=config.history_bytes_max
        )
        log = Path(config.data_root) / "events.db"
        await Keeper(self.hands.application, log, policy, self._clock).run()

    async def _come_alive(self, nursery: trio.Nursery) -> None:
        """Recovery, defaults, reactors, routes."""
        config, hands, drivers, around = self.config, self.hands, self._drivers, self._surroundings
        names = Names(hands, drivers.sandboxes, drivers.resolver, self._upstreams())
        linked = self._linked()
        etc = EtcFiles(
            drivers.folders,
            hands.views.networks,
            names,
            linked,
            around.resolv_conf,
            config.dns,
            config.dns_search,
            config.dns_opts,
        )
        processes = Processes(hands, linked, drivers.identities, drivers.devices, around.traits)
        image_service = self._image_service()
        drift = self._drift(image_service, linked)
        reconcile = self._reconcile(names, linked, drift)
        await reconcile.run()
        await image_service.recover()
        subnets = await drivers.networks.host_subnets()
        defaults = await ensure_default_networks(
            hands,
            host_routes=subnets,
            config=config,
            host_id=_engine_id(config.data_root, self._entropy),
            given_addresses=await self._given_addresses(),
        )
        after = hands.application.position
        await nursery.start(image_service.run, after)
        starts = Starts(
            hands,
            drivers.runtime,
            drivers.rootfs,
            drivers.volumes,
            drivers.host_paths,
            drivers.sandboxes,
            drivers.resolver,
            names,
            linked,
            etc,
            processes,
            _paths(config),
            around.ephemeral,
        )
        health = HealthReactor(hands, drivers.runtime, drivers.streams, processes)
        execs = ExecReactor(hands, drivers.runtime, processes)

        def exec_ended(exited: Exit) -> None:
            health.ended(exited)
            execs.ended(exited)

        freezes = Freezes(hands, drivers.runtime)
        lifecycle = Lifecycle(
            hands,
            starts,
            Ends(hands, drivers.runtime, freezes, drivers.streams, drivers.sandboxes, drivers.resolver, exec_ended),
            freezes,
            Updates(hands, drivers.runtime),
            Links(hands, drivers.sandboxes, names, linked),
            Removes(hands, drivers.rootfs, drivers.folders),
        )
        await nursery.start(NetworkReactor(hands, drivers.networks, reconcile.unrestored).run, after)
        await nursery.start(VolumeReactor(hands, drivers.volumes, self._mounts).run, after)
        for name, network_id in defaults.items():
            await self._network_ready(name, network_id)
        nursery.start_soon(names.follow, after, name="names")
        await nursery.start(execs.run, after)
        await nursery.start(lifecycle.run, after)
        await nursery.start(health.run, after)
        await nursery.start(KeyReactor(hands).run, after)
        self._context = self._make_context(nursery, image_service, subnets, drift)
        self._context.recent_health, self._context.execs_ahead = health.recent, execs
        self._starts, self._images = starts, image_service
        self.app = app_of(self._context)

    async def _given_addresses(self) -> tuple[str, ...]:
        """Of the bridge that `--bridge` names."""
        if self.config.bridge in ("", NO_BRIDGE):
            return ()
        addresses = await self._drivers.networks.addresses_of(self.config.bridge)
        if addresses is None:
            raise ConfigError(f"bridge device with non default name {self.config.bridge} must be created manually")
        return addresses

    async def _network_ready(self, name: str, network_id: NetworkID) -> None:
        """The first containers want the default networks; a kernel that refuses one is a reason not to start."""
        settled = await self.hands.pump.until(f"network:{network_id}", lambda state: state.settled)
        if settled.error:
            raise ConfigError(f"failed to create the default network {name}: {settled.error}")

    async def stop_containers(self) -> None:
        """With the engine; what they had is given back."""
        await stop_containers(self.hands, self.config.shutdown_timeout_s)
        await self._mounts.release_all()

    async def reload(self, read: DaemonConfig) -> None:
        """Take up what can be reloaded of a configuration, and tell of it (SYS-04). Whoever hears of it finds the new
        values everywhere; what cannot be told does not happen."""
        before = self.config
        self._take_up(reloaded(before, read))
        told = {**attributes(self.config), "name": self._drivers.host.facts().name}
        report = ReportReloaded(engine_id=self._context.engine_id, attributes=told)
        try:
            await self.hands.application.execute(report, cause=Cause(actor="signal:SIGHUP", correlation="reload"))
        except BaseException:
            self._take_up(before)
            raise

    def _take_up(self, config: DaemonConfig) -> None:
        self.config = self._context.config = config
        self._context.facts = replace(self._context.facts, runtimes=frozenset({*BUILT_IN_RUNTIMES, *config.runtimes}))
        self._drivers.configure(config)
        self._images.configure(config)
        self._starts.use_runtimes(_paths(config))

    def _make_context(
        self,
        nursery: trio.Nursery,
        image_service: ImageService,
        subnets: tuple[str, ...],
        drift: Drift,
    ) -> ApiContext:
        hands, config, drivers = self.hands, self.config, self._drivers
        sampling = Sampling(drivers.meter, drivers.host, hands.views.containers)
        nursery.start_soon(sampling.run, name="sampling")
        return ApiContext(
            application=hands.application,
            pump=hands.pump,
            vault=hands.vault,
            views=hands.views,
            ports=drivers,
            config=config,
            clock=hands.clock,
            entropy=hands.entropy,
            host=drivers.host,
            engine_id=_engine_id(config.data_root, self._entropy),
            images=image_service,
            facts=self._surroundings.rules,
            ephemeral=self._surroundings.ephemeral,
            sampling=sampling,
            sizes=Sizes(drivers.rootfs, drivers.volumes, drivers.layers, hands.views, nursery),
            lasting=nursery,
            host_routes=lambda: subnets,
            init_path=self._surroundings.traits.init_path,
            drift=drift,
            mounts=self._mounts,
            damage=lambda: tuple(filter(None, (self.damage, hands.vault.damage))),
        )


def _paths(config: DaemonConfig) -> dict[str, str]:
    """Foreign runtimes, name to path."""
    return {name: runtime.path for name, runtime in config.runtimes.items()}


@asynccontextmanager
async def _cancelled_at_exit() -> AsyncIterator[trio.Nursery]:
    async with trio.open_nursery() as nursery:
        try:
            yield nursery
        finally:
            nursery.cancel_scope.cancel()


_ENGINE_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def _engine_id(data_root: str, entropy: Entropy) -> str:
    """`Info.ID`: made once, kept in a file (SYS-06)."""
    path = Path(data_root) / "engine-id"
    known = path.read_text(errors="replace").strip() if path.exists() else ""
    if not _ENGINE_ID.fullmatch(known):
        raw = entropy.token(16).hex()
        known = f"{raw[:8]}-{raw[8:12]}-{raw[12:16]}-{raw[16:20]}-{raw[20:]}"
        path.write_text(known)
    return known
