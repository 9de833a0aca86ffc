"""Sandboxes: a container's network namespace, the endpoints in it and the host ports that lead to them.

Owns: veth pairs, addresses and routes inside a namespace, DNAT elements, port reservations and relays.
Refuses to know: how addresses and ports were chosen, and when a container starts.

A start costs one hand-over to the link thread: veth pairs, their inside, and the ports are one job.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping, Sequence

import trio

from engine.aggregates.values import endpoint_options
from engine.aggregates.values.endpoint_options import DEFAULT_PREFIX
from engine.aggregates.values.endpoints import Endpoint, PublishedPort
from engine.aggregates.values.ids import ContainerID
from engine.drivers.linux.network import hostports, links, namespaces, netlink, networks, sublinks
from engine.drivers.linux.network.hostports import Reservation
from engine.drivers.linux.network.joining import (
    LINKED,
    attachment,
    bridge_port,
    configuration,
    identity,
    is_routed,
    is_sublink,
    needs_relay,
    pair,
    publications_of,
    target_of,
    veth_name,
)
from engine.drivers.linux.network.namespaces import Owner, ReadySandbox, Veth
from engine.drivers.linux.network.networks import SUBLINK_DRIVERS
from engine.drivers.linux.network.relay import relay
from engine.drivers.linux.network.state import Kernel
from engine.drivers.linux.network.sublinks import SublinkDriver
from engine.drivers.ports.network import Join
from engine.errors import Fault, PortError


class _Held:
    """What the engine holds for one joined endpoint. netns_fd: of a link that has no end on the host, the way to it."""

    __slots__ = ("netns_fd", "relays", "reservations")

    def __init__(self, reservations: list[Reservation], netns_fd: int = -1) -> None:
        self.reservations = reservations
        self.relays: list[trio.CancelScope] = []
        self.netns_fd = netns_fd

    def let_go(self) -> None:
        for scope in self.relays:
            scope.cancel()
        hostports.release(self.reservations)
        if self.netns_fd >= 0:
            os.close(self.netns_fd)
            self.netns_fd = -1


class LinuxSandboxes:
    """The `Sandboxes` port."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._opened: dict[ContainerID, ReadySandbox] = {}
        self._held: dict[tuple[ContainerID, str], _Held] = {}

    async def open(
        self,
        container_id: ContainerID,
        sysctls: Mapping[str, str],
        *,
        joined: bool = True,
        remapped: bool = False,
        beside: int = 0,
    ) -> int:
        """A namespace with lo up and `sysctls` (`net.*`) written; its fd, which the caller closes. Must be followed by
        `join` or `leave` (which may be given no joins), because until then a socket of the driver holds it too.
        joined: endpoints will follow at once; without, the namespace is made bare and not taken from the pool."""
        owner = Owner(id_map=self._kernel.options.id_map if remapped else None, beside=beside)
        if not joined:
            try:
                return await self._kernel.links.call(lambda: namespaces.make_bare(sysctls, owner))
            except OSError as error:
                raise _sysctl_failed(error) from error
        ready = await self._kernel.pool.take(owner)
        wanted = {name: value for name, value in sysctls.items() if self._kernel.pool_sysctls.get(name) != value}
        if wanted:
            try:
                await self._kernel.links.call(lambda: namespaces.write_sysctls(wanted), netns_fd=ready.netns_fd)
            except OSError as error:
                ready.close()
                raise _sysctl_failed(error) from error
        self._forget_opened(container_id)
        self._opened[container_id] = ready
        return os.dup(ready.netns_fd)

    async def enter(self, container_id: ContainerID, pid: int) -> int:
        """The namespace of a running container's first process; its fd, which the caller closes."""
        try:
            return os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise _not_running(error) from error

    async def free_interface(self, container_id: ContainerID, pid: int, prefix: str = DEFAULT_PREFIX) -> str:
        """The first ethN that a running container's namespace does not have."""
        try:
            taken = _interfaces(pid)
        except OSError as error:
            raise _not_running(error) from error
        return next(name for number in range(len(taken) + 1) if (name := f"{prefix}{number}") not in taken)

    async def join(self, container_id: ContainerID, netns_fd: int, joins: Sequence[Join]) -> None:
        """Join endpoints and publish their ports, all or nothing. Raises PortError with moby's words."""
        linked = [join for join in joins if join.network.driver in LINKED]
        ready = self._opened.pop(container_id, None)
        held: list[tuple[Join, list[Reservation]]] = []
        try:
            for join in linked:
                held.append((join, self._reserve(join)))
            if linked or ready is not None:
                await self._kernel.links.call(lambda: self._join(netns_fd, linked, ready))
        except BaseException:
            for _, reservations in held:
                hostports.release(reservations)
            raise
        finally:
            if ready is not None:
                ready.close()
        for join, reservations in held:
            self._kernel.network_names[join.network.network_id] = join.network.name
            self._hold(container_id, join, reservations, os.dup(netns_fd) if is_sublink(join) else -1)

    async def leave(self, container_id: ContainerID, joins: Sequence[Join], *, sandbox_gone: bool) -> None:
        """Undo `join`, and an `open` without one. Idempotent. sandbox_gone: the veths died with the namespace; deleting
        them here would cost 30 ms each."""
        self._forget_opened(container_id)
        linked = [join for join in joins if join.network.driver in LINKED]
        if linked:
            await self._kernel.links.call(lambda: self._leave(container_id, linked, sandbox_gone=sandbox_gone))
        for join in linked:
            self._let_go(container_id, join)

    async def route(self, container_id: ContainerID, netns_fd: int, join: Join) -> None:
        """Lead the default routes of a living sandbox through this endpoint. Idempotent."""
        if join.network.driver in LINKED:
            await self._kernel.links.call(lambda: self._reroute(netns_fd, join))

    async def open_between(self, join: Join) -> None:
        """Reach exactly `join.openings` from this endpoint, where containers of a network do not reach each other.
        Idempotent."""
        if self._is_apart(join):
            await self._kernel.links.call(lambda: self._open_between(join))

    async def adopt(self, container_id: ContainerID, pid: int, joins: Sequence[Join]) -> None:
        """After an engine restart: bind the ports of a live container again and make sure that its elements are there.
        A port that a foreign process took meanwhile stays with DNAT alone: the container is not disturbed."""
        linked = [join for join in joins if join.network.driver in LINKED]
        publications = [each for join in linked for each in publications_of(join)]
        await self._kernel.links.call(lambda: self._kernel.firewall.publish(publications))
        for join in linked:
            if join.openings:
                await self.open_between(join)
            self._kernel.network_names[join.network.network_id] = join.network.name
            self._let_go(container_id, join)
            netns_fd = await self.enter(container_id, pid) if is_sublink(join) else -1
            self._hold(container_id, join, self._reserve(join, tolerant=True), netns_fd)

    def unused_veths(self) -> frozenset[int]:
        """Indexes of the host's ends of pairs that no endpoint has yet: the pool's, and those of starts under way."""
        opened = {ready.veth.outside for ready in self._opened.values()}
        return frozenset(opened) | self._kernel.pool.veths

    def let_all_go(self) -> None:
        """The driver ends: close what it holds of sandboxes. Containers and their DNAT go on."""
        for container_id in list(self._opened):
            self._forget_opened(container_id)
        for held in self._held.values():
            held.let_go()
        self._held.clear()

    def _reserve(self, join: Join, *, tolerant: bool = False) -> list[Reservation]:
        made: list[Reservation] = []
        for port in join.ports:
            if is_sublink(join) or is_routed(join, port) or not port.host_port:
                continue  # Nobody asks the host for it.
            try:
                reservation = hostports.reserve(port, target_of(join, port), relayed=self._is_relayed(join, port))
            except PortError as error:
                if tolerant:
                    continue
                hostports.release(made)
                raise _explained(join, error) from error
            if reservation is not None:
                made.append(reservation)
        return made

    def _hold(self, container_id: ContainerID, join: Join, reservations: list[Reservation], netns_fd: int = -1) -> None:
        held = _Held(reservations, netns_fd)
        self._held[container_id, join.endpoint.endpoint_id] = held
        nursery = self._kernel.nursery
        assert nursery is not None, "the driver is running"
        for reservation in reservations:
            if reservation.socket is not None and self._is_relayed(join, reservation.port):
                target = (target_of(join, reservation.port), reservation.port.container_port)
                scope = trio.CancelScope()
                held.relays.append(scope)
                nursery.start_soon(relay, scope, reservation.socket, target, name="port-relay")

    def _is_relayed(self, join: Join, port: PublishedPort) -> bool:
        options = self._kernel.options
        return options.relays and not join.network.internal and (not options.firewall or needs_relay(join, port))

    def _let_go(self, container_id: ContainerID, join: Join) -> None:
        held = self._held.pop((container_id, join.endpoint.endpoint_id), None)
        if held is not None:
            held.let_go()

    def _forget_opened(self, container_id: ContainerID) -> None:
        ready = self._opened.pop(container_id, None)
        if ready is not None:
            ready.close()

    def _join(self, netns_fd: int, joins: Sequence[Join], ready: ReadySandbox | None) -> None:
        """On the link thread."""
        made: list[int] = []
        made_inside: list[int] = []
        inside = ready.route if ready is not None else _route_inside(netns_fd)
        veth = ready.veth if ready is not None else None
        try:
            for join in joins:
                driver = SUBLINK_DRIVERS.get(join.network.driver)
                if driver is not None:
                    self._connect_sublink(netns_fd, inside, join, driver, made_inside)
                    continue
                self._connect(netns_fd, inside, join, veth, made)
                veth = None
            if veth is not None:
                self._delete_at(veth.outside)
            for join in joins:
                if join.openings and self._is_apart(join):
                    self._open_between(join)
            self._kernel.firewall.publish([each for join in joins for each in publications_of(join)])
        except (OSError, PortError) as error:
            for index in made:
                self._delete_at(index)
            for index in made_inside:
                netlink.transact(inside, [links.delete_link_at(index)])
            self._close_between(joins)
            if isinstance(error, PortError):
                raise
            raise _join_failed(error) from error
        finally:
            if ready is None:
                inside.close()

    def _connect(self, netns_fd: int, inside: socket.socket, join: Join, ready: Veth | None, made: list[int]) -> None:
        route = self._kernel.route
        try:
            bridge = links.index_of(route, networks.bridge_name(join.network))
        except OSError as error:
            message = f"network {join.network.network_id} has no bridge"
            raise PortError("join", message, fault=Fault.NOT_FOUND) from error
        name = veth_name(join.endpoint.endpoint_id)
        try:
            if ready is not None:
                veth = ready
                made.append(veth.outside)
                self._anew(name, attachment(join, veth.outside, bridge))
            else:
                self._anew(name, [pair(join, netns_fd, bridge)])
                veth = Veth(outside=links.index_of(route, name), inside=links.index_of(inside, join.interface))
                made.append(veth.outside)
                netlink.transact(route, bridge_port(join))
        except OSError as error:
            raise _attachment_failed(join, error) from error
        if join.endpoint.ipv6_address:
            _allow_ipv6(netns_fd, namespaces.UNUSED_INTERFACE if ready is not None else join.interface)
        named = [] if ready is None else [identity(join, veth.inside)]
        netlink.transact(inside, [*named, *configuration(join, veth.inside)])
        _write_sysctls(netns_fd, join)

    def _anew(self, name: str, requests: Sequence[netlink.Request]) -> None:
        """What needs a veth's name. An engine that was killed may have come this far with a container that lives on."""
        try:
            netlink.transact(self._kernel.route, requests)
        except netlink.Refused as refused:
            if refused.errno != errno.EEXIST:
                raise
        else:
            return
        self._delete(name)
        netlink.transact(self._kernel.route, requests)

    def _connect_sublink(
        self, netns_fd: int, inside: socket.socket, join: Join, driver: SublinkDriver, made: list[int]
    ) -> None:
        left = _link_with(inside, join.endpoint)
        if left is not None:  # By an engine that was killed while it connected.
            netlink.transact(inside, [links.delete_link_at(left.index)])
        index = sublinks.connect(self._kernel.route, driver, join, netns_fd, inside)
        made.append(index)
        if join.endpoint.ipv6_address:
            _allow_ipv6(netns_fd, join.interface)
        netlink.transact(inside, [identity(join, index), *configuration(join, index)])
        _write_sysctls(netns_fd, join)

    def _leave(self, container_id: ContainerID, joins: Sequence[Join], *, sandbox_gone: bool) -> None:
        self._kernel.firewall.withdraw([each for join in joins for each in publications_of(join)])
        self._close_between(joins)
        if not sandbox_gone:
            for join in joins:
                if is_sublink(join):
                    self._delete_inside(container_id, join)
                else:
                    self._delete(veth_name(join.endpoint.endpoint_id))

    def _delete_inside(self, container_id: ContainerID, join: Join) -> None:
        held = self._held.get((container_id, join.endpoint.endpoint_id))
        if held is None or held.netns_fd < 0:
            return
        with _route_inside(held.netns_fd) as inside:
            link = _link_with(inside, join.endpoint)
            if link is not None:
                netlink.transact(inside, [links.delete_link_at(link.index)])

    def _is_apart(self, join: Join) -> bool:
        return join.network.driver == "bridge" and self._kernel.options.firewall and not networks.icc_of(join.network)

    def _open_between(self, join: Join) -> None:
        veth = veth_name(join.endpoint.endpoint_id)
        opened = {veth_name(opening.endpoint_id): opening.ports for opening in join.openings}
        self._kernel.firewall.open_between(veth, opened)
        try:
            netlink.transact(self._kernel.route, [links.set_bridge_port(veth, isolated=False)])
        except OSError as error:
            if error.errno != errno.ENODEV:  # Its container starts or ends just now.
                raise _join_failed(error) from error

    def _close_between(self, joins: Sequence[Join]) -> None:
        for join in joins:
            if self._is_apart(join):
                self._kernel.firewall.close_between(veth_name(join.endpoint.endpoint_id))

    def _reroute(self, netns_fd: int, join: Join) -> None:
        endpoint = join.endpoint
        with _route_inside(netns_fd) as inside:
            link = _link_with(inside, endpoint)
            if link is None:
                raise PortError("route", f"{endpoint.endpoint_id} is not in the sandbox", fault=Fault.NOT_FOUND)
            gateways = (endpoint.ipv4_gateway, endpoint.ipv6_gateway)
            try:
                netlink.transact(inside, [links.default_route(link.index, gateway) for gateway in gateways if gateway])
            except OSError as error:
                raise _join_failed(error) from error

    def _delete(self, name: str) -> None:
        try:
            self._kernel.deletions.delete(name)
        except OSError as error:
            raise _join_failed(error) from error

    def _delete_at(self, index: int) -> None:
        try:
            self._kernel.deletions.delete_at(index)
        except OSError as error:
            raise _join_failed(error) from error


