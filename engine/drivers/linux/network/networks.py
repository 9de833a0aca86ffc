"""Networks: a bridge, its addresses, and its elements of the firewall. The `Networks` port on Linux.

Owns: bridges (known by their alias `ishmael:<network id>`), the inventory of everything under our names.
Refuses to know: endpoints (sandboxes.py). Networks of the drivers host and null need nothing of the kernel.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re
from collections.abc import Mapping

from engine.aggregates.values.bridge_options import BRIDGE_NAME, GATEWAY_MODES, HOST_BINDING, ROUTED
from engine.aggregates.values.ids import short
from engine.drivers.linux.network import links, namespaces, netlink, sublinks
from engine.drivers.linux.network.ipvlan import Ipvlan
from engine.drivers.linux.network.links import Link
from engine.drivers.linux.network.macvlan import Macvlan
from engine.drivers.linux.network.ruleset import BridgeRules
from engine.drivers.linux.network.state import Kernel
from engine.drivers.linux.network.sublinks import ALIAS, SublinkDriver
from engine.drivers.ports.network import NetworkInventory, NetworkSpec
from engine.errors import Fault, PortError

_ICC = "com.docker.network.bridge.enable_icc"
_MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
_INHIBIT_IPV4 = "com.docker.network.bridge.inhibit_ipv4"
_MTU = "com.docker.network.driver.mtu"
_UNSUPPORTED = (
    "com.docker.network.host_ipv4",
    "com.docker.network.host_ipv6",
    "com.docker.network.bridge.trusted_host_interfaces",
)
_DEFAULT_NETWORK_BRIDGE = "docker0"
VETH = re.compile(r"veth([0-9a-f]{7})")
SUBLINK_DRIVERS: Mapping[str, SublinkDriver] = {"macvlan": Macvlan(), "ipvlan": Ipvlan()}
_TRUE = ("1", "t", "T", "TRUE", "true", "True")
_FALSE = ("0", "f", "F", "FALSE", "false", "False")


def bridge_name(spec: NetworkSpec) -> str:
    """The bridge of a network: as named by option, `docker0` for the predefined network `bridge`, `br-<id>` else."""
    named = spec.options.get(BRIDGE_NAME, "")
    if named:
        return named
    return _DEFAULT_NETWORK_BRIDGE if spec.name == "bridge" else f"br-{short(spec.network_id)}"


def mtu_of(spec: NetworkSpec) -> int:
    """The MTU asked for, or 0 for the kernel's default. Raises PortError(INVALID)."""
    text = spec.options.get(_MTU, "")
    if not text:
        return 0
    if not text.isdecimal():
        raise PortError("create", f"failed to parse mtu value {text}: invalid syntax", fault=Fault.INVALID)
    if len(text.lstrip("0")) > 9:
        raise PortError("create", f"failed to parse mtu value {text}: value out of range", fault=Fault.INVALID)
    return int(text)


def icc_of(spec: NetworkSpec) -> bool:
    return _flag(spec, _ICC, default=True)


def rules_of(spec: NetworkSpec) -> BridgeRules:
    """The firewall's view of a network. Raises PortError for options that are wrong or not supported."""
    for option in _UNSUPPORTED:
        if spec.options.get(option):
            raise PortError("create", f"option {option} is not implemented", fault=Fault.NOT_IMPLEMENTED)
    _check_host_binding(spec)
    modes = {version: gateway_mode(spec, version) for version in (4, 6)}
    return BridgeRules(
        bridge=bridge_name(spec),
        subnets=spec.subnets,
        internal=spec.internal,
        icc=icc_of(spec),
        masquerade=_flag(spec, _MASQUERADE, default=True),
        unprotected=frozenset(version for version, mode in modes.items() if mode == "nat-unprotected"),
        routed=frozenset(version for version, mode in modes.items() if mode == ROUTED),
    )


def _check_host_binding(spec: NetworkSpec) -> None:
    text = spec.options.get(HOST_BINDING, "")
    try:
        ipaddress.ip_address(text or "::")
    except ValueError as error:
        message = f"failed to parse {HOST_BINDING} value: {text} (type string): invalid IP address"
        raise PortError("create", message, fault=Fault.INVALID) from error


def gateway_mode(spec: NetworkSpec, version: int) -> str:
    """`nat`, `nat-unprotected`, `routed`, or `isolated`: the host has no address on the bridge. Raises PortError for
    others."""
    mode = spec.options.get(GATEWAY_MODES[version], "") or "nat"
    if mode not in ("nat", "nat-unprotected", ROUTED, "isolated"):
        raise PortError("create", f"unknown gateway mode {mode}", fault=Fault.INVALID)
    if mode == "isolated" and not spec.internal:
        message = "gateway mode 'isolated' can only be used for an internal network"
        raise PortError("create", message, fault=Fault.INVALID)
    return mode


