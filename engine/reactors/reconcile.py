"""Recovery: the log against the world, once, before anything else happens.

Every intent without an outcome becomes a command: adopt, report lost, finish (docs/design/recovery.md). What is left is
drift, and mended as such (drift.py). A clean start is the same walk with nothing to do.

The comparison (`compare`) is pure; `Reconcile.run` asks and performs.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable

import msgspec

from engine import transactions
from engine.aggregates.container import commands as c
from engine.aggregates.container.state import ContainerState
from engine.aggregates.exec import ExecState, ExecStatus, RemoveExec, ReportExecExited, ReportExecStarted
from engine.aggregates.network import NetworkStatus
from engine.aggregates.values.drift import Outcome
from engine.aggregates.values.ids import ContainerID, NetworkID
from engine.drivers.ports.network import Networks, Sandboxes
from engine.drivers.ports.runtime import Inventory, Runtime
from engine.errors import Fault, PortError
from engine.reactors.base import Hands
from engine.reactors.drift import Drift
from engine.reactors.lifecycle.linked import Linked
from engine.reactors.lifecycle.names import Names
from engine.reactors.lifecycle.sandbox import joins_of, spec_of, started

logger = logging.getLogger("ishmael.reconcile")
NAME = "reconcile"
LOST_EXIT_CODE = 255
"""Nobody saw the exit. Source: moby daemon/daemon.go."""
INTERRUPTED_EXIT_CODE = 137
ATTEMPTS = 3
"""How often recovery is begun when what it asks is not there."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One difference between the log and the runtime.

    adopt: it runs, as the log says (or as the log was about to say: `started`). lost: the log says it runs, and nobody
    knows it. Exits come by the supervisor's own journal and are no finding."""

    container_id: ContainerID
    kind: str
    pid: int = 0


def compare(states: Iterable[ContainerState], inventory: Inventory) -> tuple[Finding, ...]:
    """What to do about each container, pure."""
    running = {(it.container_id, it.run): it for it in inventory.running if not it.exec_id}
    ended = {(it.container_id, it.run) for it in inventory.exits if not it.exec_id}
    findings: list[Finding] = []
    for state in states:
        key = (state.container_id, state.run)
        if state.starting and key in running:
            findings.append(Finding(container_id=state.container_id, kind="started", pid=running[key].pid))
        elif state.starting and key in ended:
            findings.append(Finding(container_id=state.container_id, kind="started"))
        elif state.alive and key in running:
            findings.append(Finding(container_id=state.container_id, kind="adopt", pid=running[key].pid))
        elif state.alive and key not in ended:
            findings.append(Finding(container_id=state.container_id, kind="lost"))
    return tuple(findings)


