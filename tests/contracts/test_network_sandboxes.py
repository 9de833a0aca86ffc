"""Networks, sandboxes and published ports, as somebody with a socket notices them, in namespaces of their own."""

from __future__ import annotations

import errno
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
import trio

from engine.aggregates.values.endpoints import PublishedPort
from engine.aggregates.values.ids import ContainerID, NetworkID
from engine.drivers.linux.network import links, namespaces, netlink
from engine.drivers.linux.network.driver import LinuxNetworking
from engine.drivers.linux.network.state import NetworkingOptions
from engine.drivers.ports.drift import Ledger
from engine.drivers.ports.network import NetworkInventory, Networks, NetworkSpec, Opening, Sandboxes
from engine.errors import PortError
from tests.support.netns import HOST_ADDRESS, Container, World, link_names, open_world, running

pytestmark = pytest.mark.root
HOST = -1
ICC_OFF = {"com.docker.network.bridge.enable_icc": "false"}


def published(
    host_port: int, container_port: int = 80, protocol: str = "tcp", host_ip: str = "0.0.0.0"
) -> PublishedPort:
    return PublishedPort(host_ip=host_ip, host_port=host_port, container_port=container_port, protocol=protocol)


async def mended(networking: LinuxNetworking, *owned: NetworkSpec | Container) -> list[str]:
    """Make the kernel what a log says that knows these alone; the keys of what differed."""
    containers = [each for each in owned if isinstance(each, Container)]
    ledger = Ledger(
        networks=tuple(each for each in owned if isinstance(each, NetworkSpec)),
        leased=frozenset(join.endpoint.endpoint_id for each in containers for join in each.joins),
        ports=frozenset(port for each in containers for join in each.joins for port in join.ports),
        recovering=True,
    )
    found = await networking.inspector.look(ledger)
    for difference in found:
        await networking.inspector.mend(difference, ledger)
    return [each.key for each in found]


async def test_the_driver_has_the_shape_of_the_ports() -> None:
    networking = LinuxNetworking()
    networks: Networks = networking.networks
    sandboxes: Sandboxes = networking.sandboxes
    assert networks is not None
    assert sandboxes is not None


async def test_containers_of_a_network_reach_each_other_and_their_host(world: World) -> None:
    spec = await world.network(18)
    one = await world.container(spec, 2)
    two = await world.container(spec, 3)
    await world.serve_tcp(two.netns_fd, 80)
    await world.serve_tcp(HOST, 9000)
    assert await world.ask_tcp(one.netns_fd, two.address, 80) == f"80 {one.address}"
    assert await world.ask_tcp(one.netns_fd, "172.18.0.1", 9000) == f"9000 {one.address}"
    assert await world.ask_tcp(HOST, two.address, 80) == "80 172.18.0.1"


async def test_a_container_has_loopback_its_own_address_and_nothing_of_ipv6_on_eth0(world: World) -> None:
    spec = await world.network(18)
    one = await world.container(spec, 2)
    await world.serve_tcp(one.netns_fd, 80, address="127.0.0.1")
    assert await world.ask_tcp(one.netns_fd, "127.0.0.1", 80) == "80 127.0.0.1"
    addresses = await world.inside(one.netns_fd, lambda: open("/proc/thread-self/net/if_inet6").read())
    assert "eth0" not in addresses


async def test_a_container_leaves_under_the_address_of_the_host(world: World) -> None:
    spec = await world.network(18)
    one = await world.container(spec, 2)
    await world.serve_tcp(world.outside_fd, 7000)
    assert await world.ask_tcp(one.netns_fd, "10.99.0.2", 7000) == f"7000 {HOST_ADDRESS}"


async def test_without_masquerade_a_container_leaves_under_its_own_address(world: World) -> None:
    """NET-08."""
    spec = await world.network(18, options={"com.docker.network.bridge.enable_ip_masquerade": "false"})
    one = await world.container(spec, 2)
    await world.serve_tcp(world.outside_fd, 7000)
    assert await world.ask_tcp(one.netns_fd, "10.99.0.2", 7000) == "7000 172.18.0.2"


