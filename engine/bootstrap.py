"""The composition root: the only place that names concrete drivers, and the life of the process around an engine.

Owns: choosing drivers, reading the host once, the lock on the data root, listening, signals. How an engine is put
together out of drivers is composition.py's.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio
from msgspec.structs import replace

from engine import notify, proxies, stacks
from engine.aggregates.container.rules import RuleFacts, check_cgroup_parent
from engine.aggregates.decider import Rejected
from engine.aggregates.values.drift import Outcome
from engine.aggregates.values.etc_files import ALTERNATE_RESOLV_CONF, HOST_RESOLV_CONF, parse_resolv_conf
from engine.aggregates.values.id_map import IdMap
from engine.aggregates.values.platform import Platform
from engine.api.serving import serve_api
from engine.clock import SystemClock
from engine.composition import Engine
from engine.config import BUILT_IN_RUNTIMES, ConfigError, DaemonConfig
from engine.drivers.linux import apparmor, user_namespaces
from engine.drivers.linux.devices import LinuxHostDevices
from engine.drivers.linux.host import LinuxHost
from engine.drivers.linux.inotify import watches
from engine.drivers.linux.logs.reading import FileLogs
from engine.drivers.linux.mounts import LinuxMountInspector
from engine.drivers.linux.network.driver import LinuxNetworking
from engine.drivers.linux.network.state import NetworkingOptions
from engine.drivers.linux.process_table import ProcessTable
from engine.drivers.linux.runtime.driver import LinuxRuntime
from engine.drivers.linux.runtime.host import HostFacts as CgroupFacts
from engine.drivers.linux.runtime.host import discover
from engine.drivers.linux.runtime.meter import LinuxMeter
from engine.drivers.linux.runtime.users import LinuxIdentities
from engine.drivers.linux.storage import quota
from engine.drivers.linux.storage.choice import OVERLAY, storage_driver
from engine.drivers.linux.storage.folders import LinuxContainerFolders
from engine.drivers.linux.storage.store import LinuxStorage
from engine.drivers.linux.volume.host_paths import LinuxHostPaths
from engine.drivers.linux.volume.local import LocalVolumes
from engine.drivers.ports.host import HostFacts
from engine.drivers.registry.late import LateRegistry
from engine.drivers.registry.policy import RegistryPolicy
from engine.entropy import SystemEntropy
from engine.errors import PortError
from engine.listeners import close_listeners, open_listeners
from engine.oci import seccomp
from engine.oci.spec import HostTraits
from engine.reload import left_alone, log_level
from engine.surroundings import Drivers, Surroundings
from engine.transactions import EphemeralRange

logger = logging.getLogger("ishmael")
YOUNG_OBJECTS = 20_000
"""Between two collections: about two megabytes, ten requests' worth."""
DIRECTORY_MODE = 0o710
GRACE_S = 1.0
"""What running requests get when the engine stops: streams that follow would never end by themselves."""
PRESSED_MAX = 3
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
LINK_VARIABLES = "DOCKER_KEEP_DEPRECATED_LEGACY_LINKS_ENV_VARS"
"""dockerd's switch, an environment variable of the engine: anything but 1 turns them off, and unset means on here."""
SECCOMP_PROFILE = Path(__file__).parent / "drivers/linux/runtime/data/seccomp-default.json"
INIT_NAMES = ("docker-init", "tini-static", "tini")


