"""Networks and endpoints compared with the log: bridges, their addresses, veths, published ports, the firewall.

Owns: which difference is what, and which verb of the driver mends it. Refuses to know: what is inside a container's
namespace, which is the container's to change, and links without a name or mark of ours.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Sequence

from msgspec.structs import replace

from engine.aggregates.values.drift import Deviation, Difference
from engine.drivers.linux.network import links, netlink, networks
from engine.drivers.linux.network.elements import Publication
from engine.drivers.linux.network.joining import attachment, publications_of, veth_name
from engine.drivers.linux.network.links import Link
from engine.drivers.linux.network.networks import VETH, LinuxNetworks, rules_of
from engine.drivers.linux.network.ruleset import BridgeRules
from engine.drivers.linux.network.sandboxes import LinuxSandboxes
from engine.drivers.linux.network.state import Kernel
from engine.drivers.linux.network.sublinks import ALIAS
from engine.drivers.ports.drift import Ledger, LiveEndpoint
from engine.drivers.ports.network import NetworkSpec
from engine.errors import Fault, PortError

BRIDGE, ADDRESS, VETH_PAIR, SPARE, PORT = "bridge", "bridge address", "veth", "unused veth", "published port"
OPENING, PARENT_LINK = "link opening", "parent interface"
_OUR_NAME = re.compile(r"br-[0-9a-f]{12}")
_SPARE = re.compile(r"ishmael[0-9]+")


class LinuxNetworkInspector:
    """See engine/drivers/ports/drift.py, Inspector."""

    def __init__(self, kernel: Kernel, driver: LinuxNetworks, sandboxes: LinuxSandboxes) -> None:
        self._kernel = kernel
        self._networks = driver
        self._sandboxes = sandboxes

    async def look(self, ledger: Ledger) -> Sequence[Difference]:
        found, differences = await self._kernel.links.call(lambda: self._look(ledger))
        return [*differences, *await self._spares(found)]

    async def _spares(self, found: dict[str, Link]) -> list[Difference]:
        """Pairs that neither an endpoint nor the pool has: an engine died while it connected a container that lives on.
        Those that the pool was just making are its own by the time it is asked."""
        spares = {link.index: name for name, link in found.items() if link.kind == "veth" and _SPARE.fullmatch(name)}
        if not spares.keys() - self._sandboxes.unused_veths():
            return []
        await self._kernel.pool_settled()
        in_use = self._sandboxes.unused_veths()
        return [_difference(SPARE, Deviation.STRAY, name) for index, name in spares.items() if index not in in_use]

    def _look(self, ledger: Ledger) -> tuple[dict[str, Link], list[Difference]]:
        found = {link.name: link for link in links.all_links(self._kernel.route)}
        return found, [
            *self._bridges(ledger, found),
            *self._veths(ledger, found),
            *self._kernel.firewall.look(_rules(ledger.networks), _rules(ledger.changing)),
            *(self._ports(ledger) if self._kernel.options.firewall else ()),
        ]

    def _bridges(self, ledger: Ledger, found: dict[str, Link]) -> list[Difference]:
        differences: list[Difference] = []
        addresses = links.all_addresses(self._kernel.route)
        for spec in _bridged(ledger.networks):
            name = networks.bridge_name(spec)
            link = found.get(name)
            if link is None:
                differences.append(_difference(BRIDGE, Deviation.MISSING, name, spec.network_id))
            elif link.kind != "bridge" or not link.up:
                words = "it is down" if link.kind == "bridge" else "it is no bridge"
                differences.append(_difference(BRIDGE, Deviation.WRONG, name, spec.network_id, words))
            else:
                have = {address for address, _ in addresses.get(link.index, ())}
                differences += [
                    _difference(ADDRESS, Deviation.MISSING, f"{name} {address}", spec.network_id)
                    for address, _ in networks.host_addresses(spec)
                    if str(ipaddress.ip_address(address)) not in have
                ]
        known = {ALIAS + spec.network_id for spec in (*ledger.networks, *ledger.changing)}
        names = {networks.bridge_name(spec) for spec in _bridged((*ledger.networks, *ledger.changing))}
        for link in found.values():
            if link.alias.startswith(ALIAS) and link.alias not in known:
                kind = BRIDGE if link.kind == "bridge" else PARENT_LINK
                differences.append(_difference(kind, Deviation.STRAY, link.name))
            elif link.kind == "bridge" and not link.alias and _OUR_NAME.fullmatch(link.name) and link.name not in names:
                words = "it has a name of ours and no mark of ours"
                differences.append(_difference(BRIDGE, Deviation.STRAY, link.name, words=words))
        return differences

    def _veths(self, ledger: Ledger, found: dict[str, Link]) -> list[Difference]:
        differences: list[Difference] = []
        for endpoint in _bridged_endpoints(ledger):
            owner, name = endpoint.container_id, veth_name(endpoint.join.endpoint.endpoint_id)
            bridge, veth = found.get(networks.bridge_name(endpoint.join.network)), found.get(name)
            if veth is None:
                differences.append(_difference(VETH_PAIR, Deviation.MISSING, name, owner))
            elif bridge is None or veth.master != bridge.index or not veth.up:
                words = "it is down or not on its bridge"
                differences.append(_difference(VETH_PAIR, Deviation.WRONG, name, owner, words))
        ours = {link.index for link in found.values() if link.alias.startswith(ALIAS)}
        known = {veth_name(endpoint_id) for endpoint_id in ledger.leased}
        for link in found.values():
            strange = link.kind == "veth" and link.master in ours and link.name not in known
            if strange and VETH.fullmatch(link.name):
                differences.append(_difference(VETH_PAIR, Deviation.STRAY, link.name))
        linkers = [veth for veth in self._kernel.firewall.linkers() if veth not in known]
        return differences + [_difference(OPENING, Deviation.STRAY, veth) for veth in linkers]

    def _ports(self, ledger: Ledger) -> list[Difference]:
        """The kernel knows a port by its host's side alone: what it leads to is not part of the key."""
        wanted = {each.place: (each, owner) for each, owner in _publications(ledger)}
        found = {each.place: each for each in self._kernel.firewall.published()}
        # A container that starts or ends just now has the ports that the log holds for it.
        resting = {port for endpoint in _bridged_endpoints(ledger) for port in endpoint.join.ports}
        allowed = {Publication(port=port, address="").place for port in ledger.ports - resting}
        differences = []
        for place, (publication, owner) in wanted.items():
            there = found.get(place)
            if there is None:
                differences.append(_difference(PORT, Deviation.MISSING, place, owner, publication.target))
            elif there.target != publication.target:
                words = f"it leads to {there.target} instead of {publication.target}"
                differences.append(_difference(PORT, Deviation.WRONG, place, owner, words))
        for place, publication in found.items():
            if place not in wanted and place not in allowed:
                words = f"it leads to {publication.target}" if publication.target else ""
                differences.append(_difference(PORT, Deviation.STRAY, place, words=words))
        return differences

    async def mend(self, difference: Difference, ledger: Ledger) -> None:
        stray = difference.deviation is Deviation.STRAY
        if difference.kind in (BRIDGE, ADDRESS) and not stray:
            spec = next(each for each in ledger.networks if each.network_id == difference.owner)
            await self._networks.create(spec)
        elif difference.kind == VETH_PAIR and not stray:
            await self._mend_veth(difference, ledger)
        else:
            await self._kernel.links.call(lambda: self._mend(difference, ledger))

    async def _mend_veth(self, difference: Difference, ledger: Ledger) -> None:
        endpoint = next(
            each
            for each in ledger.endpoints
            if each.container_id == difference.owner and veth_name(each.join.endpoint.endpoint_id) == difference.subject
        )
        if difference.deviation is Deviation.WRONG:
            await self._kernel.links.call(lambda: self._attach(endpoint))
            if endpoint.join.openings:
                await self._sandboxes.open_between(endpoint.join)
            return
        # The container's end is gone with the host's: another pair, in the same place.
        join, owner = endpoint.join, endpoint.container_id
        await self._sandboxes.leave(owner, (join,), sandbox_gone=False)
        if not join.fixed:
            prefix = join.interface.rstrip("0123456789")
            join = replace(join, interface=await self._sandboxes.free_interface(owner, endpoint.pid, prefix))
        netns_fd = await self._sandboxes.enter(owner, endpoint.pid)
        try:
            await self._sandboxes.join(owner, netns_fd, (join,))
        finally:
            os.close(netns_fd)

    def _attach(self, endpoint: LiveEndpoint) -> None:
        join, route = endpoint.join, self._kernel.route
        veth = links.find(route, veth_name(join.endpoint.endpoint_id))
        bridge = links.find(route, networks.bridge_name(join.network))
        if veth is None or bridge is None:
            raise PortError("mend", f"{veth_name(join.endpoint.endpoint_id)} is gone", fault=Fault.NOT_FOUND)
        netlink.transact(route, attachment(join, veth.index, bridge.index))

    def _mend(self, difference: Difference, ledger: Ledger) -> None:
        """On the link thread: what no container and no network needs a verb for."""
        match difference.kind:
            case "bridge":
                self._remove_bridge(difference.subject)
            case "veth" | "unused veth" | "parent interface":
                self._networks.delete_link(difference.subject)
            case "link opening":
                self._kernel.firewall.close_between(difference.subject)
            case "published port" if difference.deviation is Deviation.STRAY:
                found = self._kernel.firewall.published()
                stray = [each for each in found if each.place == difference.subject]
                self._kernel.firewall.withdraw(stray)
            case "published port":
                wanted = [each for each, _ in _publications(ledger) if each.place == difference.subject]
                self._kernel.firewall.publish(wanted)
            case _:
                self._kernel.firewall.mend(difference, _rules((*ledger.networks, *ledger.changing)))

    def _remove_bridge(self, name: str) -> None:
        """One without our mark may be somebody else's: it goes only when nobody uses it."""
        link = links.find(self._kernel.route, name)
        if link is None:
            return
        if not link.alias.startswith(ALIAS):
            ports = [other.name for other in links.all_links(self._kernel.route) if other.master == link.index]
            if ports or links.addresses_of(self._kernel.route, link.index):
                raise PortError("mend", f"{name} has ports or addresses: it may be somebody else's")
        self._networks.remove_bridge(name)


def _difference(kind: str, deviation: Deviation, subject: str, owner: str = "", words: str = "") -> Difference:
    return Difference(kind=kind, deviation=deviation, subject=subject, owner=owner, words=words)


def _bridged(specs: Sequence[NetworkSpec]) -> list[NetworkSpec]:
    return [spec for spec in specs if spec.driver == "bridge"]


def _bridged_endpoints(ledger: Ledger) -> list[LiveEndpoint]:
    """Of processes that are there: of one that ended the log does not know yet, and its namespace went with it."""
    return [
        each
        for each in ledger.endpoints
        if each.join.network.driver == "bridge" and os.path.exists(f"/proc/{each.pid}/ns/net")
    ]


def _rules(specs: Sequence[NetworkSpec]) -> list[BridgeRules]:
    return [rules_of(spec) for spec in _bridged(specs)]


def _publications(ledger: Ledger) -> list[tuple[Publication, str]]:
    return [(each, it.container_id) for it in _bridged_endpoints(ledger) for each in publications_of(it.join)]