def host_addresses(spec: NetworkSpec) -> list[tuple[str, int]]:
    """(address, prefix length) that the host has on the bridge: the gateways, unless the options say otherwise."""
    found = []
    for subnet, gateway in zip(spec.subnets, spec.gateways, strict=False):
        inhibited = ":" not in subnet and _flag(spec, _INHIBIT_IPV4, default=False)
        if gateway and not inhibited and gateway_mode(spec, 6 if ":" in subnet else 4) != "isolated":
            found.append((gateway, int(subnet.partition("/")[2])))
    return found


def _flag(spec: NetworkSpec, option: str, *, default: bool) -> bool:
    text = spec.options.get(option, "")
    if not text:
        return default
    if text not in _TRUE + _FALSE:
        raise PortError(
            "create", f'failed to parse {option} value: "{text}" (type string): invalid syntax', fault=Fault.INVALID
        )
    return text in _TRUE


class LinuxNetworks:
    """The `Networks` port."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    async def prepare(self) -> None:
        """Write what belongs to no network. Idempotent."""
        await self._kernel.links.call(self._kernel.prepare)

    async def create(self, spec: NetworkSpec) -> None:
        """Make the bridge and its rules true, also where they are already. All or nothing for a new one."""
        if spec.driver in ("host", "null"):
            return
        self._kernel.network_names[spec.network_id] = spec.name
        sublinks_driver = SUBLINK_DRIVERS.get(spec.driver)
        if sublinks_driver is not None:
            await self._kernel.links.call(lambda: sublinks.create(self._kernel.route, sublinks_driver, spec))
            return
        if spec.driver != "bridge":
            raise PortError("create", f'network driver "{spec.driver}" is not implemented', fault=Fault.NOT_IMPLEMENTED)
        rules = rules_of(spec)
        mtu = mtu_of(spec)
        await self._kernel.links.call(lambda: self._create(spec, rules, mtu))

    async def remove(self, spec: NetworkSpec) -> None:
        """Delete the bridge and its rules. No error when they are gone."""
        sublinks_driver = SUBLINK_DRIVERS.get(spec.driver)
        if sublinks_driver is not None:
            await self._kernel.links.call(lambda: sublinks.remove(self._kernel.route, sublinks_driver, spec))
        elif spec.driver == "bridge":
            await self._kernel.links.call(lambda: self._remove(spec))
        self._kernel.network_names.pop(spec.network_id, None)

    async def inventory(self) -> NetworkInventory:
        """What is in the kernel under our names. No sandboxes: a namespace of ours has no name to be found by."""
        return await self._kernel.links.call(self._inventory)

    async def addresses_of(self, bridge: str) -> tuple[str, ...] | None:
        """The addresses of an interface of the host, with prefix lengths; None when there is no such interface."""
        return await self._kernel.links.call(lambda: self._addresses_of(bridge))

    async def host_subnets(self) -> tuple[str, ...]:
        """Destinations of the host's routes that are not ours: a subnet chosen automatically must not overlap them."""
        return await self._kernel.links.call(self._host_subnets)

    def _create(self, spec: NetworkSpec, rules: BridgeRules, mtu: int) -> None:
        route = self._kernel.route
        found = links.find(route, rules.bridge)
        made = found is None
        try:
            if found is None:
                found = self._make_bridge(spec, rules.bridge, mtu)
            _assert_bridge(found)
            if found.alias.startswith(ALIAS) and found.alias != ALIAS + spec.network_id:
                self._take_over(spec, found)
            self._configure(spec, found, mtu)
            self._kernel.firewall.add_network(rules)
        except (OSError, PortError) as error:
            if made:
                self.delete_link(rules.bridge)
            if isinstance(error, PortError):
                raise
            raise _failed("create", f"cannot create network {spec.network_id} ({rules.bridge})", error) from error

    def _make_bridge(self, spec: NetworkSpec, name: str, mtu: int) -> Link:
        # An address of its own: else the bridge takes the lowest of its ports', and another as containers come and go.
        mac_address = ":".join(("02", "42", *(spec.network_id[at : at + 2] for at in range(0, 8, 2))))
        marked = links.mark(name, ALIAS + spec.network_id, mac_address)
        netlink.transact(self._kernel.route, [links.new_bridge(name, mtu), marked])
        found = links.find(self._kernel.route, name)
        assert found is not None, "a bridge just made is there"
        return found

    def _take_over(self, spec: NetworkSpec, bridge: Link) -> None:
        """A bridge of ours whose network the log no longer knows (a `docker0` from before the data was lost): it gets
        its new owner's name, and loses its old addresses and rules."""
        self._kernel.firewall.remove_bridge(bridge.name)
        old = links.addresses_of(self._kernel.route, bridge.index)
        stale = [links.delete_address(bridge.index, address, length) for address, length in old]
        renamed = links.set_link(bridge.index, alias=ALIAS + spec.network_id)
        netlink.transact(self._kernel.route, [*stale, renamed])

    def _configure(self, spec: NetworkSpec, bridge: Link, mtu: int) -> None:
        """Addresses, sysctls, up. What is there already is left alone."""
        route = self._kernel.route
        has_ipv6 = any(":" in subnet for subnet in spec.subnets)
        if has_ipv6 and not self._kernel.ipv6:
            raise PortError("create", "IPv6 is not available on this host", fault=Fault.INVALID)
        present = {address for address, _ in links.addresses_of(route, bridge.index)}
        settings = {f"net.ipv4.conf.{bridge.name.replace('.', '/')}.route_localnet": "1"}
        if self._kernel.ipv6:
            settings[f"net.ipv6.conf.{bridge.name.replace('.', '/')}.disable_ipv6"] = "0" if has_ipv6 else "1"
        namespaces.write_sysctls(settings)
        requests = []
        for address, prefix_length in host_addresses(spec):
            if str(ipaddress.ip_address(address)) not in present:
                requests.append(links.new_address(bridge.index, address, prefix_length))
        netlink.transact(route, [*requests, links.set_link(bridge.index, mtu=mtu, up=True)])
        if has_ipv6:
            self._kernel.enable_ipv6_forwarding()

    def _remove(self, spec: NetworkSpec) -> None:
        try:
            rules = rules_of(spec)
        except PortError:
            rules = BridgeRules(bridge=bridge_name(spec), subnets=spec.subnets)
        self._kernel.firewall.remove_network(rules)
        found = links.find(self._kernel.route, rules.bridge)
        if found is not None and found.alias == ALIAS + spec.network_id:
            self.delete_link(rules.bridge)

    def delete_link(self, name: str) -> None:
        """On the link thread. Idempotent."""
        try:
            self._kernel.deletions.delete(name)
        except OSError as error:
            raise _failed("remove", f"cannot delete {name}", error) from error

    def _inventory(self) -> NetworkInventory:
        found = links.all_links(self._kernel.route)
        ours = {link.index: link for link in found if link.alias.startswith(ALIAS)}
        veths = {link.name for link in found if link.kind == "veth" and link.master in ours}
        veths.update(self._kernel.firewall.linkers())
        return NetworkInventory(
            bridges=tuple(sorted(short(link.alias.removeprefix(ALIAS)) for link in ours.values())),
            veths=tuple(sorted(match[1] for veth in veths if (match := VETH.fullmatch(veth)))),
            ports=tuple(sorted(each.port for each in self._kernel.firewall.published() if not each.routed)),
        )

    def remove_bridge(self, name: str) -> None:
        """On the link thread: a bridge that no network owns, and what the firewall has of it. Idempotent."""
        self._kernel.firewall.remove_bridge(name)
        self.delete_link(name)

    def _addresses_of(self, bridge: str) -> tuple[str, ...] | None:
        found = links.find(self._kernel.route, bridge)
        if found is None:
            return None
        return tuple(f"{address}/{length}" for address, length in links.addresses_of(self._kernel.route, found.index))

    def _host_subnets(self) -> tuple[str, ...]:
        ours: set[str] = set()
        for link in links.all_links(self._kernel.route):
            if link.alias.startswith(ALIAS):
                for address, length in links.addresses_of(self._kernel.route, link.index):
                    ours.add(str(ipaddress.ip_interface(f"{address}/{length}").network))
        return tuple(sorted(set(links.route_destinations(self._kernel.route)) - ours))


def _assert_bridge(link: Link) -> None:
    if link.kind != "bridge":
        message = f"existing interface {link.name} is not a bridge"
        raise PortError("create", message, fault=Fault.FORBIDDEN)


def _failed(operation: str, what: str, error: OSError) -> PortError:
    reason = os.strerror(error.errno).lower() if error.errno else str(error)
    return PortError(operation, f"{what}: {reason}", errno=error.errno or 0, retriable=error.errno == errno.EBUSY)