async def run(config: DaemonConfig, reread: Callable[[], DaemonConfig]) -> None:
    """The whole life of an engine: until SIGTERM or SIGINT. SIGHUP takes up what `reread` brings, SIGUSR1 writes where
    every task is. Raises ConfigError when it cannot start."""
    _prepare_process()
    proxies.take_over(config, os.environ)
    first = config
    _check_cgroups(discover())
    config = with_cgroup_driver(config, LinuxHost().facts())
    config, id_map = _remapped(config)
    for folder in (config.data_root, config.exec_root):
        os.makedirs(folder, DIRECTORY_MODE, exist_ok=True)
    with trio.open_signal_receiver(*SIGNALS) as signals:
        lock = _lock(config.data_root)
        try:
            config = replace(config, storage_driver=await storage_driver(config.data_root, config.storage_driver))
            async with _engine(config, id_map) as engine:
                _settle_memory()
                sockets = open_listeners(config.hosts, group=config.group)
                try:
                    async with trio.open_nursery() as nursery:
                        await nursery.start(partial(serve_api, grace_s=GRACE_S), engine.app, sockets)
                        logger.info("API listens on %s", ", ".join(config.hosts))
                        notify.notify(notify.READY)
                        async for number in signals:
                            if number == signal.SIGHUP:
                                await _reload(engine, first, reread)
                                continue
                            if number == signal.SIGUSR1:
                                _dump_stacks(config.exec_root)
                                continue
                            logger.info("%s: stopping", signal.Signals(number).name)
                            break
                        notify.notify(notify.STOPPING)
                        engine.let_go()
                        nursery.cancel_scope.cancel()
                finally:
                    close_listeners(sockets)
                if not engine.config.live_restore and not engine.damage:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(_quit_when_pressed, signals)
                        await engine.stop_containers()
                        nursery.cancel_scope.cancel()
        finally:
            os.close(lock)


async def examine(config: DaemonConfig, repair: bool) -> tuple[Outcome, ...]:
    """How the log of an engine that does not run differs from the world, mended if told so. Raises ConfigError."""
    _prepare_process()
    config = with_cgroup_driver(config, LinuxHost().facts())
    config, id_map = _remapped(config)
    lock = _lock(config.data_root)
    try:
        async with _made(config, id_map, look_only=not repair) as engine:
            return await (engine.recover() if repair else engine.examine())
    finally:
        os.close(lock)


async def _quit_when_pressed(signals: AsyncIterator[int]) -> None:
    """While containers end: a third signal in all ends the engine at once, as in moby. What it leaves behind, the next
    one finds as after a crash."""
    pressed = 1
    async for number in signals:
        if number not in (signal.SIGTERM, signal.SIGINT):
            continue
        pressed += 1
        if pressed == PRESSED_MAX:
            logger.error("%s, for the third time: leaving containers behind", signal.Signals(number).name)
            os._exit(128 + number)
        logger.warning("%s: containers are still ending; once more leaves them behind", signal.Signals(number).name)


async def _reload(engine: Engine, first: DaemonConfig, reread: Callable[[], DaemonConfig]) -> None:
    """SYS-04: all of what can be reloaded, or nothing and the reason in the log."""
    try:
        read = reread()
        await engine.reload(read)
    except (ConfigError, PortError) as error:
        logger.error("SIGHUP: the configuration is not reloaded: %s", error)  # noqa: TRY400 - a slip, not a bug
        return
    logging.getLogger().setLevel(log_level(engine.config))
    logger.info("SIGHUP: the configuration is reloaded")
    waiting = left_alone(first, read)
    if waiting:
        logger.warning("these have changed and wait for a restart of the engine: %s", ", ".join(waiting))


def _dump_stacks(folder: str) -> None:
    """SYS-14."""
    try:
        logger.info("SIGUSR1: stacks of all tasks written to %s", stacks.dump(folder, SystemClock().now_ns()))
    except OSError as error:
        logger.warning("SIGUSR1: stacks cannot be written: %s", error)


@asynccontextmanager
async def _engine(config: DaemonConfig, id_map: IdMap | None) -> AsyncIterator[Engine]:
    """An engine over this machine's kernel."""
    async with _made(config, id_map) as made, made.running() as engine:
        yield engine


@asynccontextmanager
async def _made(config: DaemonConfig, id_map: IdMap | None, *, look_only: bool = False) -> AsyncIterator[Engine]:
    host, clock, entropy = LinuxHost(), SystemClock(), SystemEntropy()
    async with watches() as watching:
        logs = FileLogs(watching, clock=clock, limiter=trio.CapacityLimiter(4))
        drivers = _drivers(config, host, logs, id_map, look_only=look_only)
        yield Engine(config, drivers, _surroundings(config, host, id_map), clock, entropy)


