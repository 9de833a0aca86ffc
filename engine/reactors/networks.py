"""Networks: bridges follow the log."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

import trio
from msgspec.structs import replace

from engine.aggregates.names import NameKind, ReleaseName
from engine.aggregates.network import (
    NetworkState,
    NetworkStatus,
    ReportNetworkFailed,
    ReportNetworkReady,
    ReportNetworkRemoved,
)
from engine.aggregates.values.ids import NetworkID
from engine.drivers.ports.network import Networks
from engine.errors import PortError
from engine.reactors.base import Hands, Works, follow_states, surely
from engine.reactors.lifecycle.sandbox import spec_of
from engine.reactors.turns import Turns

NAME = "networks"


class NetworkReactor:
    """Run inside the root nursery, after reconciliation."""

    def __init__(self, hands: Hands, networks: Networks, unrestored: Collection[NetworkID] = ()) -> None:
        """unrestored: networks that are ready by the log, and that recovery could not make again."""
        self._hands = hands
        self._networks = networks
        self._unrestored = frozenset(unrestored)
        self._turns = Turns()

    async def run(self, after: int, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Perform what every network asks for now, then follow the log from `after`."""
        living = self._hands.views.networks
        await follow_states(self._hands, living, "network", self._dispatch, after, task_status)

    def _dispatch(self, works: Works, state: NetworkState, correlation: str) -> None:
        def wanted() -> bool:
            now: NetworkState = self._hands.application.state("network", state.network_id)
            return now.status is state.status

        match state.status:
            case NetworkStatus.CREATING:
                works.begin(("create", state.network_id), partial(self._create, state, correlation), wanted)
            case NetworkStatus.READY if state.network_id in self._unrestored:
                works.begin(("restore", state.network_id), partial(self._restore, state), wanted)
            case NetworkStatus.REMOVING:
                works.begin(("remove", state.network_id), partial(self._remove, state, correlation), wanted)

    async def _restore(self, state: NetworkState) -> None:
        async with self._turns.turn(state.network_id):
            now: NetworkState = self._hands.application.state("network", state.network_id)
            if now.status is NetworkStatus.READY:
                await self._networks.create(spec_of(state))
            self._unrestored -= {state.network_id}

    async def _create(self, state: NetworkState, correlation: str) -> None:
        try:
            if state.before is not None:
                await self._networks.remove(spec_of(replace(state, settings=state.before)))
            await self._networks.create(spec_of(state))
        except PortError as error:
            await surely(partial(self._undo, state), f"the bridge of {state.settings.name} is not given back")
            await self._hands.report(
                NAME,
                correlation,
                ReportNetworkFailed(network_id=state.network_id, error=error.message, fault=error.fault.value),
                ReleaseName(kind=NameKind.NETWORK, name=state.settings.name, owner=state.network_id),
            )
            return
        await self._hands.report(NAME, correlation, ReportNetworkReady(network_id=state.network_id))

    async def _undo(self, state: NetworkState) -> None:
        """The bridge may be there all the same: made by an engine that did not live to say so."""
        if state.network_id[:12] in (await self._networks.inventory()).bridges:
            await self._networks.remove(spec_of(state))

    async def _remove(self, state: NetworkState, correlation: str) -> None:
        async with self._turns.turn(state.network_id):  # somebody may have asked for it while it was restored
            await self._networks.remove(spec_of(state))
        await self._hands.report(
            NAME,
            correlation,
            ReportNetworkRemoved(network_id=state.network_id),
            ReleaseName(kind=NameKind.NETWORK, name=state.settings.name, owner=state.network_id),
        )
