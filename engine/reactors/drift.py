"""Drift: log and world compared at every start, and whenever somebody asks; what differs is mended, as events.

Owns: the ledger (what the log says should be), looking twice, the order intent (`drift.found`), effect, outcome.
Refuses to know: what a difference is made of; every part of the world has its inspector (docs/design/drift.md).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec
import trio

from engine.aggregates.container.lifecycle import Status
from engine.aggregates.container.state import ContainerState
from engine.aggregates.drift import ReportDrift, ReportMended, ReportUnmended
from engine.aggregates.network import NetworkStatus
from engine.aggregates.values.drift import Deviation, Difference, Outcome
from engine.aggregates.values.ids import ContainerID, VolumeName
from engine.aggregates.volume import VolumeStatus
from engine.drivers.ports.drift import Holder, Inspector, Ledger, LiveEndpoint
from engine.errors import PortError
from engine.reactors.base import Hands
from engine.reactors.images.removal import used
from engine.reactors.lifecycle.linked import Linked
from engine.reactors.lifecycle.sandbox import joins_of, spec_of
from engine.reactors.volume_mounts import VolumeMounts

logger = logging.getLogger("ishmael.drift")
NAME = "drift"
LOOKS_MAX = 4
BETWEEN_LOOKS_S = 0.25
"""What comes or goes just now (a namespace takes some milliseconds to die) is no difference: it must be there again."""
RESTING = frozenset({Status.RUNNING, Status.PAUSED})


MADE_ANYWAY = frozenset(
    {"bridge", "bridge address", "firewall element", "firewall rule", "firewall part", "published port"}
)


class Found(msgspec.Struct, frozen=True):
    """A difference, and whose it is to mend."""

    difference: Difference
    inspector: Inspector


class Drift:
    """inspectors: in the order in which their differences are mended."""

    def __init__(self, hands: Hands, linked: Linked, mounts: VolumeMounts, inspectors: Sequence[Inspector]) -> None:
        self._hands = hands
        self._linked = linked
        self._mounts = mounts
        self._inspectors = tuple(inspectors)
        self._mending = trio.Lock()

    async def look(self) -> tuple[Outcome, ...]:
        """All lasting differences of an engine at work. Changes nothing, and is no event."""
        found, _ = await self._lasting()
        return tuple(Outcome(difference=each.difference) for each in found)

    async def mend(self) -> tuple[Outcome, ...]:
        """Look, and mend what is found."""
        async with self._mending:
            found, ledger = await self._lasting()
            await self._tell([each.difference for each in found])
            return tuple([await self._mend_one(each, ledger) for each in found])

    async def before_recovery(self) -> tuple[Difference, ...]:
        """What a start mends on its way, because it makes it true without asking. A machine that has booted has nothing
        of ours yet, and that is no drift."""
        ledger = self._ledger(recovering=True)
        found = [each.difference for each in await self._look(ledger)]
        if any(each.kind == "firewall table" for each in found):
            return ()
        return tuple(each for each in found if each.kind in MADE_ANYWAY and _made_anyway(each))

    async def recovered(self, before: Sequence[Difference]) -> tuple[Outcome, ...]:
        """At the end of recovery: of what was found `before` it all is told that is there no more, and the rest is
        mended with whatever else differs. Nothing is under way, so one look is enough."""
        async with self._mending:
            ledger = self._ledger(recovering=True)
            found = await self._look(ledger)
            left = {each.difference.key for each in found}
            gone = [each for each in before if each.key not in left]
            await self._tell([*gone, *(each.difference for each in found)])
            told = [await self._mended(difference) for difference in gone]
            return (*told, *[await self._mend_one(each, ledger) for each in found])

    async def _tell(self, differences: Sequence[Difference]) -> None:
        report = ReportDrift(at=self._hands.clock.now_ns(), differences=tuple(differences))
        await self._hands.report(NAME, "drift", report)

    async def _mend_one(self, found: Found, ledger: Ledger) -> Outcome:
        difference = found.difference
        try:
            await found.inspector.mend(difference, ledger)
        except (PortError, OSError) as error:
            words = error.message if isinstance(error, PortError) else str(error)
            logger.warning("%s; it can not be mended: %s", difference.sentence, words)
            left = ReportUnmended(at=self._hands.clock.now_ns(), difference=difference, error=words)
            await self._hands.report(NAME, "drift", left)
            return Outcome(difference=difference, error=words)
        return await self._mended(difference)

    async def _mended(self, difference: Difference) -> Outcome:
        logger.warning("%s; mended", difference.sentence)
        mended = ReportMended(at=self._hands.clock.now_ns(), difference=difference)
        await self._hands.report(NAME, "drift", mended)
        return Outcome(difference=difference, error="")

    async def _lasting(self) -> tuple[list[Found], Ledger]:
        """What several looks have in common, and the ledger of the last of them."""
        ledger = self._ledger()
        found = await self._look(ledger)
        for _ in range(LOOKS_MAX - 1):
            if not found:
                break
            await trio.sleep(BETWEEN_LOOKS_S)
            ledger = self._ledger()
            again = await self._look(ledger)
            before = {each.difference for each in found}
            lasting = [each for each in again if each.difference in before]
            if len(lasting) == len(found):
                break
            found = lasting
        return found, ledger

    async def _look(self, ledger: Ledger) -> list[Found]:
        found: list[Found] = []
        for inspector in self._inspectors:
            found += [Found(each, inspector) for each in await inspector.look(ledger)]
        return found

    def _ledger(self, *, recovering: bool = False) -> Ledger:
        views = self._hands.views
        holders = {state.container_id: _holder(state) for state in views.containers}
        ready = [state for state in views.networks if state.status is NetworkStatus.READY]
        unsettled = (NetworkStatus.CREATING, NetworkStatus.REMOVING)
        changing = [state for state in views.networks if state.status in unsettled]
        held = self._hands.application.state("ports", "host").held
        return Ledger(
            networks=tuple(spec_of(state) for state in ready),
            changing=tuple(spec_of(state) for state in changing),
            endpoints=tuple(
                LiveEndpoint(container_id=state.container_id, pid=state.pid, join=join)
                for state in views.containers
                if holders[state.container_id].rests and state.pid
                for join in self._linked.opened(state, joins_of(state, views.networks))
            ),
            leased=frozenset(endpoint.endpoint_id for state in views.networks for endpoint in state.endpoints.values()),
            ports=frozenset(port for ports in held.values() for port in ports),
            leases=tuple((state.network_id, owner) for state in views.networks for owner in state.endpoints),
            port_leases=tuple(ContainerID(owner) for owner in held),
            containers=holders,
            volumes={state.name: state.options for state in views.volumes if state.status is VolumeStatus.READY},
            mounted=frozenset(
                VolumeName(point.name)
                for state in views.containers
                if holders[state.container_id].rests
                for point in state.mounts
                if point.type == "volume"
            ),
            in_use=self._mounts.in_use(),
            layers=frozenset(
                chain_id
                for chain in (*(s.chain for s in views.images), *(s.layers for s in views.containers))
                for chain_id in chain
            ),
            leased_layers=frozenset(used(self._hands)[1]),
            recovering=recovering,
        )


def _made_anyway(difference: Difference) -> bool:
    """A start makes what is missing and writes its rules anew; what is nobody's it leaves for the end."""
    return difference.deviation is not Deviation.STRAY or difference.kind == "firewall rule"


def _holder(state: ContainerState) -> Holder:
    return Holder(
        container_id=state.container_id,
        run=state.run,
        lives=state.alive or state.starting,
        starting=state.starting,
        rests=state.status in RESTING and not state.connecting and not state.disconnecting and not state.kill_signal,
        begun=state.has_been_started,
    )
