"""Addresses and ports of a whole host, through starts, ends and crashes: none is held twice, none is lost.

The ledgers are the real ones (networks, ports), on a log in memory; containers are only who lives. A crash ends some of
them without a word; the restart gives back what the lease inspector finds, as every start of the engine does.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from typing import Any, cast

import trio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from engine.aggregates import network, ports
from engine.aggregates.decider import Command, Rejected
from engine.aggregates.network import AllocateEndpoint, NetworkState, ReleaseEndpoint
from engine.aggregates.values.endpoints import PortWish
from engine.aggregates.values.ids import ContainerID, EndpointID, NetworkID
from engine.aggregates.values.subnet import Pool
from engine.drivers.ports.drift import Holder, Ledger
from engine.reactors.inspections import LeaseInspector
from tests.aggregates import test_network
from tests.support.memory import Memory

OWNERS = [ContainerID(f"{number:064x}") for number in range(1, 9)]
NETWORKS = {
    NetworkID("a" * 64): (Pool(subnet="172.18.0.0/29", gateway="172.18.0.1"),),
    NetworkID("b" * 64): (
        Pool(subnet="172.19.0.0/28", gateway="172.19.0.1", ip_range="172.19.0.8/30", auxiliary={"x": "172.19.0.9"}),
        Pool(subnet="fd00:b::/124", gateway="fd00:b::1"),
    ),
    NetworkID("c" * 64): (Pool(subnet="fd00:c::/125", gateway="fd00:c::1"),),
}
FIRST, LAST = 40000, 40005


class Reporter:
    """Of `Hands` no more than a lease inspector needs."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    async def report(self, _reactor: str, _correlation: str, *commands: Command) -> None:
        self._memory.execute(*commands)


