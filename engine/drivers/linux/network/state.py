"""What the parts of the network driver share: threads, sockets, pool. Opened by `run`, closed when it ends.

Owns: the two threads, the host-side sockets (made by the link thread, so of the engine's namespace), the firewall.
Refuses to know: networks and endpoints.
"""

from __future__ import annotations

import os
import socket
from typing import TypeVar

import msgspec
import trio

from engine.aggregates.values.id_map import IdMap
from engine.aggregates.values.ids import NetworkID
from engine.aggregates.values.sysctls import sysctl_path
from engine.drivers.linux.network import namespaces, netlink
from engine.drivers.linux.network.deletion import LinkDeletions
from engine.drivers.linux.network.firewall import Disabled, Firewall, NftablesFirewall
from engine.drivers.linux.network.namespaces import NamespaceThread, SandboxPool
from engine.errors import Fault, PortError

T = TypeVar("T")

POOL_SYSCTLS = {
    # A joined interface announces itself, because its address may have had another MAC before.
    "net.ipv4.conf.default.arp_notify": "1",
    # As moby (daemon/oci_linux.go): who is not root in a container may bind port 80, and ping.
    "net.ipv4.ip_unprivileged_port_start": "0",
    "net.ipv4.ping_group_range": "0 2147483647",
}
"""Written into every namespace when it is made; what a user asks for is written after."""

_DISABLE_IPV6 = {"net.ipv6.conf.default.disable_ipv6": "1"}


class NetworkingOptions(msgspec.Struct, frozen=True, kw_only=True):
    """pool_size: ready namespaces kept (about 100 KB of kernel memory each). forwarding: may turn on ip_forward
    (`--ip-forward`). firewall: writes rules (`--iptables`). relays: serves in the engine what DNAT can not
    (`--userland-proxy`). id_map: of the user namespaces that most sandboxes belong to, None for none. prepared: its
    start writes the static rules; without, `prepare` does, and who never calls it has only looked."""

    pool_size: int = 4
    forwarding: bool = True
    firewall: bool = True
    relays: bool = True
    id_map: IdMap | None = None
    prepared: bool = True


class Kernel:
    """The host side. `route`, `firewall` and `deletions` may only be used on the link thread."""

    def __init__(self, options: NetworkingOptions) -> None:
        self.options = options
        self.links = NamespaceThread("network-links")
        self._pool_thread = NamespaceThread("network-pool")
        self.pool_sysctls: dict[str, str] = {}
        self._pool: SandboxPool | None = None
        self.nursery: trio.Nursery | None = None
        self._route: socket.socket | None = None
        self._firewall: Firewall | None = None
        self._deletions: LinkDeletions | None = None
        self.ipv6 = False
        self.network_names: dict[NetworkID, str] = {}
        """Learnt from every specification seen: the resolver answers `name.network`."""

    @property
    def pool(self) -> SandboxPool:
        return _running(self._pool)

    @property
    def route(self) -> socket.socket:
        return _running(self._route)

    @property
    def firewall(self) -> Firewall:
        return _running(self._firewall)

    @property
    def deletions(self) -> LinkDeletions:
        return _running(self._deletions)

    async def pool_settled(self) -> None:
        """Whatever the pool had begun to make when this was called is in it."""
        await self._pool_thread.call(lambda: None)
        await trio.lowlevel.checkpoint()  # Of two tasks that wake together either may be the first.

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Open everything, write the base rules, keep the pool full until cancelled. Started from the thread whose
        namespace is the engine's."""
        self.links.start()
        self._pool_thread.start()
        try:
            await self.links.call(self._open)
            self._pool = SandboxPool(
                self._pool_thread, self.options.pool_size, self.pool_sysctls, self.options.id_map
            )
            async with trio.open_nursery() as nursery:
                self.nursery = nursery
                nursery.start_soon(self._pool.run, name="network-pool")
                task_status.started()
        finally:
            self.nursery = None
            with trio.CancelScope(shield=True):
                await self.links.call(self._close)
            self._pool_thread.stop()
            self.links.stop()

    def _open(self) -> None:
        self.ipv6 = os.path.exists("/proc/sys/net/ipv6/conf/default")
        self.pool_sysctls = {**POOL_SYSCTLS, **(_DISABLE_IPV6 if self.ipv6 else {})}
        self._route = netlink.open_socket(netlink.ROUTE)
        self._deletions = LinkDeletions()
        self._firewall = NftablesFirewall(ipv6=self.ipv6) if self.options.firewall else Disabled()
        if self.options.prepared:
            self.prepare()

    def prepare(self) -> None:
        """What belongs to no network: static rules, forwarding. Idempotent."""
        self.firewall.prepare()
        self._enable_forwarding("net.ipv4.ip_forward", "ip")

    def enable_ipv6_forwarding(self) -> None:
        """Asked for by the first network with IPv6, as in moby: a host without one keeps its setting."""
        if self.ipv6:
            self._enable_forwarding("net.ipv6.conf.all.forwarding", "ip6")

    def _enable_forwarding(self, sysctl: str, family: str) -> None:
        if not self.options.forwarding:
            return
        with open(sysctl_path(sysctl)) as file:
            if file.read().strip() == "1":
                return
        # The policy first: between the two writes the host must not route for strangers.
        self.firewall.drop_strangers(family)
        namespaces.write_sysctls({sysctl: "1"})

    def _close(self) -> None:
        if self._route is not None:
            self._route.close()
        if self._firewall is not None:
            self._firewall.close()
        if self._deletions is not None:
            self._deletions.close()
        self._route = self._firewall = self._deletions = None


def _running(part: T | None) -> T:
    if part is None:
        raise PortError("network", "the network driver is not running", fault=Fault.UNAVAILABLE)
    return part
