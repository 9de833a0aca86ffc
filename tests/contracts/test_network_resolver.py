"""The embedded resolver, as a client in a container's namespace sees it."""

from __future__ import annotations

import os
import socket
import struct

import dnslib
import pytest
import trio

from engine.aggregates.values.ids import ContainerID
from engine.drivers.linux.network.driver import LinuxNetworking
from engine.drivers.ports.network import NameRecord, NetworkSpec, Resolver
from tests.support.netns import Container, World, link_names

pytestmark = pytest.mark.root
RESOLVER = "127.0.0.11"


class Site:
    """Two networks, one served container on both, and a zone in each."""

    def __init__(self, world: World, container: Container, first: NetworkSpec, second: NetworkSpec) -> None:
        self.world = world
        self.container = container
        self.first = first
        self.second = second

    async def ask(self, name: str, kind: str = "A", *, tcp: bool = False, payload: int = 0) -> dnslib.DNSRecord:
        query = dnslib.DNSRecord.question(name, kind)
        if payload:
            query.add_ar(dnslib.EDNS0(udp_len=payload))
        packet = query.pack()
        exchange = exchange_tcp if tcp else exchange_udp
        answer = dnslib.DNSRecord.parse(await exchange(self.world, self.container.netns_fd, RESOLVER, packet))
        assert answer.header.id == query.header.id
        return answer


@pytest.fixture
async def site(world: World) -> Site:
    first = await world.network(18, name="front", ipv6=True)
    second = await world.network(19, name="back.end")
    container = await world.container(first, 2)
    resolver = world.networking.resolver
    resolver.publish(
        first.network_id,
        [
            NameRecord(name="web", ipv4_address="172.18.0.5", ipv6_address="fd18::5", container_name="web"),
            NameRecord(name="WWW", ipv4_address="172.18.0.5", ipv6_address="fd18::5", container_name="web"),
            NameRecord(name="www", ipv4_address="172.18.0.6", container_name="web2"),
        ],
    )
    resolver.publish(second.network_id, [NameRecord(name="db", ipv4_address="172.19.0.9", container_name="db")])
    networks = (first.network_id, second.network_id)
    await resolver.serve(container.container_id, container.netns_fd, networks, ["127.0.0.53"])
    return Site(world, container, first, second)