def _check_cgroups(facts: CgroupFacts) -> None:
    """As dockerd, which does not start where no group can be made. Raises ConfigError."""
    if not facts.hierarchies and not facts.unified:
        raise ConfigError(
            "no cgroup file system is mounted, so no container could be started; where the engine is started by "
            "`ip netns exec`, which hides them, use `nsenter --net=/run/netns/NAME` instead"
        )


def with_cgroup_driver(config: DaemonConfig, facts: HostFacts) -> DaemonConfig:
    """systemd owns the groups where it runs a host of cgroup v2, unless told otherwise (RES-01). Raises ConfigError."""
    suits = "systemd" if facts.cgroup_version == "2" and facts.systemd else "cgroupfs"
    driver = config.cgroup_driver or suits
    if driver == "systemd" and suits != driver:
        raise ConfigError("exec-opt native.cgroupdriver=systemd requires cgroup v2 and a host that runs systemd")
    try:
        check_cgroup_parent(config.cgroup_parent, driver)
    except Rejected as rejected:
        raise ConfigError(rejected.message) from rejected
    return replace(config, cgroup_driver=driver)


def _drivers(
    config: DaemonConfig, host: LinuxHost, logs: FileLogs, id_map: IdMap | None, *, look_only: bool = False
) -> Drivers:
    """Everything concrete. Nothing is touched before `begin`, nor then by drivers that only look."""
    parser = apparmor.parser_of()
    confinement = apparmor.AppArmor(parser) if parser else None
    runtime = LinuxRuntime(config.exec_root, config.data_root, confinement, look_only=look_only)
    registry = LateRegistry(_registry_policy(config))
    storage = LinuxStorage(config.data_root, id_map=id_map, driver=config.storage_driver)
    networking = LinuxNetworking(
        NetworkingOptions(
            firewall=config.iptables,
            forwarding=config.ip_forward,
            relays=config.userland_proxy,
            id_map=id_map,
            prepared=False,
            pool_size=0 if look_only else NetworkingOptions().pool_size,
        )
    )
    volumes = LocalVolumes(storage.places, storage.workers, id_map)

    async def begin(nursery: trio.Nursery) -> None:
        await nursery.start(runtime.run)
        await nursery.start(networking.run)
        if look_only:
            return
        await storage.layers.repair()
        nursery.start_soon(storage.sweep, name="storage sweeper")

    return Drivers(
        host=host,
        runtime=runtime,
        streams=runtime,
        meter=LinuxMeter(runtime, trio.CapacityLimiter(4)),
        identities=LinuxIdentities(trio.CapacityLimiter(4)),
        devices=LinuxHostDevices(),
        blobs=storage.blobs,
        layers=storage.layers,
        archives=storage.archives,
        rootfs=storage.rootfs,
        files=storage.files,
        folders=LinuxContainerFolders(storage.places, id_map.root if id_map is not None else (0, 0)),
        volumes=volumes,
        host_paths=LinuxHostPaths(),
        networks=networking.networks,
        sandboxes=networking.sandboxes,
        resolver=networking.resolver,
        logs=logs,
        inspectors=(networking.inspector, LinuxMountInspector(config.data_root, config.exec_root, volumes)),
        process_table=ProcessTable(),
        registry=registry,
        begin=begin,
        let_go=runtime.let_go,
        configure=lambda config: registry.configure(_registry_policy(config)),
    )


def _registry_policy(config: DaemonConfig) -> RegistryPolicy:
    return RegistryPolicy(mirrors=config.registry_mirrors, insecure=config.insecure_registries)