@pytest.mark.parametrize("host_address", [HOST_ADDRESS, "127.0.0.1", "172.18.0.1"])
async def test_a_published_port_answers_at_every_address_of_the_host(world: World, host_address: str) -> None:
    spec = await world.network(18)
    one = await world.container(spec, 2, published(8080))
    await world.serve_tcp(one.netns_fd, 80)
    assert (await world.ask_tcp(HOST, host_address, 8080)).startswith("80 ")


async def test_a_published_port_answers_another_host_and_shows_its_address(world: World) -> None:
    spec = await world.network(18)
    one = await world.container(spec, 2, published(8080))
    await world.serve_tcp(one.netns_fd, 80)
    assert await world.ask_tcp(world.outside_fd, HOST_ADDRESS, 8080) == "80 10.99.0.2"


@pytest.mark.parametrize("host_address", [HOST_ADDRESS, "172.18.0.1"])
async def test_a_published_port_answers_siblings_and_the_container_itself(world: World, host_address: str) -> None:
    spec = await world.network(18)
    one = await world.container(spec, 2, published(8080))
    two = await world.container(spec, 3)
    await world.serve_tcp(one.netns_fd, 80)
    assert (await world.ask_tcp(two.netns_fd, host_address, 8080)).startswith("80 ")
    assert (await world.ask_tcp(one.netns_fd, host_address, 8080)).startswith("80 ")


async def test_a_published_port_answers_a_container_of_another_network(world: World) -> None:
    one = await world.container(await world.network(18), 2, published(8080))
    two = await world.container(await world.network(19), 2)
    await world.serve_tcp(one.netns_fd, 80)
    assert (await world.ask_tcp(two.netns_fd, HOST_ADDRESS, 8080)).startswith("80 ")
    assert (await world.ask_tcp(two.netns_fd, "172.19.0.1", 8080)).startswith("80 ")


async def test_a_published_udp_port_answers(world: World) -> None:
    spec = await world.network(18)
    one = await world.container(spec, 2, published(5353, 53, "udp"))
    await world.serve_udp(one.netns_fd, 53)
    assert await world.ask_udp(HOST, "127.0.0.1", 5353) == "53 hello"
    assert await world.ask_udp(world.outside_fd, HOST_ADDRESS, 5353) == "53 hello"
    assert await world.ask_udp(one.netns_fd, HOST_ADDRESS, 5353) == "53 hello"


async def test_a_port_published_at_one_address_answers_only_there(world: World) -> None:
    spec = await world.network(18)
    one = await world.container(spec, 2, published(8080, host_ip="127.0.0.1"))
    await world.serve_tcp(one.netns_fd, 80)
    assert (await world.ask_tcp(HOST, "127.0.0.1", 8080)).startswith("80 ")
    assert not await world.reaches(world.outside_fd, HOST_ADDRESS, 8080)
    assert not await world.reaches(HOST, HOST_ADDRESS, 8080)


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


async def test_containers_can_not_reach_what_listens_on_the_hosts_loopback(world: World) -> None:
    spec = await world.network(18)
    one = await world.container(spec, 2)
    await world.serve_tcp(HOST, 9000, address="127.0.0.1")

    def to_host_loopback() -> None:
        # A container with CAP_NET_ADMIN can send to 127.0.0.1 by way of the bridge.
        os.system(
            "ip addr del 127.0.0.1/8 dev lo; sysctl -qw net.ipv4.conf.eth0.route_localnet=1;"
            "ip route del local 127.0.0.0/8 table local 2>/dev/null; ip route add 127.0.0.1 via 172.18.0.1"
        )

    await world.inside(one.netns_fd, to_host_loopback)
    assert not await world.reaches(one.netns_fd, "127.0.0.1", 9000)