def _interfaces(pid: int) -> set[str]:
    with open(f"/proc/{pid}/net/dev") as table:
        return {line.partition(":")[0].strip() for line in table}


def _link_with(inside: socket.socket, endpoint: Endpoint) -> links.Link | None:
    """The interface of an endpoint, by its address: networks that came and went leave gaps in the names."""
    wanted = {endpoint.ipv4_address, endpoint.ipv6_address} - {""}
    for link in links.all_links(inside):
        if wanted & {address for address, _ in links.addresses_of(inside, link.index)}:
            return link
    return None


def _route_inside(netns_fd: int) -> socket.socket:
    """A routing socket of the namespace; on the link thread."""
    home = namespaces.open_current()
    try:
        with namespaces.entered(netns_fd, home):
            return netlink.open_socket(netlink.ROUTE)
    finally:
        os.close(home)


def _allow_ipv6(netns_fd: int, interface: str) -> None:
    home = namespaces.open_current()
    try:
        with namespaces.entered(netns_fd, home):
            namespaces.write_sysctls({f"net.ipv6.conf.{interface.replace('.', '/')}.disable_ipv6": "0"})
    finally:
        os.close(home)


def _write_sysctls(netns_fd: int, join: Join) -> None:
    """Those that a user asked of this endpoint's interface."""
    if not join.sysctls:
        return
    home = namespaces.open_current()
    try:
        with namespaces.entered(netns_fd, home):
            namespaces.write_sysctls(endpoint_options.of_interface(join.sysctls, join.interface))
    except OSError as error:
        raise _sysctl_failed(error) from error
    finally:
        os.close(home)


