"""Networks, sandboxes and published ports, as somebody with a socket notices them, in namespaces of their own."""

from __future__ import annotations

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

from engine.aggregates.values.ids import ContainerID
from engine.drivers.linux.network import links, namespaces, netlink
from engine.drivers.linux.network.driver import LinuxNetworking
from engine.drivers.linux.network.state import NetworkingOptions
from engine.drivers.ports.network import NetworkInventory, Networks, Sandboxes
from engine.errors import PortError
from tests.support.netns import HOST_ADDRESS, Container, World, link_names, mended, published, running

pytestmark = pytest.mark.root
HOST = -1


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
    home = Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", _ENGINE], stdout=subprocess.PIPE, text=True, cwd=home)
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


async def test_whoever_is_not_root_in_a_container_may_bind_low_ports_and_ping(world: World) -> None:
    one = await world.container(await world.network(18), 2)
    read = await world.inside(
        one.netns_fd,
        lambda: [open(f"/proc/sys/net/ipv4/{n}").read() for n in ("ip_unprivileged_port_start", "ping_group_range")],
    )
    assert read == ["0\n", "0\t2147483647\n"]


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
