"""Bridges follow the log, whatever comes in between."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import trio
from msgspec.structs import replace

from engine.aggregates.network import NetworkSettings, NetworkState, NetworkStatus
from engine.aggregates.values.ids import NetworkID
from engine.drivers.ports.network import NetworkSpec
from engine.reactors.networks import NetworkReactor

READY = NetworkState(
    network_id=NetworkID("b" * 64), status=NetworkStatus.READY, settings=NetworkSettings(name="back", driver="bridge")
)


class SlowBridges:
    """A kernel in which nothing is done at once."""

    def __init__(self) -> None:
        self.there: set[str] = set()

    async def create(self, spec: NetworkSpec) -> None:
        await trio.sleep(2)
        self.there.add(spec.network_id)

    async def remove(self, spec: NetworkSpec) -> None:
        await trio.sleep(1)
        self.there.discard(spec.network_id)


async def test_a_network_that_is_removed_while_it_is_made_again_leaves_no_bridge(autojump_clock: object) -> None:
    states, reported = {READY.network_id: READY}, trio.Event()

    async def removal(*_: object) -> Any:
        await trio.sleep(0.5)  # the bridge is on its way
        states[READY.network_id] = replace(READY, status=NetworkStatus.REMOVING)
        yield SimpleNamespace(key=READY.network_id, cause=SimpleNamespace(correlation="rm"))
        await trio.sleep_forever()

    async def report(reactor: str, correlation: str, *commands: object) -> None:
        reported.set()

    hands = SimpleNamespace(
        application=SimpleNamespace(state=lambda kind, key: states[key]),
        views=SimpleNamespace(networks=[READY]),
        pump=SimpleNamespace(subscribe=removal),
        report=report,
    )
    bridges = SlowBridges()
    reactor = NetworkReactor(cast("Any", hands), cast("Any", bridges), unrestored=[READY.network_id])
    with trio.move_on_after(60):
        await reactor.run(0)
    assert reported.is_set()
    assert bridges.there == set()