def _explained(join: Join, error: PortError) -> PortError:
    """In the words clients see: whose endpoint it was."""
    if not join.endpoint_name:
        return error
    prefix = f"driver failed programming external connectivity on endpoint {join.endpoint_name}"
    return PortError(
        error.operation,
        f"{prefix} ({join.endpoint.endpoint_id}): {error.message}",
        fault=error.fault,
        errno=error.errno,
        retriable=error.retriable,
    )


def _join_failed(error: OSError) -> PortError:
    reason = os.strerror(error.errno).lower() if error.errno else str(error)
    return PortError("join", f"failed to set up container networking: {reason}", errno=error.errno or 0)


def _attachment_failed(join: Join, error: OSError) -> PortError:
    """A bridge has 1,023 ports at most: the kernel says EXFULL."""
    number = error.errno or 0
    veth, bridge = veth_name(join.endpoint.endpoint_id), networks.bridge_name(join.network)
    words = f"adding interface {veth} to bridge {bridge} failed: {os.strerror(number).lower()}"
    return PortError("join", f"failed to set up container networking: {words}", errno=number)


def _not_running(error: OSError) -> PortError:
    return PortError("network", "the container is not running", errno=error.errno or 0)


def _sysctl_failed(error: OSError) -> PortError:
    """As runc says it, because moby leaves the writing of net.* to runc."""
    reason = os.strerror(error.errno).lower() if error.errno else str(error)
    return PortError("open", f"open {error.filename}: {reason}", fault=Fault.INVALID, errno=error.errno or 0)
