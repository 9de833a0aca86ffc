"""A container's /etc/hosts, /etc/hostname and /etc/resolv.conf (CTR-40): rendered, written, bind-mounted."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from engine.aggregates.container.state import ContainerState
from engine.aggregates.values import etc_files as render
from engine.aggregates.values.endpoints import Endpoint
from engine.drivers.ports.storage import ContainerFolders
from engine.projections.networks import Networks
from engine.reactors.lifecycle.linked import Linked
from engine.reactors.lifecycle.names import Names


class EtcPaths(msgspec.Struct, frozen=True, kw_only=True):
    """Host paths of the three files."""

    hosts: str
    hostname: str
    resolv_conf: str


class EtcFiles:
    """host_resolv_conf: the text of the host's file; dns, search and options: the daemon's own defaults."""

    def __init__(
        self,
        folders: ContainerFolders,
        networks: Networks,
        names: Names,
        linked: Linked,
        host_resolv_conf: str,
        dns: Sequence[str] = (),
        search: Sequence[str] = (),
        options: Sequence[str] = (),
    ) -> None:
        self._folders = folders
        self._networks = networks
        self._names = names
        self._linked = linked
        self._host_resolv_conf = host_resolv_conf
        self._dns = tuple(dns)
        self._search = tuple(search)
        self._options = tuple(options)

    def folder(self, state: ContainerState) -> str:
        """The container's own."""
        return self._folders.path(state.container_id)

    async def write(self, state: ContainerState, endpoints: Sequence[Endpoint]) -> EtcPaths:
        """Render and write for this start. A container that shares another's network shares its files (NET-20)."""
        mode = state.host.network_mode
        own = self._folders.path(state.container_id)
        if mode.startswith("container:"):
            await self._folders.write(state.container_id, {})  # The log of its own output still lies in its folder.
            donor = self._folders.path(type(state.container_id)(mode.partition(":")[2]))
            return EtcPaths(hosts=f"{donor}/hosts", hostname=f"{donor}/hostname", resolv_conf=f"{donor}/resolv.conf")
        files = {
            "hostname": render.hostname(state.config.hostname),
            "hosts": self._hosts(state, endpoints),
            "resolv.conf": self._resolv_conf(state, endpoints),
        }
        await self._folders.write(state.container_id, files)
        return EtcPaths(hosts=f"{own}/hosts", hostname=f"{own}/hostname", resolv_conf=f"{own}/resolv.conf")

    def _hosts(self, state: ContainerState, endpoints: Sequence[Endpoint]) -> str:
        addresses = [a for endpoint in endpoints for a in (endpoint.ipv4_address, endpoint.ipv6_address) if a]
        gateways = [endpoint.ipv4_gateway for endpoint in endpoints if endpoint.ipv4_gateway]
        bridge = self._networks.named("bridge")
        if bridge is not None and bridge.settings.pools:
            gateways = [bridge.settings.pools[0].gateway]
        return render.hosts(
            hostname=state.config.hostname,
            domainname=state.config.domainname,
            addresses=addresses,
            extra_hosts=tuple(state.host.extra_hosts or ()),
            host_gateway=gateways[:1],
            linked=self._linked.records(state, endpoints),
        )

    def _resolv_conf(self, state: ContainerState, endpoints: Sequence[Endpoint]) -> str:
        conf = render.override(
            render.parse_resolv_conf(self._host_resolv_conf),
            dns=tuple(filter(None, state.host.dns or ())) or self._dns,
            search=tuple(state.host.dns_search or ()) or self._search,
            options=tuple(state.host.dns_options or ()) or self._options,
        )
        if state.host.network_mode == "host":
            return render.for_host(conf).text
        if self._names.resolving_of(endpoints):
            return render.for_embedded_resolver(conf).text
        return render.for_default_bridge(conf, ipv6=any(endpoint.ipv6_address for endpoint in endpoints)).text
