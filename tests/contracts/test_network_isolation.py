"""Who reaches whom: networks, containers kept apart, links, and hosts outside, in namespaces of their own."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path

import msgspec
import pytest
import trio

from engine.aggregates.values.ids import ContainerID, NetworkID
from engine.drivers.linux.network.state import NetworkingOptions
from engine.drivers.ports.network import NetworkSpec, Opening
from engine.errors import PortError
from tests.support.netns import HOST_ADDRESS, Container, World, link_names, mended, open_world, published

pytestmark = pytest.mark.root
HOST = -1
ROUTED = {f"com.docker.network.bridge.gateway_mode_ipv{version}": "routed" for version in (4, 6)}
ICC_OFF = {"com.docker.network.bridge.enable_icc": "false"}


async def test_networks_are_isolated_from_each_other(world: World) -> None:
    one = await world.container(await world.network(18), 2)
    two = await world.container(await world.network(19), 2, published(8080))
    await world.serve_tcp(two.netns_fd, 80)
    assert not await world.reaches(one.netns_fd, two.address, 80)


async def test_an_unpublished_port_is_not_reached_from_another_host(world: World) -> None:
    one = await world.container(await world.network(18), 2, published(8080))
    await world.serve_tcp(one.netns_fd, 80)
    await world.serve_tcp(one.netns_fd, 81)
    assert not await world.reaches(world.outside_fd, one.address, 81)
    assert not await world.reaches(world.outside_fd, one.address, 80)


async def test_gateway_mode_nat_unprotected_lets_other_hosts_reach_unpublished_ports(world: World) -> None:
    """NET-08."""
    spec = await world.network(18, options={"com.docker.network.bridge.gateway_mode_ipv4": "nat-unprotected"})
    one = await world.container(spec, 2)
    await world.serve_tcp(one.netns_fd, 81)
    assert await world.ask_tcp(world.outside_fd, one.address, 81) == "81 10.99.0.2"


async def test_an_internal_network_reaches_its_own_and_nothing_else(world: World) -> None:
    spec = await world.network(18, internal=True)
    one = await world.container(spec, 2, published(8080))
    two = await world.container(spec, 3)
    await world.serve_tcp(two.netns_fd, 80)
    await world.serve_tcp(world.outside_fd, 7000)
    assert await world.ask_tcp(one.netns_fd, two.address, 80) == f"80 {one.address}"
    assert not await world.reaches(one.netns_fd, "10.99.0.2", 7000)
    assert not await world.reaches(world.outside_fd, two.address, 80)
    assert not await world.reaches(world.outside_fd, HOST_ADDRESS, 8080)


async def test_with_icc_off_containers_reach_the_host_but_not_each_other(world: World) -> None:
    """NET-08, NET-18."""
    spec = await world.network(18, options=ICC_OFF)
    one = await world.container(spec, 2)
    two = await world.container(spec, 3, published(8080))
    await world.serve_tcp(two.netns_fd, 80)
    await world.serve_tcp(HOST, 9000)
    assert not await world.reaches(one.netns_fd, two.address, 80)
    assert (await world.ask_tcp(one.netns_fd, "172.18.0.1", 9000)).startswith("9000")
    assert (await world.ask_tcp(world.outside_fd, HOST_ADDRESS, 8080)).startswith("80")


@pytest.mark.parametrize("br_netfilter", ["0", "1"])
async def test_with_icc_off_a_link_opens_the_exposed_ports_of_one_container(world: World, br_netfilter: str) -> None:
    """NET-18, CTR-44: whether bridged frames meet the rules of the IP layer or not; both families."""
    for setting in Path("/proc/sys/net/bridge").glob("bridge-nf-call-ip*tables"):
        setting.write_text(br_netfilter)
    spec = await world.network(18, ipv6=True, options=ICC_OFF)
    database, other = await world.container(spec, 2), await world.container(spec, 3)
    web = await linked(world, spec, 4, opening(database, "5432/tcp", "53/udp"))
    for each in (database, other, web):
        await world.serve_tcp(each.netns_fd, 5432)
        await world.serve_tcp(each.netns_fd, 5433)
        await world.serve_tcp(each.netns_fd, 5432, address=each.address6)
        await world.serve_udp(each.netns_fd, 53)
    assert await world.ask_tcp(web.netns_fd, database.address, 5432) == f"5432 {web.address}"
    assert await world.ask_tcp(web.netns_fd, database.address6, 5432) == f"5432 {web.address6}"
    assert await world.ask_udp(web.netns_fd, database.address, 53) == "53 hello"
    refused = [(web, database, 5433), (web, other, 5432), (database, web, 5432), (database, web, 5433)]
    refused += [(other, web, 5432), (other, database, 5432), (database, other, 5432)]
    for one, two, port in refused:
        assert not await world.reaches(one.netns_fd, two.address, port), (one.address, two.address, port)
    with pytest.raises(trio.TooSlowError):
        await world.ask_udp(web.netns_fd, other.address, 53, within_s=0.3)
    await world.serve_tcp(HOST, 9000)
    assert (await world.ask_tcp(web.netns_fd, "172.18.0.1", 9000)).startswith("9000")


async def test_an_exposed_port_answers_and_opens_nothing(world: World) -> None:
    """NET-18: who is linked to does not reach the one that links, even from the port that may answer."""
    spec = await world.network(18, options=ICC_OFF)
    database = await world.container(spec, 2)
    web = await linked(world, spec, 4, opening(database, "5432/tcp"))
    await world.serve_tcp(web.netns_fd, 80)

    def from_the_exposed_port() -> None:
        with socket.create_connection((web.address, 80), timeout=0.3, source_address=(database.address, 5432)):
            pass

    with pytest.raises(TimeoutError):
        await world.inside(database.netns_fd, from_the_exposed_port)


@pytest.mark.parametrize("br_netfilter", ["0", "1"])
@pytest.mark.parametrize("ipv6", [False, True])
async def test_datagrams_in_fragments_pass_a_link(world: World, br_netfilter: str, ipv6: bool) -> None:
    """NET-18."""
    for setting in Path("/proc/sys/net/bridge").glob("bridge-nf-call-ip*tables"):
        setting.write_text(br_netfilter)
    spec = await world.network(18, ipv6=True, options=ICC_OFF)
    database = await world.container(spec, 2)
    web = await linked(world, spec, 4, opening(database, "53/udp"))
    address = database.address6 if ipv6 else database.address
    await world.serve_udp(database.netns_fd, 53, address="::" if ipv6 else "0.0.0.0")

    def ask() -> bytes:
        with socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(3)
            client.connect((address, 53))
            client.send(b"x" * 1900)
            return client.recv(4000)

    assert await world.inside(web.netns_fd, ask) == b"53 " + b"x" * 1900


async def test_what_a_link_opened_follows_the_links_and_ends_with_its_container(world: World) -> None:
    """NET-18, CTR-44."""
    spec = await world.network(18, options=ICC_OFF)
    one, two = await world.container(spec, 2), await world.container(spec, 3)
    web = await linked(world, spec, 4, opening(one, "80/tcp"))
    for each in (one, two):
        await world.serve_tcp(each.netns_fd, 80)
    sandboxes = world.networking.sandboxes
    moved = msgspec.structs.replace(web.joins[0], openings=(opening(two, "80/tcp"),))
    await sandboxes.open_between(moved)
    await sandboxes.open_between(moved)
    assert not await world.reaches(web.netns_fd, one.address, 80)
    assert await world.ask_tcp(web.netns_fd, two.address, 80) == f"80 {web.address}"
    await sandboxes.open_between(msgspec.structs.replace(moved, openings=()))
    assert not await world.reaches(web.netns_fd, two.address, 80)
    world.end(web)
    await sandboxes.leave(web.container_id, web.joins, sandbox_gone=True)
    await sandboxes.leave(web.container_id, web.joins, sandbox_gone=True)
    veth = f"veth{web.joins[0].endpoint.endpoint_id[:7]}"
    assert veth not in os.popen("nft list table bridge ishmael").read()


async def test_what_a_link_of_a_lost_container_opened_is_found_as_an_orphan(world: World) -> None:
    spec = await world.network(18, options=ICC_OFF)
    database = await world.container(spec, 2)
    web = await linked(world, spec, 4, opening(database, "80/tcp"))
    name = web.joins[0].endpoint.endpoint_id[:7]
    world.end(web)
    with trio.fail_after(10):
        while f"veth{name}" in link_names():
            await trio.sleep(0.01)  # the kernel destroys a namespace in the background and tells nobody
    assert name in (await world.networking.networks.inventory()).veths
    await mended(world.networking, spec, database)
    assert name not in (await world.networking.networks.inventory()).veths
    assert name not in os.popen("nft list table bridge ishmael").read()


async def test_a_refused_join_opens_nothing(world: World) -> None:
    spec = await world.network(18, options=ICC_OFF)
    database = await world.container(spec, 2)
    missing = msgspec.structs.replace(spec, network_id=NetworkID("0" * 64))
    container_id = ContainerID(secrets.token_hex(32))
    netns_fd = await world.networking.sandboxes.open(container_id, {})
    first = msgspec.structs.replace(world.plan_join(spec, container_id, 4), openings=(opening(database, "80/tcp"),))
    second = world.plan_join(missing, container_id, 5, interface="eth1")
    with pytest.raises(PortError, match="has no bridge"):
        await world.networking.sandboxes.join(container_id, netns_fd, [first, second])
    os.close(netns_fd)
    inventory = await world.networking.networks.inventory()
    assert inventory.veths == (database.joins[0].endpoint.endpoint_id[:7],)


async def test_where_containers_reach_each_other_a_link_adds_no_rules(world: World) -> None:
    spec = await world.network(18)
    database = await world.container(spec, 2)
    await linked(world, spec, 4, opening(database, "80/tcp"))
    assert "bridge ishmael" not in os.popen("nft list tables").read()


async def test_forwarding_turned_on_by_the_driver_does_not_make_the_host_a_router_for_strangers(world: World) -> None:
    assert open("/proc/sys/net/ipv4/ip_forward").read() == "1\n"
    assert "policy drop" in os.popen("nft list chain ip ishmael forward").read()


async def test_forwarding_is_left_alone_when_told_so(namespace: None) -> None:
    """NET-17."""
    async with open_world(NetworkingOptions(forwarding=False, pool_size=1)):
        assert open("/proc/sys/net/ipv4/ip_forward").read() == "0\n"


async def test_an_isolated_network_has_no_address_of_the_host(world: World) -> None:
    options = {"com.docker.network.bridge.gateway_mode_ipv4": "isolated"}
    spec = await world.network(18, internal=True, options=options)
    one, two = await world.container(spec, 2), await world.container(spec, 3)
    await world.serve_tcp(two.netns_fd, 80)
    await world.serve_tcp(HOST, 9000)
    assert await world.ask_tcp(one.netns_fd, two.address, 80) == f"80 {one.address}"
    assert not await world.reaches(one.netns_fd, "172.18.0.1", 9000)
    assert "172.18.0.1" not in os.popen("ip addr").read()


@pytest.mark.parametrize("version", [4, 6])
async def test_a_routed_network_is_reached_at_its_own_addresses_and_only_published_ports(
    world: World, version: int
) -> None:
    spec = await world.network(18, ipv6=True, options=ROUTED)
    one = await world.container(spec, 2, published(8080), published(8080, host_ip="::"))
    here, there, any_address = {
        4: (HOST_ADDRESS, one.address, "0.0.0.0"),
        6: ("fd99::1", one.address6, "::"),
    }[version]
    for port in (80, 81):
        await world.serve_tcp(one.netns_fd, port, address=any_address)
    family = "-6" if version == 6 else "-4"
    subnet = next(subnet for subnet in spec.subnets if (":" in subnet) == (version == 6))
    await world.inside(world.outside_fd, lambda: os.system(f"ip {family} route add {subnet} via {here}"))
    assert (await world.ask_tcp(world.outside_fd, there, 80)).startswith("80 ")
    assert not await world.reaches(world.outside_fd, there, 81)
    assert not await world.reaches(world.outside_fd, here, 8080), "the host has no such port"
    assert not await world.reaches(HOST, here, 8080)
    outside = {4: "10.99.0.2", 6: "fd99::2"}[version]
    await world.serve_tcp(world.outside_fd, 7000, address=any_address)
    assert await world.ask_tcp(one.netns_fd, outside, 7000) == f"7000 {there}", "not masqueraded"
    await world.networking.sandboxes.leave(one.container_id, one.joins, sandbox_gone=False)
    assert "dport" not in os.popen("nft list set ip ishmael opened").read()
    assert one.address not in os.popen("nft list table ip ishmael").read()


async def test_one_family_may_be_routed_and_the_other_not(world: World) -> None:
    spec = await world.network(18, ipv6=True, options={"com.docker.network.bridge.gateway_mode_ipv6": "routed"})
    one = await world.container(spec, 2, published(8080), published(8080, host_ip="::"))
    await world.serve_tcp(one.netns_fd, 80)
    assert (await world.ask_tcp(world.outside_fd, HOST_ADDRESS, 8080)).startswith("80 ")
    assert not await world.reaches(world.outside_fd, "fd99::1", 8080)


async def linked(world: World, spec: NetworkSpec, last: int, *openings: Opening) -> Container:
    """A container that links: all that it reaches of its network are the openings."""
    container_id = ContainerID(secrets.token_hex(32))
    join = msgspec.structs.replace(world.plan_join(spec, container_id, last), openings=openings)
    netns_fd = await world.networking.sandboxes.open(container_id, {})
    await world.networking.sandboxes.join(container_id, netns_fd, [join])
    container = Container(container_id, netns_fd, [join])
    world.containers.append(container)
    return container


def opening(to: Container, *ports: str) -> Opening:
    return Opening(endpoint_id=to.joins[0].endpoint.endpoint_id, ports=ports)
