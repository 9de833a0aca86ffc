"""What the parts of the network driver share: threads, sockets, pool. Opened by `run`, closed when it ends.

Owns: the two threads, the host-side sockets (made by the link thread, so of the engine's namespace), the nft context.
Refuses to know: networks and endpoints.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import TypeVar

import trio

from engine.aggregates.values.ids import NetworkID
from engine.drivers.linux.network import namespaces, netlink, ruleset
from engine.drivers.linux.network.libnftables import Nftables
from engine.drivers.linux.network.namespaces import NamespaceThread, SandboxPool
from engine.errors import Fault, PortError

T = TypeVar("T")

POOL_SYSCTLS = {"net.ipv4.conf.default.arp_notify": "1"}
"""Written into every namespace: a joined interface announces itself, because an address may have had another MAC."""

_DISABLE_IPV6 = {"net.ipv6.conf.default.disable_ipv6": "1"}


class Kernel:
    """The host side. `host`, `route`, `netfilter` and `nft` may only be used on the link thread."""

    def __init__(self, *, pool_size: int, sysctls: Mapping[str, str]) -> None:
        self.links = NamespaceThread("network-links")
        self._pool_thread = NamespaceThread("network-pool")
        self._requested_sysctls = {**POOL_SYSCTLS, **sysctls}
        self._pool_size = pool_size
        self.pool_sysctls: dict[str, str] = {}
        self._pool: SandboxPool | None = None
        self.nursery: trio.Nursery | None = None
        self._route: socket.socket | None = None
        self._netfilter: socket.socket | None = None
        self._nft: Nftables | None = None
        self.ipv6 = False
        self.network_names: dict[NetworkID, str] = {}
        """Learnt from every specification seen: the resolver answers `name.network`."""

    @property
    def families(self) -> tuple[str, ...]:
        return ("ip", "ip6") if self.ipv6 else ("ip",)

    @property
    def pool(self) -> SandboxPool:
        return _running(self._pool)

    @property
    def route(self) -> socket.socket:
        return _running(self._route)

    @property
    def netfilter(self) -> socket.socket:
        return _running(self._netfilter)

    @property
    def nft(self) -> Nftables:
        return _running(self._nft)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Open everything, write the base rules, keep the pool full until cancelled. Started from the thread whose
        namespace is the engine's."""
        self.links.start()
        self._pool_thread.start()
        try:
            await self.links.call(self._open)
            self._pool = SandboxPool(self._pool_thread, self._pool_size, self.pool_sysctls)
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
        self.pool_sysctls = {**self._requested_sysctls, **(_DISABLE_IPV6 if self.ipv6 else {})}
        self._route = netlink.open_socket(netlink.ROUTE)
        self._netfilter = netlink.open_socket(netlink.NETFILTER)
        self._nft = Nftables()
        self._nft.apply(ruleset.base(ipv6=self.ipv6))
        self._enable_forwarding("net.ipv4.ip_forward", "ip")

    def enable_ipv6_forwarding(self) -> None:
        """Asked for by the first network with IPv6, as in moby: a host without one keeps its setting."""
        if self.ipv6:
            self._enable_forwarding("net.ipv6.conf.all.forwarding", "ip6")

    def _enable_forwarding(self, sysctl: str, family: str) -> None:
        with open(namespaces.sysctl_path(sysctl)) as file:
            if file.read().strip() == "1":
                return
        # The policy first: between the two writes the host must not route for strangers.
        self.nft.apply(ruleset.forward_policy(family, "drop"))
        namespaces.write_sysctls({sysctl: "1"})

    def _close(self) -> None:
        for opened in (self._route, self._netfilter, self._nft):
            if opened is not None:
                opened.close()
        self._route = self._netfilter = self._nft = None


def _running(part: T | None) -> T:
    if part is None:
        raise PortError("network", "the network driver is not running", fault=Fault.UNAVAILABLE)
    return part