async def test_a_port_a_foreign_process_listens_on_is_refused_in_dockers_words_and_nothing_leaks(world: World) -> None:
    spec = await world.network(18)
    await world.serve_tcp(HOST, 8080)
    before = link_names()
    with pytest.raises(PortError) as refused:
        await world.container(spec, 2, published(8081), published(8080))
    assert refused.value.errno == errno.EADDRINUSE
    assert refused.value.message.startswith("driver failed programming external connectivity on endpoint web (")
    assert refused.value.message.endswith(
        "failed to bind host port for 0.0.0.0:8080:172.18.0.2:80/tcp: address already in use"
    )
    assert link_names() == before
    assert (await world.networking.networks.inventory()).ports == ()
    await world.container(spec, 2, published(8081))


async def test_a_published_port_can_not_be_taken_by_a_foreign_process(world: World) -> None:
    await world.container(await world.network(18), 2, published(8080), published(5353, 53, "udp"))
    for kind, port in ((socket.SOCK_STREAM, 8080), (socket.SOCK_DGRAM, 5353)):
        with socket.socket(socket.AF_INET, kind) as foreign, pytest.raises(OSError, match="in use"):
            foreign.bind(("0.0.0.0", port))


async def test_after_leave_and_the_end_of_its_processes_nothing_of_a_container_is_left(world: World) -> None:
    spec = await world.network(18)
    before = link_names()
    one = await world.container(spec, 2, published(8080), published(5353, 53, "udp"))
    assert link_names() != before
    world.end(one)
    await world.networking.sandboxes.leave(one.container_id, one.joins, sandbox_gone=True)
    inventory = await world.networking.networks.inventory()
    assert inventory.ports == ()
    with trio.fail_after(10):
        while link_names() != before:
            await trio.sleep(0.01)  # the kernel destroys a namespace in the background and tells nobody
    again = await world.container(spec, 2, published(8080), published(5353, 53, "udp"))
    await world.serve_tcp(again.netns_fd, 80)
    assert (await world.ask_tcp(HOST, "127.0.0.1", 8080)).startswith("80")


async def test_leave_of_a_living_sandbox_takes_the_interface_away_and_may_be_repeated(world: World) -> None:
    first, second = await world.network(18), await world.network(19)
    one = await world.container(first, 2)
    extra = world.plan_join(second, one.container_id, 7, published(8080), interface="eth1")
    await world.networking.sandboxes.join(one.container_id, one.netns_fd, [extra])
    assert await world.inside(one.netns_fd, link_names) == ["lo", "eth0", "eth1"]
    await world.networking.sandboxes.leave(one.container_id, [extra], sandbox_gone=False)
    await world.networking.sandboxes.leave(one.container_id, [extra], sandbox_gone=False)
    assert await world.inside(one.netns_fd, link_names) == ["lo", "eth0"]
    assert (await world.networking.networks.inventory()).ports == ()


async def test_several_endpoints_are_joined_at_once_and_one_carries_the_default_route(world: World) -> None:
    one = await world.container_on(await world.network(18), await world.network(19))
    routes = await world.inside(one.netns_fd, lambda: os.popen("ip route show default").read())
    assert routes.split()[:5] == ["default", "via", "172.18.0.1", "dev", "eth0"]


async def test_sysctls_are_written_in_the_sandbox_and_a_wrong_one_is_named(world: World) -> None:
    container_id = ContainerID(secrets.token_hex(32))
    before = open("/proc/sys/net/ipv4/ip_unprivileged_port_start").read()
    netns_fd = await world.networking.sandboxes.open(container_id, {"net.ipv4.ip_unprivileged_port_start": "0"})
    read = await world.inside(netns_fd, lambda: open("/proc/sys/net/ipv4/ip_unprivileged_port_start").read())
    assert read == "0\n"
    assert open("/proc/sys/net/ipv4/ip_unprivileged_port_start").read() == before
    os.close(netns_fd)
    await world.networking.sandboxes.leave(container_id, [], sandbox_gone=True)
    with pytest.raises(PortError, match=r"/proc/sys/net/no/such"):
        await world.networking.sandboxes.open(container_id, {"net.no.such": "1"})


