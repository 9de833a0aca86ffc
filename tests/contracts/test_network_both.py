"""Networks and Sandboxes as engines use them: what the kernel's driver and the simulated one promise alike.

What traffic sees is the kernel's, and in test_network_publishing.py and test_network_isolation.py.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import AsyncIterator
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import dnslib
import pytest
import trio

from engine.aggregates.values.drift import Deviation
from engine.aggregates.values.endpoints import PublishedPort
from engine.aggregates.values.ids import ContainerID
from engine.drivers.ports.drift import Ledger
from engine.drivers.ports.network import NameRecord, NetworkInventory
from engine.errors import PortError
from tests.contracts.test_network_resolver import exchange_udp
from tests.simulation.drivers.network import (
    SimulatedNetworkInspector,
    SimulatedNetworks,
    SimulatedResolver,
    SimulatedSandboxes,
)
from tests.simulation.faults import Faults, Gate
from tests.simulation.machine import Machine
from tests.support.netns import Container, World, open_world, own_network_namespace

WEB = PublishedPort(host_ip="0.0.0.0", host_port=8080, container_port=80)
DNS = PublishedPort(host_ip="0.0.0.0", host_port=5353, container_port=53, protocol="udp")


@pytest.fixture(params=[pytest.param("native", marks=pytest.mark.root), "simulated"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    if request.param == "native":
        with own_network_namespace():
            async with open_world() as opened:
                yield opened
        return
    async with trio.open_nursery() as nursery:
        machine = Machine(Random(1), nursery, lambda: 1)
        given = (machine, Gate(), Faults(Random(1)))
        networking = SimpleNamespace(
            networks=SimulatedNetworks(*given),
            sandboxes=SimulatedSandboxes(*given),
            resolver=SimulatedResolver(*given[1:]),
            inspector=SimulatedNetworkInspector(*given),
        )
        world = World(cast(Any, networking), cast(Any, None), -1, nursery)
        yield world
        for container in list(world.containers):
            world.end(container)
        machine.close()
        nursery.cancel_scope.cancel()


async def inventory(world: World) -> NetworkInventory:
    return await world.networking.networks.inventory()


async def test_a_network_is_there_until_it_is_removed_however_often_it_is_asked_for(world: World) -> None:
    spec = await world.network(18)
    await world.networking.networks.create(spec)
    assert (await inventory(world)).bridges == (spec.network_id[:12],)
    for _ in range(2):
        await world.networking.networks.remove(spec)
    assert (await inventory(world)).bridges == ()


async def test_a_network_that_is_no_bridge_leaves_nothing_in_the_kernel(world: World) -> None:
    await world.network(18, driver="null", subnets=(), gateways=())
    assert await inventory(world) == NetworkInventory()


async def test_what_is_joined_is_in_the_inventory_and_what_left_is_not(world: World) -> None:
    spec = await world.network(18)
    one = await world.container(spec, 2, WEB, DNS)
    found = await inventory(world)
    assert found.veths == (one.joins[0].endpoint.endpoint_id[:7],)
    assert {(port.host_port, port.protocol) for port in found.ports} == {(8080, "tcp"), (5353, "udp")}
    for _ in range(2):
        await world.networking.sandboxes.leave(one.container_id, one.joins, sandbox_gone=False)
    found = await inventory(world)
    assert found.veths == found.ports == ()


async def test_interfaces_go_with_their_namespace_and_ports_when_they_are_told_to(world: World) -> None:
    one = await world.container(await world.network(18), 2, WEB)
    world.end(one)
    with trio.fail_after(10):
        while (await inventory(world)).veths:
            await trio.sleep(0.01)  # the kernel destroys a namespace in the background and tells nobody
    assert len((await inventory(world)).ports) == 1
    await world.networking.sandboxes.leave(one.container_id, one.joins, sandbox_gone=True)
    assert (await inventory(world)).ports == ()


async def test_a_namespace_that_somebody_holds_keeps_its_interface_though_its_owner_is_gone(world: World) -> None:
    """Whoever knows that it is shared says so, and takes the interface away."""
    one = await world.container(await world.network(18), 2)
    shared = os.dup(one.netns_fd)
    world.end(one)
    await world.networking.sandboxes.leave(one.container_id, one.joins, sandbox_gone=True)
    assert len((await inventory(world)).veths) == 1
    await world.networking.sandboxes.leave(one.container_id, one.joins, sandbox_gone=False)
    assert (await inventory(world)).veths == ()
    os.close(shared)


async def test_several_endpoints_are_joined_at_once_and_left_one_by_one(world: World) -> None:
    one = await world.container_on(await world.network(18), await world.network(19))
    first, second = (join.endpoint.endpoint_id[:7] for join in one.joins)
    assert set((await inventory(world)).veths) == {first, second}
    await world.networking.sandboxes.leave(one.container_id, one.joins[:1], sandbox_gone=False)
    assert (await inventory(world)).veths == (second,)


async def test_joining_is_all_or_nothing(world: World) -> None:
    """The second network is gone: the first one is not joined either, and no port is published."""
    first, second = await world.network(18), await world.network(19)
    await world.networking.networks.remove(second)
    container_id = ContainerID(secrets.token_hex(32))
    netns_fd = await world.networking.sandboxes.open(container_id, {})
    joins = [
        world.plan_join(first, container_id, 2, WEB, interface="eth0"),
        world.plan_join(second, container_id, 2, interface="eth1"),
    ]
    with pytest.raises(PortError):
        await world.networking.sandboxes.join(container_id, netns_fd, joins)
    found = await inventory(world)
    assert found.veths == found.ports == ()
    os.close(netns_fd)


async def test_an_interface_that_exists_is_not_joined_twice(world: World) -> None:
    first, second = await world.network(18), await world.network(19)
    one = await world.container(first, 2)
    with pytest.raises(PortError, match="file exists"):
        await world.networking.sandboxes.join(
            one.container_id, one.netns_fd, [world.plan_join(second, one.container_id, 3, interface="eth0")]
        )
    assert (await inventory(world)).veths == (one.joins[0].endpoint.endpoint_id[:7],)


async def test_nothing_is_published_for_an_internal_network(world: World) -> None:
    await world.container(await world.network(18, internal=True), 2, WEB)
    assert (await inventory(world)).ports == ()


async def test_what_is_nobodys_is_found_and_mended_and_the_rest_stays(world: World) -> None:
    mine, orphan = await world.network(18), await world.network(19)
    stays = await world.container(mine, 2, WEB)
    await world.container(orphan, 2, DNS)
    inspector = world.networking.inspector
    leased = frozenset({stays.joins[0].endpoint.endpoint_id})
    ledger = Ledger(networks=(mine,), leased=leased, ports=frozenset({WEB}), recovering=True)
    found = await inspector.look(ledger)
    assert {each.kind for each in found} >= {"bridge", "veth", "published port"}
    assert {each.deviation for each in found} == {Deviation.STRAY}
    for difference in found:
        await inspector.mend(difference, ledger)
    assert await inspector.look(ledger) == []
    left = await inventory(world)
    assert left.bridges == (mine.network_id[:12],)
    assert left.veths == (stays.joins[0].endpoint.endpoint_id[:7],)
    assert left.ports == (WEB,)


async def test_a_bridge_that_is_gone_is_found_and_made_again(world: World) -> None:
    spec = await world.network(18)
    ledger = Ledger(networks=(spec,), recovering=True)
    assert await world.networking.inspector.look(ledger) == []
    await world.networking.networks.remove(spec)
    found = await world.networking.inspector.look(ledger)
    assert {(each.kind, each.deviation) for each in found} >= {("bridge", Deviation.MISSING)}
    for difference in found:
        await world.networking.inspector.mend(difference, ledger)
    assert await world.networking.inspector.look(ledger) == []


async def test_a_namespace_of_nobody_is_not_entered(world: World) -> None:
    nobody = 2**22 - 1
    for asked in (world.networking.sandboxes.enter, world.networking.sandboxes.free_interface):
        with pytest.raises(PortError):
            await asked(ContainerID(secrets.token_hex(32)), nobody)


async def test_a_container_is_told_the_names_of_its_networks_until_nobody_serves_it(world: World) -> None:
    """The Resolver port: serving again changes the networks, a zone is replaced whole, and stopping may be repeated."""
    front, back = await world.network(18), await world.network(19)
    one = await world.container(front, 2)
    resolver = world.networking.resolver
    resolver.publish(front.network_id, [NameRecord(name="web", ipv4_address="172.18.0.5")])
    resolver.publish(back.network_id, [NameRecord(name="db", ipv4_address="172.19.0.6")])
    await resolver.serve(one.container_id, one.netns_fd, [front.network_id], [])
    assert await names(world, one, "web", "db") == ["172.18.0.5"]
    await resolver.serve(one.container_id, one.netns_fd, [front.network_id, back.network_id], [])
    assert await names(world, one, "web", "db") == ["172.18.0.5", "172.19.0.6"]
    resolver.publish(front.network_id, [NameRecord(name="other", ipv4_address="172.18.0.7")])
    assert await names(world, one, "web", "other") == ["172.18.0.7"]
    resolver.publish(front.network_id, [])
    assert await names(world, one, "other") == []
    for _ in range(2):
        await resolver.stop_serving(one.container_id)
    assert await names(world, one, "db") == []


async def names(world: World, container: Container, *asked: str) -> list[str]:
    """The addresses a container is given for those names that it is given one for."""
    resolver = world.networking.resolver
    if isinstance(resolver, SimulatedResolver):
        records = [record for name in asked for record in resolver.records(container.container_id, name)]
        return [record.ipv4_address for record in records]
    found = []
    for name in asked:
        packet = dnslib.DNSRecord.question(name).pack()
        with contextlib.suppress(ConnectionRefusedError):
            answer = dnslib.DNSRecord.parse(await exchange_udp(world, container.netns_fd, "127.0.0.11", packet))
            found += [str(row.rdata) for row in answer.rr]
    return found