async def exchange_udp(world: World, netns_fd: int, server: str, packet: bytes) -> bytes:
    opened = await world.inside(netns_fd, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    opened.setblocking(False)
    with trio.socket.from_stdlib_socket(opened) as client, trio.fail_after(6):
        await client.connect((server, 53))
        await client.send(packet)
        return await client.recv(65535)


async def exchange_tcp(world: World, netns_fd: int, server: str, packet: bytes) -> bytes:
    opened = await world.inside(netns_fd, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    opened.setblocking(False)
    with trio.socket.from_stdlib_socket(opened) as client, trio.fail_after(6):
        await client.connect((server, 53))
        await client.send(struct.pack(">H", len(packet)) + packet)
        received = b""
        while len(received) < 2 or len(received) < 2 + int.from_bytes(received[:2], "big"):
            received += await client.recv(65535)
        return received[2:]


async def upstream(world: World, address: str, *, code: int = 0, silent: bool = False) -> list[str]:
    """A name server on the host that says 9.9.9.9 to everything; what it was asked."""
    asked: list[str] = []

    def reply(packet: bytes) -> bytes:
        query = dnslib.DNSRecord.parse(packet)
        asked.append(str(query.q.qname))
        answer = query.reply()
        answer.header.rcode = code
        if not code:
            answer.add_answer(dnslib.RR(query.q.qname, ttl=5, rdata=dnslib.A("9.9.9.9")))
        return answer.pack()

    udp = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    await udp.bind((address, 53))

    async def serve_udp() -> None:
        while True:
            packet, client = await udp.recvfrom(4096)
            answer = reply(packet)
            if not silent:
                await udp.sendto(answer, client)

    async def serve_tcp(stream: trio.SocketStream) -> None:
        packet = await stream.receive_some(4096)
        answer = reply(packet[2:])
        await stream.send_all(struct.pack(">H", len(answer)) + answer)

    listeners = await trio.open_tcp_listeners(53, host=address)
    world.nursery.start_soon(serve_udp)
    world.nursery.start_soon(trio.serve_listeners, serve_tcp, listeners)
    return asked


def addresses(answer: dnslib.DNSRecord) -> list[str]:
    return [str(record.rdata) for record in answer.rr]


async def test_the_driver_has_the_shape_of_the_port() -> None:
    resolver: Resolver = LinuxNetworking().resolver
    assert resolver is not None


@pytest.mark.parametrize("name", ["web", "WEB", "web.", "web.front", "db", "db.back.end", "Db.Back.End"])
async def test_a_name_is_answered_in_any_case_and_with_its_network(site: Site, name: str) -> None:
    answer = await site.ask(name)
    assert addresses(answer) == (["172.19.0.9"] if name.lower().startswith("db") else ["172.18.0.5"])
    assert answer.rr[0].ttl == 600
    assert answer.header.ra == 1


async def test_tcp_answers_as_udp(site: Site) -> None:
    assert addresses(await site.ask("web", tcp=True)) == ["172.18.0.5"]


async def test_an_alias_of_several_containers_has_all_their_addresses_in_turning_order(site: Site) -> None:
    first, second = addresses(await site.ask("www")), addresses(await site.ask("www"))
    assert sorted(first) == ["172.18.0.5", "172.18.0.6"]
    assert first == list(reversed(second))


async def test_a_link_is_a_name_of_this_container_alone_and_hides_the_same_name(site: Site) -> None:
    """CTR-44, NET-24: also with the network's name behind it."""
    assert addresses(await site.ask("web")) == ["172.18.0.5"]
    networks = (site.first.network_id, site.second.network_id)
    links = {site.second.network_id: {"store": "db", "web": "db"}}
    resolver = site.world.networking.resolver
    await resolver.serve(site.container.container_id, site.container.netns_fd, networks, [], links)
    for name in ("store", "Store", "store.back.end", "web"):
        assert addresses(await site.ask(name)) == ["172.19.0.9"], name
    assert addresses(await site.ask("web.front")) == ["172.18.0.5"]
    await resolver.serve(site.container.container_id, site.container.netns_fd, networks, [])
    assert addresses(await site.ask("web")) == ["172.18.0.5"]


async def test_ipv6_addresses_are_given_and_a_name_without_one_is_empty_not_unknown(site: Site) -> None:
    assert addresses(await site.ask("web", "AAAA")) == ["fd18::5"]
    empty = await site.ask("db", "AAAA")
    assert empty.header.rcode == dnslib.RCODE.NOERROR
    assert addresses(empty) == []


async def test_mail_for_a_known_name_is_empty_not_unknown(site: Site) -> None:
    """NET-26."""
    answer = await site.ask("db", "MX")
    assert (answer.header.rcode, addresses(answer)) == (dnslib.RCODE.NOERROR, [])


async def test_an_address_is_named_with_its_network(site: Site) -> None:
    """NET-26."""
    assert addresses(await site.ask("5.0.18.172.in-addr.arpa", "PTR")) == ["web.front."]
    six = "5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.1.d.f.ip6.arpa"
    assert addresses(await site.ask(six, "PTR")) == ["web.front."]


async def test_unknown_names_are_forwarded_by_the_host(site: Site) -> None:
    """NET-25."""
    asked = await upstream(site.world, "127.0.0.53")
    assert addresses(await site.ask("example.com")) == ["9.9.9.9"]
    assert addresses(await site.ask("example.org", tcp=True)) == ["9.9.9.9"]
    assert asked == ["example.com.", "example.org."]


async def test_a_failing_upstream_is_passed_over(site: Site) -> None:
    """NET-25."""
    refusing = await upstream(site.world, "127.0.0.54", code=dnslib.RCODE.REFUSED)
    await upstream(site.world, "127.0.0.55")
    resolver = site.world.networking.resolver
    networks = (site.first.network_id,)
    servers = ["127.0.0.99", "127.0.0.54", "127.0.0.55"]
    await resolver.serve(site.container.container_id, site.container.netns_fd, networks, servers)
    assert addresses(await site.ask("example.com")) == ["9.9.9.9"]
    assert refusing == ["example.com."]


async def test_without_an_upstream_that_answers_the_question_fails(site: Site) -> None:
    assert (await site.ask("example.com")).header.rcode == dnslib.RCODE.SERVFAIL
    resolver = site.world.networking.resolver
    await resolver.serve(site.container.container_id, site.container.netns_fd, (), [])
    assert (await site.ask("web")).header.rcode == dnslib.RCODE.SERVFAIL


async def test_a_slow_upstream_does_not_keep_others_waiting(site: Site) -> None:
    await upstream(site.world, "127.0.0.53", silent=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(site.ask, "slow.example")
        with trio.fail_after(1):
            assert addresses(await site.ask("web")) == ["172.18.0.5"]
        nursery.cancel_scope.cancel()


async def test_a_new_zone_replaces_the_old_one_whole(site: Site) -> None:
    resolver = site.world.networking.resolver
    resolver.publish(site.first.network_id, [NameRecord(name="api", ipv4_address="172.18.0.7")])
    assert addresses(await site.ask("api")) == ["172.18.0.7"]
    assert (await site.ask("web")).header.rcode == dnslib.RCODE.SERVFAIL


async def test_a_container_sees_only_the_networks_it_is_on(site: Site) -> None:
    resolver = site.world.networking.resolver
    await resolver.serve(site.container.container_id, site.container.netns_fd, (site.first.network_id,), [])
    assert addresses(await site.ask("web")) == ["172.18.0.5"]
    assert (await site.ask("db")).header.rcode == dnslib.RCODE.SERVFAIL


async def test_a_long_answer_is_cut_for_old_clients_and_whole_for_others(site: Site) -> None:
    """NET-26."""
    records = [NameRecord(name="many", ipv4_address=f"172.18.1.{number}") for number in range(60)]
    site.world.networking.resolver.publish(site.first.network_id, records)
    cut = await site.ask("many")
    assert cut.header.tc == 1
    assert 0 < len(cut.rr) < 60
    assert len((await site.ask("many", payload=4096)).rr) == 60
    assert len((await site.ask("many", tcp=True)).rr) == 60


async def test_a_container_may_serve_port_53_itself(site: Site) -> None:
    await site.world.serve_udp(site.container.netns_fd, 53)
    await site.world.serve_tcp(site.container.netns_fd, 53)
    assert addresses(await site.ask("web")) == ["172.18.0.5"]
    assert await site.world.ask_udp(site.container.netns_fd, "172.18.0.2", 53) == "53 hello"


async def test_rubbish_is_ignored(site: Site) -> None:
    for rubbish in (b"", b"x", bytes(12), os.urandom(40)):
        opened = await site.world.inside(
            site.container.netns_fd, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        )
        with opened:
            opened.sendto(rubbish, (RESOLVER, 53))
    assert addresses(await site.ask("web")) == ["172.18.0.5"]


async def test_serving_can_stop_and_lets_the_namespace_go(site: Site) -> None:
    world, container = site.world, site.container
    await world.networking.resolver.stop_serving(container.container_id)
    await world.networking.resolver.stop_serving(container.container_id)
    world.end(container)
    await world.networking.sandboxes.leave(container.container_id, container.joins, sandbox_gone=True)
    with trio.fail_after(10):
        while any(name.startswith("veth") for name in link_names()):
            await trio.sleep(0.01)  # the kernel destroys a namespace in the background and tells nobody


async def test_a_sandbox_is_served_again_after_an_engine_restart(site: Site) -> None:
    resolver = site.world.networking.resolver
    # Another owner of the same namespace: the engine's next run does not know the sockets of the last.
    again = ContainerID("e" * 64)
    await resolver.stop_serving(site.container.container_id)
    await resolver.serve(again, site.container.netns_fd, (site.first.network_id,), [])
    assert addresses(await site.ask("web")) == ["172.18.0.5"]


async def test_a_client_that_keeps_its_socket_is_answered_by_the_engines_next_run(site: Site) -> None:
    """The kernel leads a flow that it tracks to where it led before."""
    resolver = site.world.networking.resolver
    packet = dnslib.DNSRecord.question("web").pack()
    opened = await site.world.inside(site.container.netns_fd, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    opened.setblocking(False)
    with trio.socket.from_stdlib_socket(opened) as client, trio.fail_after(6):
        await client.connect((RESOLVER, 53))
        for owner in (site.container.container_id, ContainerID("e" * 64)):
            if owner != site.container.container_id:
                await resolver.stop_serving(site.container.container_id)
                await resolver.serve(owner, site.container.netns_fd, (site.first.network_id,), [])
            await client.send(packet)
            assert addresses(dnslib.DNSRecord.parse(await client.recv(1000))) == ["172.18.0.5"]


async def test_an_answer_is_remembered_only_as_long_as_it_is_true(site: Site) -> None:
    """NET-24: the same question again and again, while names come, move and go."""
    resolver = site.world.networking.resolver
    for address in ("172.18.0.40", "172.18.0.41"):
        record = NameRecord(name="moves", ipv4_address=address, container_name="moves")
        resolver.publish(site.first.network_id, [record])
        for _ in range(3):
            assert addresses(await site.ask("moves")) == [address]
    resolver.publish(site.first.network_id, [])
    assert (await site.ask("moves")).header.rcode != dnslib.RCODE.NOERROR
