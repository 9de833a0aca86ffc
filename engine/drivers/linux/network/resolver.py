"""The embedded resolver: names of user-defined networks at 127.0.0.11:53 of each sandbox. The `Resolver` port on Linux.

Owns: the sockets inside sandboxes (made there by the link thread, served here), zones, answers, forwarding.
Refuses to know: which names a container has (the caller publishes zones).

A question the zones know is answered at once; A or AAAA without such an address is NOERROR and empty, so that clients
do not ask elsewhere. Everything else goes to the upstreams as it came, from the engine's namespace.
Source: moby daemon/libnetwork/resolver.go.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence

import dnslib
import trio

from engine.aggregates.values.etc_files import RESOLVER_ADDRESS
from engine.aggregates.values.ids import ContainerID, NetworkID
from engine.drivers.linux.network import netlink
from engine.drivers.linux.network.forwarding import Forwarder
from engine.drivers.linux.network.redirect import redirect
from engine.drivers.linux.network.state import Kernel
from engine.drivers.linux.network.zones import NamedZone, Zone, find, make_zone, reverse
from engine.drivers.ports.network import NO_NAMES, NameRecord, OwnNames
from engine.errors import PortError

TTL_S = 600
_PORT = 53
_UDP_BYTES_MIN = 512
_QUERY_BYTES_MAX = 65535
_ID_BYTES = 2
_REMEMBERED_MAX = 256
_TCP_IDLE_S = 10
_TCP_CONNECTIONS_MAX = 128
_ADDRESS_TYPES = {dnslib.QTYPE.A: "ipv4_address", dnslib.QTYPE.AAAA: "ipv6_address"}


class _Sandbox:
    """One served sandbox. `networks`, `links` and `upstreams` change while it is served."""

    __slots__ = ("as_of", "forwarder", "links", "networks", "remembered", "scope", "tcp", "turn", "udp")

    def __init__(
        self,
        udp: socket.socket,
        tcp: socket.socket,
        networks: Sequence[NetworkID],
        upstreams: Sequence[str],
        links: OwnNames,
    ) -> None:
        self.udp = trio.socket.from_stdlib_socket(udp)
        self.tcp = trio.SocketListener(trio.socket.from_stdlib_socket(tcp))
        self.networks = tuple(networks)
        self.links = links
        self.forwarder = Forwarder(upstreams)
        self.scope = trio.CancelScope()
        self.turn = 0
        self.remembered: dict[tuple[bool, bytes], bytes] = {}
        """Answers without their first two bytes, by (over TCP, the question without its own), as of `as_of` changes."""
        self.as_of = -1


class LinuxResolver:
    """The `Resolver` port."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._zones: dict[NetworkID, Zone] = {}
        self._sandboxes: dict[ContainerID, _Sandbox] = {}
        self._changes = 0
        """Of zones, counted: what an answer was made from."""

    async def serve(
        self,
        container_id: ContainerID,
        netns_fd: int,
        networks: Sequence[NetworkID],
        upstreams: Sequence[str],
        links: OwnNames = NO_NAMES,
    ) -> None:
        """Answer inside the namespace. Called again for a served container, it changes networks, links and upstreams
        only. The sockets hold the namespace until `stop_serving`. upstreams: addresses, the first three count; none:
        nothing is forwarded."""
        served = self._sandboxes.get(container_id)
        if served is not None:
            served.networks = tuple(networks)
            served.links = links
            served.forwarder = Forwarder(upstreams)
            served.as_of = -1
            return
        try:
            udp, tcp = await self._kernel.links.call(_open_sockets, netns_fd=netns_fd)
        except OSError as error:
            message = f"cannot start the resolver of container {container_id}: {error.strerror}"
            raise PortError("serve", message, errno=error.errno or 0) from error
        served = _Sandbox(udp, tcp, networks, upstreams, links)
        self._sandboxes[container_id] = served
        nursery = self._kernel.nursery
        assert nursery is not None, "the driver is running"
        nursery.start_soon(self._run, container_id, served, name=f"resolver-{container_id[:12]}")

    async def stop_serving(self, container_id: ContainerID) -> None:
        """Close the sockets, and with them the hold on the namespace. Idempotent."""
        served = self._sandboxes.pop(container_id, None)
        if served is not None:
            served.scope.cancel()
            served.udp.close()
            served.tcp.socket.close()

    def publish(self, network_id: NetworkID, records: Sequence[NameRecord]) -> None:
        """Replace the zone of a network; none for no records."""
        self._changes += 1
        if records:
            self._zones[network_id] = make_zone(records)
        else:
            self._zones.pop(network_id, None)

    async def _run(self, container_id: ContainerID, served: _Sandbox) -> None:
        try:
            with served.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._serve_udp, served, nursery)
                    nursery.start_soon(self._serve_tcp, served)
        finally:
            served.udp.close()
            served.tcp.socket.close()
            if self._sandboxes.get(container_id) is served:
                del self._sandboxes[container_id]

    async def _serve_udp(self, served: _Sandbox, nursery: trio.Nursery) -> None:
        while True:
            try:
                packet, client = await served.udp.recvfrom(_QUERY_BYTES_MAX)
            except ConnectionError:
                continue  # an ICMP error for an answer nobody waited for

            async def send(answer: bytes, client: tuple[object, ...] = client) -> None:
                with contextlib.suppress(OSError, trio.ClosedResourceError):
                    await served.udp.sendto(answer, client)

            await self._handle(served, packet, send, nursery, stream=False)

    async def _serve_tcp(self, served: _Sandbox) -> None:
        places = trio.CapacityLimiter(_TCP_CONNECTIONS_MAX)

        async def converse(client: trio.SocketStream) -> None:
            async with places, client, trio.open_nursery() as nursery:
                with contextlib.suppress(trio.BrokenResourceError, trio.TooSlowError):
                    await self._converse(served, client, nursery)

        await trio.serve_listeners(converse, [served.tcp])

    async def _converse(self, served: _Sandbox, client: trio.SocketStream, nursery: trio.Nursery) -> None:
        """Queries of one connection, each with its length before it; answers may overtake each other."""
        writing = trio.Lock()

        async def send(answer: bytes) -> None:
            async with writing:
                with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await client.send_all(struct.pack(">H", len(answer)) + answer)

        buffered = bytearray()
        while True:
            with trio.fail_after(_TCP_IDLE_S):
                data = await client.receive_some(_QUERY_BYTES_MAX)
            if not data:
                return
            buffered += data
            while len(buffered) >= 2 and len(buffered) >= 2 + (length := int.from_bytes(buffered[:2], "big")):
                packet = bytes(buffered[2 : 2 + length])
                del buffered[: 2 + length]
                await self._handle(served, packet, send, nursery, stream=True)

    async def _handle(
        self,
        served: _Sandbox,
        packet: bytes,
        send: Callable[[bytes], Awaitable[None]],
        nursery: trio.Nursery,
        *,
        stream: bool,
    ) -> None:
        known = served.remembered.get((stream, packet[_ID_BYTES:]))
        if known is not None and served.as_of == self._changes:
            await send(packet[:_ID_BYTES] + known)
            return
        try:
            query = dnslib.DNSRecord.parse(packet)
        except (dnslib.DNSError, dnslib.buffer.BufferError, UnicodeError, ValueError, IndexError):
            return
        if not query.questions or query.header.qr:
            return
        local = self.answer(served.networks, query, turn=served.turn, links=served.links)
        served.turn += 1
        if local is not None:
            answer = _packed(query, local, stream=stream)
            if len(local.rr) < 2:  # Several addresses take turns.
                self._remember(served, (stream, packet[_ID_BYTES:]), answer[_ID_BYTES:])
            await send(answer)
        else:
            nursery.start_soon(served.forwarder.forward, query, packet, send, stream)

    def _remember(self, served: _Sandbox, question: tuple[bool, bytes], answer: bytes) -> None:
        """Answers to the same bytes are the same bytes, but for the question's number, until a zone changes. Taking a
        question apart and putting an answer together costs ten times as much as the rest."""
        if served.as_of != self._changes or len(served.remembered) >= _REMEMBERED_MAX:
            served.remembered.clear()
            served.as_of = self._changes
        if len(question[1]) <= _UDP_BYTES_MIN:
            served.remembered[question] = answer

    def answer(
        self,
        networks: Sequence[NetworkID],
        query: dnslib.DNSRecord,
        *,
        turn: int = 0,
        links: OwnNames = NO_NAMES,
    ) -> dnslib.DNSRecord | None:
        """The answer from the zones of these networks, or None when it is for somebody else to give. turn: rotates the
        addresses of a name that has several."""
        question = query.q
        zones = [
            NamedZone(
                network_name=self._kernel.network_names.get(each, ""),
                zone=self._zones[each],
                links=links.get(each, {}),
            )
            for each in networks
            if each in self._zones
        ]
        if question.qtype == dnslib.QTYPE.PTR:
            return _pointer(query, reverse(zones, _address_of(str(question.qname))))
        if question.qtype not in (*_ADDRESS_TYPES, dnslib.QTYPE.MX):
            return None
        records = find(zones, str(question.qname).removesuffix("."))
        if not records:
            return None
        reply = query.reply(aa=0)
        if question.qtype in _ADDRESS_TYPES:
            addresses = [getattr(record, _ADDRESS_TYPES[question.qtype]) for record in records]
            addresses = [address for address in addresses if address]
            for index in range(len(addresses)):
                address = addresses[(index + turn) % len(addresses)]
                data = dnslib.A(address) if question.qtype == dnslib.QTYPE.A else dnslib.AAAA(address)
                reply.add_answer(dnslib.RR(question.qname, question.qtype, ttl=TTL_S, rdata=data))
        return reply


