"""The firewall as the rest of the driver sees it: networks and published ports come and go.

Owns: the nft context and the nfnetlink socket. Everything here runs on the link thread.
`Disabled` stands in for it where the host's administrator wants no rules (`--iptables=false`): then nothing is
masqueraded, nothing is isolated, and published ports are relayed by the engine alone, as docker-proxy does for moby.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from engine.aggregates.values.drift import Difference
from engine.drivers.linux.network import conntrack, elements, firewall_drift, netlink, openings, ruleset
from engine.drivers.linux.network.elements import Publication
from engine.drivers.linux.network.libnftables import Nftables
from engine.drivers.linux.network.ruleset import BridgeRules


class Firewall(Protocol):
    """All verbs are idempotent; each is one transaction."""

    def close(self) -> None: ...

    def prepare(self) -> None:
        """Write the static rules."""
        ...

    def add_network(self, rules: BridgeRules) -> None: ...

    def remove_network(self, rules: BridgeRules) -> None: ...

    def remove_bridge(self, bridge: str) -> None:
        """Everything about a bridge whose network is unknown."""
        ...

    def drop_strangers(self, family: str) -> None:
        """Forward nothing that is no network's of ours."""
        ...

    def open_between(self, veth: str, opened: Mapping[str, Iterable[str]]) -> None:
        """Let a bridge port that is not isolated reach exactly `opened` of its bridge's others: ports (`80/tcp`) by
        veth. Replaces what it reached before."""
        ...

    def close_between(self, veth: str) -> None: ...

    def linkers(self) -> list[str]:
        """The veths of which `open_between` was told."""
        ...

    def publish(self, publications: Sequence[Publication]) -> None: ...

    def withdraw(self, publications: Sequence[Publication]) -> None: ...

    def published(self) -> list[Publication]:
        """What is published now, by DNAT or at the containers' own addresses."""
        ...

    def look(self, networks: Sequence[BridgeRules], changing: Sequence[BridgeRules]) -> list[Difference]:
        """What is not as these networks want it; published ports are not looked at. changing: may be there."""
        ...

    def mend(self, difference: Difference, networks: Sequence[BridgeRules]) -> None: ...


class NftablesFirewall:
    """Tables `ip ishmael` and `ip6 ishmael` of the calling thread's namespace; `bridge ishmael` is made by the first
    link that needs it: a host without links has no hook on its bridges."""

    def __init__(self, *, ipv6: bool) -> None:
        self._families = ("ip", "ip6") if ipv6 else ("ip",)
        self._nft = Nftables()
        self._netfilter: socket.socket = netlink.open_socket(netlink.NETFILTER)
        self._expected: tuple[Sequence[BridgeRules], firewall_drift.Tables] | None = None

    def close(self) -> None:
        self._nft.close()
        self._netfilter.close()

    def prepare(self) -> None:
        self._nft.apply(ruleset.base(ipv6="ip6" in self._families))

    def add_network(self, rules: BridgeRules) -> None:
        self._nft.apply(ruleset.network_elements("add", rules, self._families))

    def remove_network(self, rules: BridgeRules) -> None:
        # Adding first makes the deletion of an element that is not there no error; both are one transaction.
        add = ruleset.network_elements("add", rules, self._families)
        self._nft.apply(add + ruleset.network_elements("delete", rules, self._families))

    def remove_bridge(self, bridge: str) -> None:
        subnets = [
            _cidr(element["concat"][0])
            for family in self._families
            for item in self._nft.listing(f"list set {family} {ruleset.TABLE} home")
            for element in item.get("set", {}).get("elem", ())
            if element["concat"][1] == bridge
        ]
        both = frozenset({4, 6})
        self.remove_network(BridgeRules(bridge=bridge, subnets=tuple(subnets), unprotected=both))
        self.remove_network(BridgeRules(bridge=bridge, subnets=(), routed=both))
        self.remove_network(BridgeRules(bridge=bridge, subnets=(), internal=True))

    def drop_strangers(self, family: str) -> None:
        self._nft.apply(ruleset.forward_policy(family, "drop"))

    def open_between(self, veth: str, opened: Mapping[str, Iterable[str]]) -> None:
        self._nft.apply(openings.opened(veth, opened))

    def close_between(self, veth: str) -> None:
        if self._has_linkers():
            self._nft.apply(openings.closed(veth))

    def linkers(self) -> list[str]:
        if not self._has_linkers():
            return []
        listed = self._nft.listing(f"list set bridge {ruleset.TABLE} linkers")
        return [veth for item in listed for veth in item.get("set", {}).get("elem", ())]

    def _has_linkers(self) -> bool:
        tables = self._nft.listing("list tables bridge")
        return any(item.get("table", {}).get("name") == ruleset.TABLE for item in tables)

    def publish(self, publications: Sequence[Publication]) -> None:
        elements.publish(self._netfilter, publications)
        conntrack.forget_udp(self._netfilter, [each.port for each in publications])

    def withdraw(self, publications: Sequence[Publication]) -> None:
        elements.withdraw(self._netfilter, publications)
        conntrack.forget_udp(self._netfilter, [each.port for each in publications])

    def published(self) -> list[Publication]:
        versions = (4, 6) if "ip6" in self._families else (4,)
        return [each for version in versions for each in elements.published(self._netfilter, version)]

    def look(self, networks: Sequence[BridgeRules], changing: Sequence[BridgeRules]) -> list[Difference]:
        required = self._wanted(networks)
        wanted = self._wanted((*networks, *changing)) if changing else required
        return firewall_drift.compare(firewall_drift.read(self._nft, self._families), wanted, required)

    def _wanted(self, networks: Sequence[BridgeRules]) -> firewall_drift.Tables:
        """Kept until the networks change: one look follows another."""
        if self._expected is None or self._expected[0] != networks:
            self._expected = (networks, firewall_drift.expected(self._families, networks))
        return self._expected[1]

    def mend(self, difference: Difference, networks: Sequence[BridgeRules]) -> None:
        firewall_drift.mend(self._nft, self._families, networks, difference)


class Disabled:
    """No rules at all."""

    def close(self) -> None: ...

    def prepare(self) -> None: ...

    def add_network(self, rules: BridgeRules) -> None: ...

    def remove_network(self, rules: BridgeRules) -> None: ...

    def remove_bridge(self, bridge: str) -> None: ...

    def drop_strangers(self, family: str) -> None: ...

    def open_between(self, veth: str, opened: Mapping[str, Iterable[str]]) -> None: ...

    def close_between(self, veth: str) -> None: ...

    def linkers(self) -> list[str]:
        return []

    def publish(self, publications: Sequence[Publication]) -> None: ...

    def withdraw(self, publications: Sequence[Publication]) -> None: ...

    def published(self) -> list[Publication]:
        return []

    def look(self, networks: Sequence[BridgeRules], changing: Sequence[BridgeRules]) -> list[Difference]:
        return []

    def mend(self, difference: Difference, networks: Sequence[BridgeRules]) -> None: ...


def _cidr(listed: object) -> str:
    """A subnet as libnftables lists it: `{"prefix": {"addr": ..., "len": ...}}`, or a single address."""
    if isinstance(listed, dict):
        prefix = listed["prefix"]
        return f"{prefix['addr']}/{prefix['len']}"
    return str(listed)
