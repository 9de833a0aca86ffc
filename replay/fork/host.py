"""A model of the host, for a history that never was: it does what it is asked, at once.

What a process does of its own accord nobody can know; what it did in the recorded run of the same number it is taken to
do again: a start that failed fails, an exit has its code. A run that was never recorded starts well, lives on, and ends
by the signal it gets.

Owns: answers to intents, read from states by the engine's own `plan`. Refuses to know: who asked, and drivers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from msgspec.structs import replace

from engine import transactions
from engine.aggregates.container import commands as c
from engine.aggregates.container import events as e
from engine.aggregates.container.donors import check_donor, donors
from engine.aggregates.container.lifecycle import STARTABLE
from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Cause, Command, Reason, Rejected
from engine.aggregates.exec import ExecStatus, RemoveExec, ReportExecExited
from engine.aggregates.names import NameKind, ReleaseName
from engine.aggregates.network import (
    AllocateEndpoint,
    NetworkStatus,
    ReleaseEndpoint,
    ReportNetworkReady,
    ReportNetworkRemoved,
)
from engine.aggregates.values.ids import EndpointID, NetworkID
from engine.aggregates.volume import RemoveVolume, ReportVolumeRemoved, VolumeStatus
from engine.reactors.lifecycle import plan as effects
from replay.fork.branch import Branch
from replay.fork.record import Record

SIGKILL = 9
DEADLY = frozenset({1, 2, 3, 6, SIGKILL, 13, 14, 15})
"""Signals that end a process which does nothing about them, of those that are sent to containers."""
_CAUSE = Cause(actor="reactor:model", correlation="fork")


class Host:
    def __init__(self, branch: Branch, record: Record) -> None:
        self._branch = branch
        self._record = record

    def settle(self, at: int) -> None:
        """Answer everything that is asked for, and what is asked for by that; deadlines up to `at` are due."""
        while True:
            answers = next(self._answers(at), None)
            if answers is None:
                return
            self._branch.execute(answers, cause=_CAUSE, time_ns=at)

    def _answers(self, at: int) -> Iterator[tuple[Command, ...]]:
        world = self._branch.world
        for network in world.living("network"):
            match network.status:
                case NetworkStatus.CREATING:
                    yield (ReportNetworkReady(network_id=network.network_id),)
                case NetworkStatus.REMOVING:
                    owner, name = network.network_id, network.settings.name
                    gone = ReleaseName(kind=NameKind.NETWORK, name=name, owner=owner)
                    yield (ReportNetworkRemoved(network_id=network.network_id), gone)
        for volume in world.living("volume"):
            if volume.status is VolumeStatus.REMOVING:
                yield (ReportVolumeRemoved(name=volume.name),)
        for state in world.living("container"):
            for effect in effects.plan(state):
                if answer := self._answer(state, effect, at):
                    yield answer
        for exec_ in world.living("exec"):
            container = self._branch.state("container", exec_.container_id)
            if exec_.status is ExecStatus.RUNNING and not container.alive:
                yield (ReportExecExited(exec_id=exec_.exec_id, at=at, exit_code=128 + SIGKILL),)

    def _answer(self, state: ContainerState, effect: effects.Effect, at: int) -> tuple[Command, ...]:
        of = state.container_id
        match effect:
            case effects.Start():
                return self._start(state, at)
            case effects.StartAgain():
                return self.start(state, c.StartContainer(container_id=of, at=at)) if effect.due_at <= at else ()
            case effects.End() | effects.Kill():
                return self._end(state, effect, at)
            case effects.Freeze():
                return (c.ReportPaused(container_id=of, at=at),)
            case effects.Thaw():
                return (c.ReportUnpaused(container_id=of, at=at),)
            case effects.Update():
                return (c.ReportUpdated(container_id=of, update=effect.number),)
            case effects.JoinNetwork():
                return self._join(state, NetworkID(effect.network_id))
            case effects.LeaveNetwork():
                left = c.ReportDisconnected(container_id=of, network_id=effect.network_id)
                return (left, ReleaseEndpoint(network_id=NetworkID(effect.network_id), container_id=of))
            case effects.Remove():
                return self._remove(state, at)
            case _:
                raise AssertionError(f"nobody told the model of {effect}")

    # -- starts and ends -----------------------------------------------------------------------------------------------

    def start(self, state: ContainerState, intent: c.StartContainer | c.RestartContainer) -> tuple[Command, ...]:
        """The transaction of a start; of one that can not have what it needs, with its failure. Raises Rejected where
        the container can not be started at all."""
        run = (state.container_id, state.run + 1)
        try:
            self._check_donors(state)
            commands = transactions.start(
                state,
                intent,
                find_network=self._branch.find_network,
                endpoint_ids=lambda: "",
                seed=lambda size: hashlib.sha256(repr(run).encode()).digest()[:size],
                ephemeral=self._record.ports(run),
            )
            named = tuple(self._named(command, run) for command in commands)
            self._branch.try_out(named)
        except Rejected as refused:
            if state.status not in STARTABLE:
                raise
            failed = c.ReportStartFailed(
                container_id=state.container_id, run=run[1], at=intent.at, error=refused.message, exit_code=128
            )
            return (c.StartContainer(container_id=state.container_id, at=intent.at), failed)
        return named

    def _check_donors(self, state: ContainerState) -> None:
        """Whose namespaces are shared must run, as the API looks at it before a start."""
        for kind, reference in donors(state.host).items():
            donor = self._branch.living("container", reference)
            if donor is None:
                words = f"joining {kind.value} namespace of container: No such container: {reference}"
                raise Rejected(Reason.SYSTEM, words)
            check_donor(state, donor, kind)

    def _named(self, command: Command, run: tuple[str, int]) -> Command:
        return self._placed(command, run) if isinstance(command, AllocateEndpoint) else command

    def _placed(self, command: AllocateEndpoint, run: tuple[str, int]) -> Command:
        """With the id that the endpoint had in the record, else one that follows from what it is."""
        known = self._record.endpoint_id(run, command.network_id)
        made = hashlib.sha256(f"{run} {command.network_id}".encode()).hexdigest()
        return replace(command, endpoint_id=EndpointID(known or made))

    def _start(self, state: ContainerState, at: int) -> tuple[Command, ...]:
        recorded = self._record.starts.get((state.container_id, state.run))
        if isinstance(recorded, e.ContainerStartFailed):
            failed = c.ReportStartFailed(
                container_id=state.container_id, run=state.run, at=recorded.at, error=recorded.error,
                exit_code=recorded.exit_code,
            )  # fmt: skip
            return (failed, *transactions.release(state, self._branch.find_network))
        world = self._branch.world
        endpoints = tuple(
            network.endpoints[state.container_id]
            for network_id in transactions.held(state, self._branch.find_network)
            if (network := self._branch.find_network(network_id)) is not None
            and state.container_id in network.endpoints
        )
        ports = world.states["ports:host"].held.get(state.container_id, ()) if "ports:host" in world.states else ()
        return (
            c.ReportStarted(
                container_id=state.container_id,
                run=state.run,
                at=recorded.at if recorded is not None else at,
                pid=recorded.pid if recorded is not None else 0,
                endpoints=endpoints,
                ports=tuple(ports),
                carrier=recorded.carrier if recorded is not None else "",
            ),
        )

    def _end(self, state: ContainerState, effect: effects.End | effects.Kill, at: int) -> tuple[Command, ...]:
        run = (state.container_id, state.run)
        recorded = self._record.ends.get(run) if run in self._record.asked else None
        if recorded is None and effect.signal not in DEADLY:
            if isinstance(effect, effects.Kill):
                return ()
            return (c.ReportStopOverdue(container_id=state.container_id, run=state.run, at=at),)
        return self.exited(
            state,
            at=recorded.at if recorded is not None else at,
            exit_code=recorded.exit_code if recorded is not None else 128 + effect.signal,
            oom_killed=recorded is not None and recorded.oom_killed,
        )

    def exited(self, state: ContainerState, *, at: int, exit_code: int, oom_killed: bool) -> tuple[Command, ...]:
        """The transaction of an exit: what the container held is given back."""
        exited = c.ReportExited(
            container_id=state.container_id, run=state.run, at=at, exit_code=exit_code, oom_killed=oom_killed
        )
        return (exited, *transactions.release(state, self._branch.find_network))

    # -- the rest ------------------------------------------------------------------------------------------------------

    def _join(self, state: ContainerState, network_id: NetworkID) -> tuple[Command, ...]:
        """In two steps, as the engine: an address first, and then that it is there."""
        of, run = state.container_id, (state.container_id, state.run)
        network = self._branch.find_network(network_id)
        if network is not None and of in network.endpoints:
            return (c.ReportConnected(container_id=of, network_id=network_id, endpoint=network.endpoints[of]),)
        wish = next(wish for wish in state.connecting if wish.network_id == network_id)
        allocation = self._placed(transactions.allocate(state, wish, network_id, EndpointID(""), b"\0" * 6), run)
        try:
            self._branch.try_out((allocation,))
        except Rejected as refused:
            return (c.ReportConnectFailed(container_id=of, network_id=network_id, error=refused.message),)
        return (allocation,)

    def _remove(self, state: ContainerState, at: int) -> tuple[Command, ...]:
        mine = frozenset({state.container_id})
        volumes = [self._branch.state("volume", name) for name in transactions.volume_names(state.mounts)]
        anonymous = tuple(
            RemoveVolume(name=volume.name, at=at)
            for volume in volumes
            if state.remove_volumes and volume.anonymous and volume.references <= mine
        )
        execs = [each for each in self._branch.world.living("exec") if each.container_id == state.container_id]
        gone = tuple(RemoveExec(exec_id=each.exec_id) for each in execs)
        return (*transactions.removed(state, at, self._branch.find_network), *gone, *anonymous)