class Host(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.memory = Memory()
        self.living: set[ContainerID] = set()
        self.drawn = 0
        for network_id, pools in NETWORKS.items():
            six = any(":" in pool.subnet for pool in pools)
            created = replace(test_network.create(*pools, enable_ipv6=six), network_id=network_id)
            self.memory.execute(created, network.ReportNetworkReady(network_id=network_id))

    def states(self) -> list[NetworkState]:
        return [cast(NetworkState, self.memory.state("network", network_id)) for network_id in NETWORKS]

    def held(self) -> dict[ContainerID, Any]:
        return dict(self.memory.state("ports", ports.STREAM_KEY).held)

    def tell(self, *commands: Command) -> bool:
        before = len(self.memory.log)
        try:
            self.memory.execute(*commands)
        except Rejected:
            assert len(self.memory.log) == before, "half a start was written down"
            return False
        return True

    def place(self, owner: ContainerID, network_id: NetworkID, wanted: str = "") -> AllocateEndpoint:
        self.drawn += 1
        four, six = (wanted, "") if ":" not in wanted else ("", wanted)
        seed = self.drawn.to_bytes(6, "big")[-4:] + b"\0\0"
        return AllocateEndpoint(
            network_id=network_id, container_id=owner, endpoint_id=EndpointID(f"{self.drawn:064x}"),
            address=four, ipv6_address=six, seed=seed,
        )  # fmt: skip

    @rule(
        owner=st.sampled_from(OWNERS),
        networks=st.lists(st.sampled_from(list(NETWORKS)), unique=True, max_size=3),
        published=st.lists(st.sampled_from([0, 0, 80, 40001, 40003]), max_size=3),
    )
    def start(self, owner: ContainerID, networks: list[NetworkID], published: list[int]) -> None:
        """All a start needs, or nothing."""
        if owner in self.living:
            return
        wishes = tuple(
            PortWish(host_ip="0.0.0.0", first_port=port, last_port=port, container_port=80 + n)
            for n, port in enumerate(published)
        )
        reserve = ports.ReservePorts(container_id=owner, wishes=wishes, ephemeral_first=FIRST, ephemeral_last=LAST)
        if self.tell(*(self.place(owner, network_id) for network_id in networks), reserve):
            self.living.add(owner)

    @precondition(lambda self: self.living)
    @rule(
        data=st.data(),
        network_id=st.sampled_from(list(NETWORKS)),
        wanted=st.sampled_from(["", "", "172.18.0.3", "172.18.0.1", "172.19.0.9", "172.19.0.10", "fd00:c::5"]),
    )
    def connect(self, data: st.DataObject, network_id: NetworkID, wanted: str) -> None:
        owner = data.draw(st.sampled_from(sorted(self.living)))
        self.tell(self.place(owner, network_id, wanted))

    @precondition(lambda self: self.living)
    @rule(data=st.data(), network_id=st.sampled_from(list(NETWORKS)))
    def disconnect(self, data: st.DataObject, network_id: NetworkID) -> None:
        owner = data.draw(st.sampled_from(sorted(self.living)))
        assert self.tell(ReleaseEndpoint(network_id=network_id, container_id=owner))

    @precondition(lambda self: self.living)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        owner = data.draw(st.sampled_from(sorted(self.living)))
        self.living.discard(owner)
        given_back = [ReleaseEndpoint(network_id=network_id, container_id=owner) for network_id in NETWORKS]
        assert self.tell(*given_back, ports.ReleasePorts(container_id=owner))

    @rule(data=st.data())
    def crash_and_restart(self, data: st.DataObject) -> None:
        """Some ended, and nobody wrote it down."""
        gone = data.draw(st.sets(st.sampled_from(OWNERS)))
        self.living -= gone
        self.memory.check()
        trio.run(self._recover)
        holders = {owner for state in self.states() for owner in state.endpoints} | self.held().keys()
        assert holders <= self.living, "what nobody holds any more was not given back"

    async def _recover(self) -> None:
        inspector = LeaseInspector(cast(Any, Reporter(self.memory)))
        ledger = self.ledger()
        for difference in await inspector.look(ledger):
            await inspector.mend(difference, ledger)
        assert await inspector.look(self.ledger()) == []

    def ledger(self) -> Ledger:
        alive = {
            owner: Holder(container_id=owner, run=1, lives=True, starting=False, rests=True, begun=True)
            for owner in self.living
        }
        return Ledger(
            leases=tuple((state.network_id, owner) for state in self.states() for owner in state.endpoints),
            port_leases=tuple(self.held()),
            containers=alive,
        )

    @invariant()
    def nothing_is_held_twice_or_out_of_place(self) -> None:
        for state in self.states():
            held = list(state.endpoints.values())
            for kind in ("ipv4_address", "ipv6_address", "mac_address", "endpoint_id"):
                counts = Counter(value for each in held if (value := getattr(each, kind)))
                assert max(counts.values(), default=0) <= 1, counts
            kept = {pool.gateway for pool in state.settings.pools}
            kept |= {address for pool in state.settings.pools for address in pool.auxiliary.values()}
            for pool in state.settings.pools:
                subnet = ipaddress.ip_network(pool.subnet)
                given = [each.ipv6_address if subnet.version == 6 else each.ipv4_address for each in held]
                assert all(ipaddress.ip_address(address) in subnet for address in given)
                assert kept.isdisjoint(given)
        slots = Counter((port.protocol, port.host_port) for mine in self.held().values() for port in mine)
        assert max(slots.values(), default=0) <= 1, slots

    def teardown(self) -> None:
        """When everybody is gone, everything can be had again."""
        self.living.clear()
        trio.run(self._recover)
        for network_id, free in zip(NETWORKS, (5, 3, 6), strict=True):
            for owner in OWNERS[:free]:
                assert self.tell(self.place(owner, network_id)), f"an address of {network_id[:1]} has leaked"
            assert not self.tell(self.place(OWNERS[-1], network_id))
        wishes = tuple(
            PortWish(host_ip="0.0.0.0", first_port=0, last_port=0, container_port=number) for number in range(6)
        )
        everything = ports.ReservePorts(
            container_id=OWNERS[0], wishes=wishes, ephemeral_first=FIRST, ephemeral_last=LAST
        )
        assert self.tell(everything), "a port has leaked"


TestHost = Host.TestCase
TestHost.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
