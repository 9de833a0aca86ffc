"""A small world for network tests: the engine's host and an outside host, in network namespaces of their own.

The main thread is moved into a fresh namespace for the time of a test, so nothing ever touches the machine's network.
Sockets are made inside namespaces by a helper thread and then used from trio: a socket stays where it was made.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TypeVar

import msgspec
import trio

from engine.aggregates.values.endpoints import Endpoint, PublishedPort
from engine.aggregates.values.ids import ContainerID, NetworkID
from engine.drivers.linux.network import links, namespaces, netlink
from engine.drivers.linux.network.driver import LinuxNetworking
from engine.drivers.linux.network.namespaces import NamespaceThread
from engine.drivers.linux.network.state import NetworkingOptions
from engine.drivers.ports.drift import Ledger
from engine.drivers.ports.network import Join, NetworkSpec

T = TypeVar("T")
HOST_ADDRESS, OUTSIDE_ADDRESS = "10.99.0.1", "10.99.0.2"
_OPTIONS = NetworkingOptions(pool_size=2)
HOST_ADDRESS6, OUTSIDE_ADDRESS6 = "fd99::1", "fd99::2"


@contextlib.contextmanager
def own_network_namespace() -> Iterator[None]:
    """The calling thread, and threads started from it, live in a fresh namespace with lo up."""
    home = namespaces.open_current()
    try:
        namespaces._unshare()
        with netlink.open_socket(netlink.ROUTE) as route:
            netlink.transact(route, [links.set_link(1, up=True)])
        yield
    finally:
        namespaces._set_namespace(home)
        os.close(home)


class Container:
    """A sandbox with somebody in it: as long as `netns_fd` is open the namespace lives."""

    def __init__(self, container_id: ContainerID, netns_fd: int, joins: list[Join]) -> None:
        self.container_id = container_id
        self.netns_fd = netns_fd
        self.joins = joins

    @property
    def address(self) -> str:
        return self.joins[0].endpoint.ipv4_address

    @property
    def address6(self) -> str:
        return self.joins[0].endpoint.ipv6_address


class World:
    def __init__(
        self, networking: LinuxNetworking, thread: NamespaceThread, outside_fd: int, nursery: trio.Nursery
    ) -> None:
        self.networking = networking
        self.thread = thread
        self.outside_fd = outside_fd
        self.nursery = nursery
        self.containers: list[Container] = []

    async def inside(self, netns_fd: int, function: Callable[[], T]) -> T:
        """Call in a namespace; -1 is the host."""
        return await self.thread.call(function, netns_fd=netns_fd)

    async def network(self, octet: int, *, ipv6: bool = False, **changes: object) -> NetworkSpec:
        settings: dict[str, object] = {
            "network_id": NetworkID(secrets.token_hex(32)),
            "name": f"net{octet}",
            "driver": "bridge",
            "subnets": (f"172.{octet}.0.0/16", *((f"fd{octet}::/64",) if ipv6 else ())),
            "gateways": (f"172.{octet}.0.1", *((f"fd{octet}::1",) if ipv6 else ())),
            **changes,
        }
        spec = NetworkSpec(**settings)  # type: ignore[arg-type] - assembled by keyword
        await self.networking.networks.create(spec)
        return spec

    def plan_join(
        self, spec: NetworkSpec, container_id: ContainerID, last: int, *ports: PublishedPort, interface: str = "eth0"
    ) -> Join:
        endpoint = Endpoint(
            endpoint_id=secrets.token_hex(32),
            network_id=spec.network_id,
            container_id=container_id,
            mac_address=f"02:42:ac:00:00:{last:02x}",
        )
        for subnet, gateway in zip(spec.subnets, spec.gateways, strict=True):
            prefix, _, length = subnet.partition("/")
            if ":" in subnet:
                endpoint = msgspec.structs.replace(
                    endpoint, ipv6_address=f"{prefix}{last:x}", ipv6_prefix_length=int(length), ipv6_gateway=gateway
                )
            else:
                address = prefix.rpartition(".")[0] + f".{last}"
                endpoint = msgspec.structs.replace(
                    endpoint,
                    ipv4_address=address,
                    ipv4_prefix_length=int(length),
                    ipv4_gateway="" if spec.internal else gateway,
                )
        return Join(
            network=spec,
            endpoint=endpoint,
            interface=interface,
            default_route=interface == "eth0",
            ports=ports,
            endpoint_name="web",
        )

    async def container_on(self, *specs: NetworkSpec) -> Container:
        """One with an interface on each network, joined at once; it is .2 everywhere."""
        container_id = ContainerID(secrets.token_hex(32))
        netns_fd = await self.networking.sandboxes.open(container_id, {})
        joins = [self.plan_join(spec, container_id, 2, interface=f"eth{n}") for n, spec in enumerate(specs)]
        container = Container(container_id, netns_fd, joins)
        self.containers.append(container)
        await self.networking.sandboxes.join(container_id, netns_fd, joins)
        return container

    async def container(self, spec: NetworkSpec, last: int, *ports: PublishedPort) -> Container:
        container_id = ContainerID(secrets.token_hex(32))
        netns_fd = await self.networking.sandboxes.open(container_id, {})
        container = Container(container_id, netns_fd, [self.plan_join(spec, container_id, last, *ports)])
        try:
            await self.networking.sandboxes.join(container_id, netns_fd, container.joins)
        except BaseException:
            os.close(netns_fd)
            raise
        self.containers.append(container)
        return container

    def end(self, container: Container) -> None:
        """Its processes are gone."""
        self.containers.remove(container)
        os.close(container.netns_fd)

    async def serve_tcp(self, netns_fd: int, port: int, *, address: str = "0.0.0.0") -> None:
        """A server that answers every connection with `<port> <address it sees the client at>`, until the test ends."""
        listening = await self.inside(netns_fd, lambda: _listening(address, port))
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))

        async def answer(stream: trio.SocketStream) -> None:
            async with stream:
                with contextlib.suppress(trio.BrokenResourceError):
                    await stream.receive_some(100)
                    await stream.send_all(f"{port} {stream.socket.getpeername()[0]}".encode())

        self.nursery.start_soon(trio.serve_listeners, answer, [listener])

    async def serve_udp(self, netns_fd: int, port: int, *, address: str = "0.0.0.0") -> None:
        bound = trio.socket.from_stdlib_socket(await self.inside(netns_fd, lambda: _bound_udp(address, port)))

        async def answer() -> None:
            while True:
                data, client = await bound.recvfrom(2000)
                await bound.sendto(b"%d %s" % (port, data), client)

        self.nursery.start_soon(answer)

    async def ask_tcp(self, netns_fd: int, address: str, port: int, *, within_s: float = 3) -> str:
        """What a server says. Raises OSError or trio.TooSlowError when it can not be reached."""
        opened = await self.inside(netns_fd, lambda: socket.socket(_family(address), socket.SOCK_STREAM))
        opened.setblocking(False)
        with trio.socket.from_stdlib_socket(opened) as client, trio.fail_after(within_s):
            await client.connect((address, port))
            await client.send(b"hello")
            return (await client.recv(100)).decode()

    async def ask_udp(self, netns_fd: int, address: str, port: int, *, within_s: float = 3) -> str:
        opened = await self.inside(netns_fd, lambda: socket.socket(_family(address), socket.SOCK_DGRAM))
        opened.setblocking(False)
        with trio.socket.from_stdlib_socket(opened) as client, trio.fail_after(within_s):
            await client.connect((address, port))
            await client.send(b"hello")
            return (await client.recv(100)).decode()

    async def reaches(self, netns_fd: int, address: str, port: int) -> bool:
        """Whether a TCP server answers within a third of a second: for what must *not* be reached."""
        try:
            await self.ask_tcp(netns_fd, address, port, within_s=0.3)
        except (OSError, trio.TooSlowError):
            return False
        return True


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _listening(address: str, port: int) -> socket.socket:
    opened = socket.socket(_family(address), socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    opened.bind((address, port))
    opened.listen(100)
    opened.setblocking(False)
    return opened


def _bound_udp(address: str, port: int) -> socket.socket:
    opened = socket.socket(_family(address), socket.SOCK_DGRAM)
    opened.bind((address, port))
    opened.setblocking(False)
    return opened


def link_names() -> list[str]:
    """Interfaces of the calling thread's namespace, without those of the driver's pool, which come and go."""
    with netlink.open_socket(netlink.ROUTE) as route:
        return [link.name for link in links.all_links(route) if not link.name.startswith("ishmael")]


@contextlib.asynccontextmanager
async def running(networking: LinuxNetworking) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        await nursery.start(networking.run)
        try:
            yield
        finally:
            nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def open_world(options: NetworkingOptions = _OPTIONS) -> AsyncIterator[World]:
    """The engine's host with a running driver, and an outside host one cable away that routes everything to it."""
    thread = NamespaceThread("test-world")
    thread.start()
    outside = await thread.call(lambda: namespaces.make_sandbox({}))
    try:
        await thread.call(lambda: _connect_outside(outside.netns_fd, outside.route, outside.veth.outside))
        networking = LinuxNetworking(options)
        async with running(networking), trio.open_nursery() as nursery:
            world = World(networking, thread, outside.netns_fd, nursery)
            try:
                yield world
            finally:
                nursery.cancel_scope.cancel()
                for container in list(world.containers):
                    world.end(container)
    finally:
        outside.close()
        thread.stop()


def _connect_outside(netns_fd: int, outside: socket.socket, unused: int) -> None:
    with netlink.open_socket(netlink.ROUTE) as route:
        netlink.transact(route, [links.delete_link_at(unused)])  # the pair that every sandbox comes with
        netlink.transact(route, [links.new_veth("uplink", "uplink", netns_fd)])
        for opened, addresses in (
            (route, (HOST_ADDRESS, HOST_ADDRESS6)),
            (outside, (OUTSIDE_ADDRESS, OUTSIDE_ADDRESS6)),
        ):
            link = links.find(opened, "uplink")
            assert link is not None
            netlink.transact(opened, [links.set_link(link.index, up=True)])
            netlink.transact(
                opened,
                [links.new_address(link.index, addresses[0], 24), links.new_address(link.index, addresses[1], 64)],
            )
            if opened is outside:
                netlink.transact(
                    outside,
                    [links.default_route(link.index, HOST_ADDRESS), links.default_route(link.index, HOST_ADDRESS6)],
                )


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