class Reconcile:
    """Run once, after the ports are up and before the reactors follow the log."""

    def __init__(
        self,
        hands: Hands,
        runtime: Runtime,
        networks: Networks,
        sandboxes: Sandboxes,
        names: Names,
        linked: Linked,
        drift: Drift,
    ) -> None:
        self._hands = hands
        self._runtime = runtime
        self._networks = networks
        self._sandboxes = sandboxes
        self._names = names
        self._linked = linked
        self._drift = drift
        self.unrestored: set[NetworkID] = set()
        """Networks that the kernel refused to make again: the networks reactor goes on trying."""

    async def run(self) -> tuple[Outcome, ...]:
        """What differed when every intent had its outcome, and what became of it. Begun anew when the supervisor dies
        meanwhile, as what it held is then lost and has to be found so. Raises PortError."""
        for _ in range(ATTEMPTS - 1):
            try:
                return await self._walk()
            except PortError as error:
                if not (error.retriable and error.fault is Fault.UNAVAILABLE):
                    raise
                logger.warning("recovery begins anew: %s: %s", error.operation, error.message)
        return await self._walk()

    async def _walk(self) -> tuple[Outcome, ...]:
        inventory = await self._runtime.list()
        before = await self._drift.before_recovery()
        await self._networks.prepare()
        await self._restore_networks()
        for finding in compare(list(self._hands.views.containers), inventory):
            await self._settle(finding)
        await self._settle_execs(inventory)
        return await self._drift.recovered(before)

    async def _restore_networks(self) -> None:
        """Bridges first: after a reboot none is there. Creating is idempotent."""
        for state in self._hands.views.networks:
            if state.status is NetworkStatus.READY:
                try:
                    await self._networks.create(spec_of(state))
                except PortError as error:
                    logger.warning("network %s could not be restored: %s", state.settings.name, error.message)
                    self.unrestored.add(state.network_id)
                self._names.publish(state)

    async def _settle(self, finding: Finding) -> None:
        state = self._hands.container(finding.container_id)
        match finding.kind:
            case "started":
                await self._report_started(state, finding.pid)
                if finding.pid:
                    await self._adopt(self._hands.container(state.container_id), finding.pid)
            case "adopt":
                await self._adopt(state, finding.pid)
            case "lost":
                await self._report_lost(state)

    async def _report_started(self, state: ContainerState, pid: int) -> None:
        """The process was begun, and the engine died before it could say so."""
        endpoints = [
            network.endpoints[state.container_id]
            for network in self._hands.views.networks
            if state.container_id in network.endpoints
        ]
        ports = self._hands.application.state("ports", "host").held.get(state.container_id, ())
        now = self._hands.clock.now_ns()
        report = started(state, endpoints, ports, self._hands.views.networks, pid=pid, at=now)
        await self._hands.report(NAME, f"recovery:{state.container_id}", report)

    async def _adopt(self, state: ContainerState, pid: int) -> None:
        planned = self._linked.opened(state, joins_of(state, self._hands.views.networks))
        try:
            await self._sandboxes.adopt(state.container_id, pid, planned)
            await self._names.serve_running(state)
        except (PortError, OSError) as error:
            logger.warning("the sandbox of %s could not be adopted: %s", state.container_id, error)

    async def _report_lost(self, state: ContainerState) -> None:
        logger.warning("container %s is gone and nobody saw its exit", state.container_id)
        # With its supervisor dead it may still run, held by nobody: what nobody can stop or listen to is ended.
        await self._runtime.forget(state.container_id, state.run)
        report = c.ReportExited(
            container_id=state.container_id,
            run=state.run,
            at=self._hands.clock.now_ns(),
            exit_code=LOST_EXIT_CODE,
            oom_killed=False,
            lost=True,
        )
        given_back = transactions.release(state, self._hands.views.networks.lookup)
        await self._hands.report(NAME, f"recovery:{state.container_id}", report, *given_back)

    async def _settle_execs(self, inventory: Inventory) -> None:
        """An exec whose process is gone has ended; one whose start was cut off never ran, unless the supervisor has it:
        then its start is a fact, and its exit follows by way of the journal."""
        running = {it.exec_id: it.pid for it in inventory.running if it.exec_id}
        ended = {it.exec_id for it in inventory.exits if it.exec_id}
        now = self._hands.clock.now_ns()
        for state in self._hands.views.execs:
            correlation = f"recovery:{state.exec_id}"
            container = self._hands.views.containers.get(state.container_id)
            held = state.exec_id in running or state.exec_id in ended
            if state.status is ExecStatus.STARTING and held:
                begun = ReportExecStarted(exec_id=state.exec_id, at=now, pid=running.get(state.exec_id, 0))
                await self._hands.report(NAME, correlation, begun)
            elif state.status is ExecStatus.RUNNING and not held:
                gone = ReportExecExited(exec_id=state.exec_id, at=now, exit_code=INTERRUPTED_EXIT_CODE)
                await self._hands.report(NAME, correlation, gone)
            elif state.status is ExecStatus.STARTING:
                await self._end_streams(state)
                error = "interrupted by a restart of the engine"
                cut = ReportExecExited(exec_id=state.exec_id, at=now, exit_code=INTERRUPTED_EXIT_CODE, error=error)
                await self._hands.report(NAME, correlation, cut)
            elif container is None and state.status in (ExecStatus.CREATED, ExecStatus.EXITED):
                await self._hands.report(NAME, correlation, RemoveExec(exec_id=state.exec_id))
            elif state.status is ExecStatus.CREATED:
                await self._end_streams(state)

    async def _end_streams(self, state: ExecState) -> None:
        """A client may have been attached already, and its exec not begun: it would wait for ever."""
        with contextlib.suppress(PortError):  # a supervisor that is lost just now has no clients any more
            await self._runtime.forget(state.container_id, 0, exec_id=state.exec_id)
