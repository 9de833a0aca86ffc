"""Starting containers: from an intent in the log to a running process, or to nothing at all.

The order of effects is storage, files, sandbox, process; what was done is undone in reverse when a later step is
refused, and then the failure is reported with everything the start held. The process is the last effect: once it
runs, only its exit undoes the rest.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
from collections.abc import Mapping
from functools import partial

import trio
from msgspec.structs import replace

from engine import transactions
from engine.aggregates.container import commands as c
from engine.aggregates.container.donors import Kind, dependencies
from engine.aggregates.container.lifecycle import STARTABLE, Status
from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Command, Rejected
from engine.aggregates.values.endpoints import Endpoint, PublishedPort
from engine.aggregates.values.ids import ContainerID, VolumeName
from engine.aggregates.values.mounts import MountPoint
from engine.aggregates.values.sysctls import dotted
from engine.drivers.ports.network import Join, Resolver, Sandboxes
from engine.drivers.ports.runtime import Launch, RootFilesystem, Runtime, Stdio
from engine.drivers.ports.storage import RootFilesystems
from engine.drivers.ports.volume import HostPaths, Volumes
from engine.errors import PortError
from engine.reactors.base import Hands, surely
from engine.reactors.lifecycle import plan as effects
from engine.reactors.lifecycle.etc import EtcFiles
from engine.reactors.lifecycle.linked import Linked
from engine.reactors.lifecycle.logs import log_spec
from engine.reactors.lifecycle.names import Names
from engine.reactors.lifecycle.sandbox import joins, started
from engine.reactors.processes import Processes, Sandboxing

logger = logging.getLogger("ishmael.lifecycle")
NAME = "lifecycle"
UNEXECUTABLE = 128
PORT_ATTEMPTS = 5
TOGETHER_NS = 1_000_000_000
NETWORK_SYSCTL = "net."


class Starts:
    def __init__(
        self,
        hands: Hands,
        runtime: Runtime,
        rootfs: RootFilesystems,
        volumes: Volumes,
        paths: HostPaths,
        sandboxes: Sandboxes,
        resolver: Resolver,
        names: Names,
        linked: Linked,
        etc: EtcFiles,
        processes: Processes,
        runtimes: Mapping[str, str],
        ephemeral: transactions.EphemeralRange,
    ) -> None:
        self._hands = hands
        self._runtime = runtime
        self._rootfs = rootfs
        self._volumes = volumes
        self._paths = paths
        self._sandboxes = sandboxes
        self._resolver = resolver
        self._names = names
        self._linked = linked
        self._etc = etc
        self._processes = processes
        self._runtimes = runtimes
        self._ephemeral = ephemeral

    def use_runtimes(self, runtimes: Mapping[str, str]) -> None:
        """Other foreign runtimes (name to path), for starts from now on."""
        self._runtimes = runtimes

    async def start(self, effect: effects.Start, correlation: str) -> None:
        """Perform one start and report its outcome. Never raises: a client waits for the outcome, and a start that met
        a bug has failed too."""
        state = self._hands.container(effect.container_id)
        outcome: tuple[Command, ...]
        try:
            pid, endpoints, ports = await self._perform_on_free_ports(state, correlation)
        except (PortError, Rejected) as error:
            if await self._is_over(state, error):
                outcome = (self._started(state, 0, *self._held(state)),)
            else:
                outcome = self._failed(state, error.message, getattr(error, "exit_code", 0))
        except Exception as error:
            logger.exception("the start of %s met a bug", state.container_id)
            outcome = self._failed(state, f"internal error: {error!r}", 0)
        else:
            outcome = (self._started(state, pid, endpoints, ports),)
        await self._hands.report_surely(NAME, correlation, *outcome)

    def _started(
        self, state: ContainerState, pid: int, endpoints: tuple[Endpoint, ...], ports: tuple[PublishedPort, ...]
    ) -> Command:
        now = self._hands.clock.now_ns()
        return started(state, endpoints, ports, self._hands.views.networks, pid=pid, at=now)

    def _failed(self, state: ContainerState, error: str, exit_code: int) -> tuple[Command, ...]:
        """The failure, and everything that the start held."""
        report = c.ReportStartFailed(
            container_id=state.container_id,
            run=state.run,
            at=self._hands.clock.now_ns(),
            error=error,
            exit_code=exit_code or UNEXECUTABLE,
        )
        return (report, *transactions.release(state, self._hands.views.networks.lookup))

    async def _is_over(self, state: ContainerState, error: PortError | Rejected) -> bool:
        """A supervisor that was lost during a start may have begun it. Whether that run has ended since, and its exit
        is known: it was a start as any other, and must not be made again. Of a process that lives nobody would know;
        it is ended."""
        if not (isinstance(error, PortError) and error.retriable):
            return False
        inventory = await surely(self._runtime.list, f"what became of the start of {state.name} is not known")
        run = (state.container_id, state.run, "")
        if any((exit_.container_id, exit_.run, exit_.exec_id) == run for exit_ in inventory.exits):
            return True
        with contextlib.suppress(PortError):
            await self._runtime.forget(state.container_id, state.run)
        return False

    async def start_again(self, effect: effects.StartAgain) -> None:
        """A start whose time has not come yet: wait, then wish for it, unless something else happened meanwhile."""
        while (left_ns := effect.due_at - self._hands.clock.now_ns()) > 0:  # noqa: ASYNC110 - a sleep may end early by a nanosecond
            await trio.sleep(left_ns / 1e9)
        await self._dependencies_begun(self._hands.container(effect.container_id))
        state = self._hands.container(effect.container_id)
        if state.status is Status.RESTARTING and state.run == effect.run:
            await self._wish(state)

    async def start_at_boot(self, container_id: ContainerID) -> None:
        """A container that does not run, and whose policy wants it to after a start of the engine (SYS-10). Those it
        depends on must have been begun before."""
        await self._dependencies_begun(self._hands.container(container_id))
        state = self._hands.container(container_id)
        if state.status is Status.EXITED:
            await self._wish(state)

    async def _dependencies_begun(self, state: ContainerState) -> None:
        """Let those that it depends on go first, when they start by themselves just now: containers that ended together
        (with the host) come back together. One that is due later is not waited for: the start fails, as in Docker."""
        soon = self._hands.clock.now_ns() + TOGETHER_NS

        def begun(now: ContainerState) -> bool:
            return not now.starting and not (now.status is Status.RESTARTING and now.restart_due_at <= soon)

        for needed in dependencies(state):
            await self._hands.pump.until(f"container:{needed}", begun)

    async def _wish(self, state: ContainerState) -> None:
        state = self._hands.newest(state.container_id)
        intent = c.StartContainer(container_id=state.container_id, at=self._hands.clock.now_ns())
        try:
            commands = transactions.start(
                state,
                intent,
                find_network=self._hands.views.networks.lookup,
                endpoint_ids=self._hands.entropy.hex_id,
                seed=self._hands.entropy.token,
                ephemeral=self._ephemeral,
            )
            await self._hands.report("restart", f"restart:{state.container_id}:{state.run}", *commands)
        except Rejected as error:
            if self._hands.newest(state.container_id).status not in STARTABLE:
                return  # somebody else has started it meanwhile, or removes it
            logger.warning("container %s could not be restarted: %s", state.container_id, error.message)
            await self._report_refused(state, error)

    async def _report_refused(self, state: ContainerState, error: Rejected) -> None:
        """A restart that cannot even begin (its network is gone) is a start that failed."""
        correlation = f"restart:{state.container_id}:{state.run}"
        now = self._hands.clock.now_ns()
        await self._hands.report(
            "restart",
            correlation,
            c.StartContainer(container_id=state.container_id, at=now),
            c.ReportStartFailed(
                container_id=state.container_id, run=state.run + 1, at=now, error=error.message, exit_code=UNEXECUTABLE
            ),
        )

    async def _perform_on_free_ports(
        self, state: ContainerState, correlation: str
    ) -> tuple[int, tuple[Endpoint, ...], tuple[PublishedPort, ...]]:
        """As `_perform`. An ephemeral port that the ledger thinks free may be another program's: others are tried."""
        avoid = self._ephemeral.avoid
        for _ in range(PORT_ATTEMPTS - 1):
            try:
                return await self._perform(state)
            except PortError as error:
                avoid |= {port.host_port for port in self._held(state)[1]}
                others = transactions.other_ports(
                    state, replace(self._ephemeral, avoid=avoid), self._hands.views.networks.lookup
                )
                if error.errno != errno.EADDRINUSE or not others:
                    raise
                await self._hands.report(NAME, correlation, *others)
        return await self._perform(state)

    async def _perform(self, state: ContainerState) -> tuple[int, tuple[Endpoint, ...], tuple[PublishedPort, ...]]:
        endpoints, ports = self._held(state)
        planned = self._linked.opened(
            state, joins(endpoints, state.networks, ports, self._hands.views.networks, name=state.name)
        )
        try:
            pid = await self._launch(state, endpoints, planned)
        except Exception:
            # Before the failure is told: it gives the addresses and ports to others. An attempt that a crash cut off
            # may have gone further than this one.
            await surely(partial(self._undo, state, planned), f"the network of {state.name} is not given back")
            raise
        except BaseException:
            with trio.CancelScope(shield=True), contextlib.suppress(PortError):
                await self._undo(state, planned)
            raise
        return pid, endpoints, ports

    async def _launch(self, state: ContainerState, endpoints: tuple[Endpoint, ...], planned: tuple[Join, ...]) -> int:
        """The process, with all that it needs around it; its pid."""
        self._linked.check(state, endpoints)
        rootfs = await self._rootfs.prepare(
            state.container_id, state.layers, volatile=state.host.auto_remove, limit_bytes=state.host.limit_bytes
        )
        mounts = await self._sources(state, rootfs)
        sandboxing = await self._open(state, joined=bool(planned))
        try:
            await self._fit_out(state, endpoints, planned, sandboxing)
            files = await self._etc.write(state, endpoints)
            await self._linked.tell(state)
            spec = await self._processes.of_container(state, rootfs, mounts, files, sandboxing)
            launch = Launch(
                container_id=state.container_id,
                run=state.run,
                spec=spec,
                rootfs=rootfs,
                stdio=_stdio(state),
                log=log_spec(
                    state,
                    env=self._processes.env(state),
                    folder=self._etc.folder(state),
                    hostname=socket.gethostname(),
                ),
                runtime=self._runtimes.get(state.runtime, "native"),
                netns_fd=sandboxing.netns_fd,
            )
            return await self._runtime.start(launch)
        finally:
            # From here on the process holds the namespace, or nobody does.
            if sandboxing.netns_fd >= 0:
                os.close(sandboxing.netns_fd)

    async def _undo(self, state: ContainerState, planned: tuple[Join, ...]) -> None:
        """The namespace itself goes with its last descriptor."""
        await self._resolver.stop_serving(state.container_id)
        await self._sandboxes.leave(state.container_id, planned, sandbox_gone=True)

    def _held(self, state: ContainerState) -> tuple[tuple[Endpoint, ...], tuple[PublishedPort, ...]]:
        """What the intent's transaction allocated, in the order of the container's wishes."""
        found: list[Endpoint] = []
        for attachment in state.networks:
            network = self._hands.views.networks.lookup(attachment.network_id or attachment.name)
            endpoint = network.endpoints.get(state.container_id) if network is not None else None
            if endpoint is not None:
                found.append(endpoint)
        ports = self._hands.application.state("ports", "host").held.get(state.container_id, ())
        return tuple(found), ports

    async def _sources(self, state: ContainerState, rootfs: RootFilesystem) -> tuple[MountPoint, ...]:
        """Make every mount's source ready: volumes mounted and filled from the image, missing bind sources made."""
        for point in state.mounts:
            if point.type == "volume":
                name = VolumeName(point.name)
                volume = self._hands.views.volumes.get(name)
                options = volume.options if volume is not None else {}
                await self._volumes.mount(name, options)
                if point.copy_up:
                    await self._volumes.fill(name, rootfs.image, point.destination)
            elif point.type == "bind":
                await self._paths.ensure(point.source, create=point.create_source)
        return tuple(replace(point, lowers=self._rootfs.lowers(point.layers)) for point in state.mounts)

    async def _open(self, state: ContainerState, *, joined: bool) -> Sandboxing:
        """The network namespace: a new one, a donor's, or the host's."""
        mode = state.host.network_mode
        if mode == "host":
            return Sandboxing(netns_fd=-1, host=True)
        donor = self._processes.donor(state, Kind.NETWORK)
        if donor is not None:
            return Sandboxing(netns_fd=-1, path=f"/proc/{donor.pid}/ns/net")
        wanted = {dotted(name): value for name, value in (state.host.sysctls or {}).items()}
        sysctls = {name: value for name, value in wanted.items() if name.startswith(NETWORK_SYSCTL)}
        remapped = self._processes.is_remapped(state)
        owner = (self._processes.donor(state, Kind.IPC) or self._processes.donor(state, Kind.PID)) if remapped else None
        opened = await self._sandboxes.open(
            state.container_id, sysctls, joined=joined, remapped=remapped, beside=owner.pid if owner else 0
        )
        return Sandboxing(netns_fd=opened)

    async def _fit_out(
        self, state: ContainerState, endpoints: tuple[Endpoint, ...], planned: tuple[Join, ...], sandboxing: Sandboxing
    ) -> None:
        """Endpoints, ports and the resolver of a namespace of the container's own."""
        if sandboxing.netns_fd < 0:
            return
        if planned:
            await self._sandboxes.join(state.container_id, sandboxing.netns_fd, planned)
        await self._names.serve(state, sandboxing.netns_fd, endpoints)


def _stdio(state: ContainerState) -> Stdio:
    height, width = state.host.console_size or (0, 0)
    return Stdio(
        tty=state.config.tty,
        open_stdin=state.config.open_stdin,
        stdin_once=state.config.stdin_once,
        height=height,
        width=width,
    )