async def test_mac_address_and_mtu_are_as_asked(world: World) -> None:
    """NET-23."""
    spec = await world.network(18, options={"com.docker.network.driver.mtu": "1400"})
    one = await world.container(spec, 9)
    shown = await world.inside(one.netns_fd, lambda: os.popen("ip -o link show eth0").read())
    assert "mtu 1400" in shown
    assert "02:42:ac:00:00:09" in shown


async def test_create_is_idempotent_and_remove_leaves_nothing(world: World) -> None:
    before = link_names()
    spec = await world.network(18)
    await world.networking.networks.create(spec)
    bridge = f"br-{spec.network_id[:12]}"
    assert bridge in link_names()
    assert (await world.networking.networks.inventory()).bridges == (spec.network_id[:12],)
    await world.networking.networks.remove(spec)
    await world.networking.networks.remove(spec)
    assert link_names() == before
    assert bridge not in os.popen("nft list ruleset").read()


async def test_a_bridge_is_marked_as_ours_in_the_same_call_that_makes_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that is killed between two calls would leave one that is used as somebody else's, and never deleted."""
    sent: list[int] = []
    transact = netlink.transact

    def counted(route: socket.socket, requests: Sequence[netlink.Request]) -> None:
        transact(route, requests)
        sent.append(sum(link.kind == "bridge" and not link.alias for link in links.all_links(route)))

    monkeypatch.setattr(netlink, "transact", counted)
    await world.network(18)
    assert sent
    assert set(sent) == {0}


async def test_the_default_network_is_docker0_and_host_and_null_need_nothing(world: World) -> None:
    before = link_names()
    await world.network(17, name="bridge")
    assert set(link_names()) - set(before) == {"docker0"}
    for driver in ("host", "null"):
        await world.network(20, name=driver, driver=driver, subnets=(), gateways=())
    assert set(link_names()) - set(before) == {"docker0"}


async def test_a_bridge_that_the_user_made_is_used_and_never_deleted(world: World) -> None:
    """NET-08."""
    os.system("ip link add mine type bridge")
    spec = await world.network(18, options={"com.docker.network.bridge.name": "mine"})
    one = await world.container(spec, 2)
    await world.serve_tcp(one.netns_fd, 80)
    assert (await world.ask_tcp(HOST, one.address, 80)).startswith("80")
    await world.networking.networks.remove(spec)
    assert "mine" in link_names()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"com.docker.network.bridge.gateway_mode_ipv4": "isolated"}, "can only be used for an internal network"),
        ({"com.docker.network.bridge.gateway_mode_ipv6": "odd"}, "unknown gateway mode odd"),
        ({"com.docker.network.host_ipv4": "10.99.0.1"}, "not implemented"),
        ({"com.docker.network.driver.mtu": "much"}, "failed to parse mtu"),
        ({"com.docker.network.bridge.enable_icc": "maybe"}, "failed to parse com.docker.network.bridge.enable_icc"),
    ],
)
async def test_options_that_can_not_be_honoured_are_refused(world: World, options: dict[str, str], words: str) -> None:
    before = link_names()
    with pytest.raises(PortError, match=words):
        await world.network(18, options=options)
    assert link_names() == before


async def test_orphans_are_listed_by_their_owners_and_removed_and_foreign_things_stay(world: World) -> None:
    os.system("ip link add br-foreign type bridge; nft add table ip foreign")
    spec = await world.network(18)
    one = await world.container(spec, 2, published(8080), published(8081, host_ip="127.0.0.1"))
    inventory = await world.networking.networks.inventory()
    assert inventory.bridges == (spec.network_id[:12],)
    assert inventory.veths == (one.joins[0].endpoint.endpoint_id[:7],)
    assert [(port.host_ip, port.host_port) for port in inventory.ports] == [("0.0.0.0", 8080), ("127.0.0.1", 8081)]
    await mended(world.networking)
    assert await mended(world.networking) == []
    empty = await world.networking.networks.inventory()
    assert (empty.bridges, empty.veths, empty.ports) == ((), (), ())
    assert "br-foreign" in link_names()
    rules = os.popen("nft list ruleset").read()
    assert "foreign" in rules
    assert spec.network_id[:12] not in rules