def _surroundings(config: DaemonConfig, host: LinuxHost, id_map: IdMap | None) -> Surroundings:
    facts = host.facts()
    volume_quotas = quota.supported(config.data_root)
    return Surroundings(
        traits=_traits(config, facts, id_map),
        rules=RuleFacts(
            cpus=frozenset(os.sched_getaffinity(0)),
            mems=facts.mems,
            limits=facts.limits,
            ip_forwarding=facts.ip_forwarding or config.ip_forward,
            runtimes=frozenset({*BUILT_IN_RUNTIMES, *config.runtimes}),
            cgroup_v2=facts.cgroup_version == "2",
            cgroup_driver=config.cgroup_driver,
            remapped=id_map is not None,
            quotas=config.storage_driver == OVERLAY and volume_quotas,
            volume_quotas=volume_quotas,
        ),
        platform=Platform(os="linux", architecture=facts.machine).normalized,
        ephemeral=_ephemeral_range(),
        resolv_conf=_host_resolv_conf(),
        link_variables=os.environ.get(LINK_VARIABLES, "1") == "1",
    )


def _remapped(config: DaemonConfig) -> tuple[DaemonConfig, IdMap | None]:
    """`--userns-remap`: who containers run as, and roots of the engine of their own: what is in them belongs to other
    users (SEC-10). Raises ConfigError."""
    if not config.userns_remap:
        return config, None
    id_map = user_namespaces.id_map_of(config.userns_remap)
    uid, gid = id_map.root
    config = replace(
        config, data_root=f"{config.data_root}/{uid}.{gid}", exec_root=f"{config.exec_root}/{uid}.{gid}"
    )
    os.makedirs(config.data_root, DIRECTORY_MODE, exist_ok=True)
    os.chown(config.data_root, 0, gid)
    major, minor = os.uname().release.split(".")[:2]
    user_namespaces.check_host(config.data_root, id_map, (int(major), int(minor)))
    return config, id_map


def _traits(config: DaemonConfig, facts: HostFacts, id_map: IdMap | None) -> HostTraits:
    major, minor = facts.kernel_version.split(".")[:2]
    return HostTraits(
        machine=facts.machine,
        kernel=(int(major), int(minor)),
        cgroup_v2=facts.cgroup_version == "2",
        profile=_seccomp_profile(config.seccomp_profile),
        apparmor="apparmor" in facts.security,
        id_map=id_map,
        no_new_privileges=config.no_new_privileges,
        init=config.init,
        init_path=config.init_path or _init_path(),
        cgroup_driver=config.cgroup_driver,
        cgroup_parent=config.cgroup_parent,
        ulimits=config.default_ulimits,
    )


def _seccomp_profile(name: str) -> Mapping[str, Any] | None:
    """`--seccomp-profile`: builtin, unconfined or a path. Raises ConfigError in dockerd's words."""
    if name == "unconfined":
        return None
    path = SECCOMP_PROFILE if name in ("", "builtin") else Path(name)
    try:
        return seccomp.load(path.read_bytes())
    except OSError as error:
        words = (error.strerror or str(error)).lower()
        raise ConfigError(f"opening seccomp profile ({name}) failed: open {name}: {words}") from error
    except Rejected as error:
        raise ConfigError(f"invalid seccomp profile ({name}): {error.message}") from error


def _prepare_process() -> None:
    """Settings of the process that every part relies on."""
    os.umask(0o022)
    # Shorter turns of the interpreter: a thread that decodes a log must not hold the loop for 5 ms at a time.
    sys.setswitchinterval(0.001)
    # Blocks of 64 KB and more come from the heap and not from mmap: log batches would fault in fresh pages each time.
    ctypes.CDLL(None).mallopt(-3, 1 << 26)


def _settle_memory() -> None:
    """What is there once the engine has recovered (modules, views, folds) stays: the collector need not look at it
    again and again, nor now, when people wait for the engine. A request makes thousands of small objects and hardly a
    cycle, so it looks at young ones seldom."""
    gc.freeze()
    gc.enable()
    gc.set_threshold(YOUNG_OBJECTS, 20, 50)


def _lock(data_root: str) -> int:
    """Hold the data root: two engines on one log would both be its only writer. Raises ConfigError."""
    fd = os.open(f"{data_root}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise ConfigError(f"another engine runs on {data_root}") from error
    return fd


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
