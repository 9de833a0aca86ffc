"""Published ports, as clients on the host, beside it and in containers notice them, in namespaces of their own."""

from __future__ import annotations

import errno
import os
import socket

import pytest
import trio

from engine.drivers.linux.network.driver import LinuxNetworking
from engine.drivers.linux.network.state import NetworkingOptions
from engine.drivers.ports.network import NetworkSpec
from engine.errors import PortError
from tests.support.netns import HOST_ADDRESS, World, link_names, open_world, published, running

pytestmark = pytest.mark.root
HOST = -1


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