async def test_published_ports_survive_the_engine_and_are_adopted(namespace: None) -> None:
    async with open_world() as world:
        spec: NetworkSpec = await world.network(18)
        one = await world.container(spec, 2, published(8080))
        await world.serve_tcp(one.netns_fd, 80)
        # A second driver takes over while the first has given up its sockets: the order of an engine's restart.
        for held in list(world.networking.sandboxes._held.values()):
            for reservation in held.reservations:
                reservation.close()
        assert (await world.ask_tcp(world.outside_fd, HOST_ADDRESS, 8080)).startswith("80")
        second = LinuxNetworking(NetworkingOptions(pool_size=1))
        async with running(second):
            assert (await world.ask_tcp(world.outside_fd, HOST_ADDRESS, 8080)).startswith("80")
            await second.networks.create(spec)
            await second.sandboxes.adopt(one.container_id, os.getpid(), one.joins)
            with socket.socket() as foreign, pytest.raises(OSError, match="in use"):
                foreign.bind(("0.0.0.0", 8080))
            assert (await world.ask_tcp(HOST, "127.0.0.1", 8080)).startswith("80")


async def test_forwarding_turned_on_by_the_driver_does_not_make_the_host_a_router_for_strangers(world: World) -> None:
    assert open("/proc/sys/net/ipv4/ip_forward").read() == "1\n"
    assert "policy drop" in os.popen("nft list chain ip ishmael forward").read()


async def test_ipv6_works_beside_ipv4(world: World) -> None:
    """NET-12."""
    spec = await world.network(18, ipv6=True)
    one = await world.container(spec, 2, published(8080, host_ip="::"), published(8080))
    two = await world.container(spec, 3)
    await world.serve_tcp(one.netns_fd, 80, address="::")
    assert await world.ask_tcp(two.netns_fd, one.address6, 80) == f"80 {two.address6}"
    assert (await world.ask_tcp(world.outside_fd, "fd99::1", 8080)) == "80 fd99::2"
    assert (await world.ask_tcp(HOST, "fd99::1", 8080)).startswith("80 ")
    assert (await world.ask_tcp(HOST, "::1", 8080)).startswith("80 ")
    assert (await world.ask_tcp(two.netns_fd, "fd99::1", 8080)).startswith("80 ")
    assert not await world.reaches(world.outside_fd, one.address6, 80)


async def test_an_ipv6_host_address_leads_to_a_container_without_ipv6(world: World) -> None:
    spec = await world.network(18)
    one = await world.container(
        spec, 2, published(8080), published(8080, host_ip="::"), published(5353, 53, "udp", host_ip="::")
    )
    await world.serve_tcp(one.netns_fd, 80)
    await world.serve_udp(one.netns_fd, 53)
    assert await world.ask_tcp(HOST, "::1", 8080) == "80 172.18.0.1"
    assert await world.ask_tcp(world.outside_fd, "fd99::1", 8080) == "80 172.18.0.1"
    assert await world.ask_udp(HOST, "::1", 5353) == "53 hello"
    await world.networking.sandboxes.leave(one.container_id, one.joins, sandbox_gone=False)
    assert not await world.reaches(HOST, "::1", 8080)


async def test_a_failed_join_of_several_undoes_the_first(world: World) -> None:
    spec = await world.network(18)
    container_id = ContainerID(secrets.token_hex(32))
    before = link_names()
    netns_fd = await world.networking.sandboxes.open(container_id, {})
    good = world.plan_join(spec, container_id, 2, published(8080))
    lost = msgspec.structs.replace(spec, network_id="f" * 64)
    bad = world.plan_join(lost, container_id, 3, interface="eth1")
    with pytest.raises(PortError, match="has no bridge"):
        await world.networking.sandboxes.join(container_id, netns_fd, [good, bad])
    os.close(netns_fd)
    assert link_names() == before
    assert (await world.networking.networks.inventory()).ports == ()
    with socket.socket() as free:
        free.bind(("0.0.0.0", 8080))