def _pointer(query: dnslib.DNSRecord, name: str) -> dnslib.DNSRecord | None:
    if not name:
        return None
    reply = query.reply(aa=0)
    reply.add_answer(dnslib.RR(query.q.qname, dnslib.QTYPE.PTR, ttl=TTL_S, rdata=dnslib.PTR(name)))
    return reply


def _address_of(pointer: str) -> str:
    """The address a PTR question asks for, or ""."""
    name = pointer.lower().removesuffix(".")
    with contextlib.suppress(ValueError):
        if name.endswith(".in-addr.arpa"):
            labels = name.removesuffix(".in-addr.arpa").split(".")
            return str(ipaddress.IPv4Address(".".join(reversed(labels))))
        if name.endswith(".ip6.arpa"):
            digits = "".join(reversed(name.removesuffix(".ip6.arpa").split(".")))
            return str(ipaddress.IPv6Address(int(digits, 16))) if len(digits) == 32 else ""
    return ""


def _packed(query: dnslib.DNSRecord, reply: dnslib.DNSRecord, *, stream: bool) -> bytes:
    """The answer as bytes; cut, with TC set, to what the client takes over UDP."""
    packed: bytes = reply.pack()
    if stream:
        return packed
    limit = _UDP_BYTES_MIN
    for extra in query.ar:
        if extra.rtype == dnslib.QTYPE.OPT:
            limit = max(limit, extra.rclass)
    if len(packed) <= limit:
        return packed
    reply.header.tc = 1
    while len(packed) > limit and reply.rr:
        reply.rr.pop()
        packed = reply.pack()
    return packed


def _open_sockets() -> tuple[socket.socket, socket.socket]:
    """Inside the namespace, on the link thread."""
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        for opened in (udp, tcp):
            opened.setblocking(False)
            opened.bind((RESOLVER_ADDRESS, 0))
        tcp.listen(64)
        targets = {socket.IPPROTO_UDP: udp.getsockname()[1], socket.IPPROTO_TCP: tcp.getsockname()[1]}
        with netlink.open_socket(netlink.NETFILTER) as netfilter:
            redirect(netfilter, RESOLVER_ADDRESS, _PORT, targets)
    except OSError:
        udp.close()
        tcp.close()
        raise
    return udp, tcp