async def test_a_sandbox_without_endpoints_has_loopback_and_nothing_else(world: World) -> None:
    container_id = ContainerID(secrets.token_hex(32))
    netns_fd = await world.networking.sandboxes.open(container_id, {})
    await world.networking.sandboxes.join(container_id, netns_fd, [])
    assert await world.inside(netns_fd, link_names) == ["lo"]
    os.close(netns_fd)


async def test_a_killed_engine_leaves_bridges_and_ports_but_no_namespaces_of_its_own(namespace: None) -> None:
    process = subprocess.Popen([sys.executable, "-c", _ENGINE], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert await trio.to_thread.run_sync(process.stdout.readline) == "joined\n"
    with netlink.open_socket(netlink.ROUTE) as route:
        before = [link.name for link in links.all_links(route)]
    assert any(name.startswith("ishmael") for name in before)
    process.kill()
    process.wait()
    process.stdout.close()
    with netlink.open_socket(netlink.ROUTE) as route, trio.fail_after(10):
        while any(link.kind == "veth" for link in links.all_links(route)):
            await trio.sleep(0.01)  # the kernel destroys a namespace in the background and tells nobody
    networking = LinuxNetworking(NetworkingOptions(pool_size=0))
    async with running(networking):
        inventory = await networking.networks.inventory()
        assert len(inventory.bridges) == 1
        assert [port.host_port for port in inventory.ports] == [8080]
        await mended(networking)
        assert (await networking.networks.inventory()) == NetworkInventory()


_ENGINE = """
import trio
from engine.aggregates.values.endpoints import PublishedPort
from tests.support.netns import open_world

async def main():
    async with open_world() as world:
        spec = await world.network(18)
        await world.container(spec, 2, PublishedPort(host_ip="0.0.0.0", host_port=8080, container_port=80))
        with trio.fail_after(10):
            while len(world.networking._kernel.pool._ready) < 2:
                await trio.sleep(0.01)
        print("joined", flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


async def test_a_udp_flow_from_before_follows_a_port_when_it_is_published_and_when_it_moves(world: World) -> None:
    spec = await world.network(18)
    opened = await world.inside(world.outside_fd, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    opened.setblocking(False)
    with trio.socket.from_stdlib_socket(opened) as client:
        await client.connect((HOST_ADDRESS, 5353))

        async def ask() -> str:
            with trio.fail_after(3):
                await client.send(b"hello")
                return (await client.recv(100)).decode()

        with pytest.raises(ConnectionRefusedError):
            await ask()
        one = await world.container(spec, 2, published(5353, 53, "udp"))
        await world.serve_udp(one.netns_fd, 53)
        assert await ask() == "53 hello"
        await world.networking.sandboxes.leave(one.container_id, one.joins, sandbox_gone=False)
        two = await world.container(spec, 3, published(5353, 54, "udp"))
        await world.serve_udp(two.netns_fd, 54)
        assert await ask() == "54 hello"


async def test_the_default_route_can_move_to_another_endpoint(world: World) -> None:
    first, second = await world.network(18), await world.network(19)
    one = await world.container(first, 2)
    extra = world.plan_join(second, one.container_id, 7, interface="eth1")
    await world.networking.sandboxes.join(one.container_id, one.netns_fd, [extra])
    await world.networking.sandboxes.leave(one.container_id, one.joins, sandbox_gone=False)
    for _ in range(2):
        await world.networking.sandboxes.route(one.container_id, one.netns_fd, extra)
    routes = await world.inside(one.netns_fd, lambda: os.popen("ip route show default").read())
    assert routes.split()[:5] == ["default", "via", "172.19.0.1", "dev", "eth1"]


async def test_a_bridge_of_an_earlier_engine_passes_to_the_new_network_of_its_name(world: World) -> None:
    await world.network(17, name="bridge")
    spec = await world.network(18, name="bridge")
    assert (await world.networking.networks.inventory()).bridges == (spec.network_id[:12],)
    assert "172.17.0.1" not in os.popen("ip -4 addr show docker0").read()
    assert await mended(world.networking, spec) == []
    one = await world.container(spec, 2, published(8080))
    await world.serve_tcp(one.netns_fd, 80)
    await world.serve_tcp(world.outside_fd, 7000)
    assert await world.ask_tcp(one.netns_fd, "10.99.0.2", 7000) == f"7000 {HOST_ADDRESS}"
    assert (await world.ask_tcp(HOST, "127.0.0.1", 8080)).startswith("80")
    await world.networking.networks.remove(spec)
    assert "docker0" not in link_names()


async def test_a_stopped_driver_gives_its_ports_back_and_a_new_one_keeps_the_forwarding_policy(world: World) -> None:
    second = LinuxNetworking(NetworkingOptions(pool_size=1))
    async with running(second):
        spec = await world.network(18)
        container_id = ContainerID(secrets.token_hex(32))
        netns_fd = await second.sandboxes.open(container_id, {})
        await second.sandboxes.join(container_id, netns_fd, [world.plan_join(spec, container_id, 2, published(8080))])
        os.close(netns_fd)
    with socket.socket() as free:
        free.bind(("0.0.0.0", 8080))
    assert "policy drop" in os.popen("nft list chain ip ishmael forward").read()


async def test_without_a_firewall_no_rules_are_written_and_published_ports_are_relayed(namespace: None) -> None:
    """NET-17."""
    async with open_world(NetworkingOptions(firewall=False, pool_size=1)) as world:
        spec = await world.network(18)
        one = await world.container(spec, 2, published(8080), published(5353, 53, "udp"))
        await world.serve_tcp(one.netns_fd, 80)
        await world.serve_udp(one.netns_fd, 53)
        assert await world.ask_tcp(HOST, "127.0.0.1", 8080) == "80 172.18.0.1"
        assert await world.ask_tcp(world.outside_fd, HOST_ADDRESS, 8080) == "80 172.18.0.1"
        assert await world.ask_udp(world.outside_fd, HOST_ADDRESS, 5353) == "53 hello"
        assert os.popen("nft list ruleset").read() == ""
        await world.networking.sandboxes.leave(one.container_id, one.joins, sandbox_gone=False)
        await world.networking.networks.remove(spec)
        with socket.socket() as free:
            free.bind(("0.0.0.0", 8080))


async def test_without_relays_the_port_is_reserved_but_only_dnat_leads_to_it(namespace: None) -> None:
    """NET-15."""
    async with open_world(NetworkingOptions(relays=False, pool_size=1)) as world:
        one = await world.container(await world.network(18), 2, published(8080), published(8080, host_ip="::"))
        await world.serve_tcp(one.netns_fd, 80)
        assert (await world.ask_tcp(HOST, "127.0.0.1", 8080)).startswith("80")
        assert not await world.reaches(HOST, "::1", 8080)


async def test_forwarding_is_left_alone_when_told_so(namespace: None) -> None:
    """NET-17."""
    async with open_world(NetworkingOptions(forwarding=False, pool_size=1)):
        assert open("/proc/sys/net/ipv4/ip_forward").read() == "0\n"


async def test_whoever_is_not_root_in_a_container_may_bind_low_ports_and_ping(world: World) -> None:
    one = await world.container(await world.network(18), 2)
    read = await world.inside(
        one.netns_fd,
        lambda: [open(f"/proc/sys/net/ipv4/{n}").read() for n in ("ip_unprivileged_port_start", "ping_group_range")],
    )
    assert read == ["0\n", "0\t2147483647\n"]


async def test_an_isolated_network_has_no_address_of_the_host(world: World) -> None:
    options = {"com.docker.network.bridge.gateway_mode_ipv4": "isolated"}
    spec = await world.network(18, internal=True, options=options)
    one, two = await world.container(spec, 2), await world.container(spec, 3)
    await world.serve_tcp(two.netns_fd, 80)
    await world.serve_tcp(HOST, 9000)
    assert await world.ask_tcp(one.netns_fd, two.address, 80) == f"80 {one.address}"
    assert not await world.reaches(one.netns_fd, "172.18.0.1", 9000)
    assert "172.18.0.1" not in os.popen("ip addr").read()


ROUTED = {f"com.docker.network.bridge.gateway_mode_ipv{version}": "routed" for version in (4, 6)}


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


async def test_a_pair_that_a_killed_engine_had_not_finished_is_found_and_goes(world: World) -> None:
    spec = await world.network(18)
    one = await world.container(spec, 2)

    def half_connected() -> None:
        with netlink.open_socket(netlink.ROUTE) as route:
            netlink.transact(route, [links.new_veth("ishmael%d", "unused", one.netns_fd)])

    await world.inside(HOST, half_connected)
    assert [key.split(" ")[0] for key in await mended(world.networking, spec, one)] == ["unused"]
    extra = world.plan_join(await world.network(19), one.container_id, 7, interface="eth1")
    await world.networking.sandboxes.join(one.container_id, one.netns_fd, [extra])


async def test_a_join_that_a_killed_engine_did_not_live_to_tell_is_done_anew(world: World) -> None:
    first, second = await world.network(18), await world.network(19)
    one = await world.container(first, 2)
    extra = world.plan_join(second, one.container_id, 7, interface="eth1")
    again = msgspec.structs.replace(extra, interface="eth2")
    for join in (extra, again):
        await world.networking.sandboxes.join(one.container_id, one.netns_fd, [join])
    shown = await world.inside(one.netns_fd, link_names)
    assert sorted(shown) == ["eth0", "eth2", "lo"]
    await world.serve_tcp(one.netns_fd, 80)
    assert (await world.ask_tcp(HOST, extra.endpoint.ipv4_address, 80)).startswith("80 ")
    assert await mended(world.networking, first, second, Container(one.container_id, -1, [*one.joins, again])) == []


async def test_a_bridge_without_room_refuses_a_container_and_keeps_nothing_of_it(world: World) -> None:
    """1,023 ports is what the kernel gives a bridge."""
    spec = await world.network(18)
    bridge = f"br-{spec.network_id[:12]}"
    with netlink.open_socket(netlink.ROUTE) as route:
        found = links.find(route, bridge)
        assert found is not None
        fill_ports(route, found.index)
        before = link_names()
        with pytest.raises(
            PortError, match=f"adding interface veth[0-9a-f]{{7}} to bridge {bridge} failed: exchange full"
        ):
            await world.container(spec, 2)
        strays = [name for name in set(link_names()) - set(before) if not name.startswith("ishmael")]
        assert strays == []
        assert (await world.networking.networks.inventory()).veths == ()
        last = links.find(route, "port0")
        assert last is not None
        netlink.transact(route, [links.delete_link_at(last.index)])
    await world.container(spec, 2)


def fill_ports(route: socket.socket, bridge: int) -> None:
    """All 1,023: both ends of 511 pairs, and one of another."""
    here = namespaces.open_current()
    for number in range(512):
        netlink.transact(route, [links.new_veth(f"port{number}", f"end{number}", here)])
        for name in (f"port{number}", f"end{number}")[: 1 if number == 0 else 2]:
            end = links.find(route, name)
            assert end is not None
            netlink.transact(route, [links.set_link(end.index, master=bridge)])
    os.close(here)


async def test_a_published_sctp_port_answers_another_host_and_a_sibling(world: World) -> None:
    """NET-13. DNAT alone: what listens on the host's loopback is not relayed."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()
    except OSError:
        pytest.skip("this kernel has no SCTP")
    spec = await world.network(18)
    container = await world.container(spec, 2, published(8080, protocol="sctp"))
    sibling = await world.container(spec, 3)

    def opened() -> socket.socket:
        return socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP)

    def listening() -> socket.socket:
        server = opened()
        server.bind(("0.0.0.0", 80))
        server.listen()
        return server

    server = await world.inside(container.netns_fd, listening)
    for netns_fd in (world.outside_fd, sibling.netns_fd):
        with await world.inside(netns_fd, opened) as client:
            client.settimeout(5)
            await trio.to_thread.run_sync(client.connect, (HOST_ADDRESS, 8080))
            answering, _ = server.accept()
            with answering:
                answering.sendall(b"hello")
            assert client.recv(100) == b"hello"
    server.close()
