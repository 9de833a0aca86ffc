"""Port specifications as users write them, read into wishes: `80/tcp`, `8000-8010`, ExposedPorts, PortBindings.

Owns: the grammar and its errors in moby's words, and what `-p` and `-P` wish for together.
Refuses to know: which ports are free (aggregates/ports.py) and how one is published (the network driver).
Source: moby api/types/network/port.go, daemon/container.go (validation), daemon/container_operations.go (wishes).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.values.config import PortBinding
from engine.aggregates.values.endpoints import PortWish

PROTOCOLS = ("tcp", "udp", "sctp")
ANY_ADDRESSES = ("0.0.0.0", "::")  # noqa: S104 - what an empty HostIp means
_PORT_MAX = 65535


class PortRange(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """`8000-8010/tcp`: first <= last; equal for a single port. Port 0 means any where a host port is meant."""

    first: int
    last: int
    protocol: str = "tcp"

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.last + 1))

    def __str__(self) -> str:
        numbers = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        return f"{numbers}/{self.protocol}"


def parse_port(text: str) -> PortRange:
    """One port: `80`, `80/udp`; the protocol in any case, tcp where none is given. Raises Rejected(INVALID)."""
    number, _, protocol = text.partition("/")
    port = _number(number, f"invalid port '{number}'")
    return PortRange(first=port, last=port, protocol=_protocol(protocol, text))


def parse_port_range(text: str) -> PortRange:
    """One port or a range: `8000-8010/tcp`. Raises Rejected(INVALID)."""
    if not text:
        raise Rejected(Reason.INVALID, "invalid port range: value is empty")
    numbers, _, protocol = text.partition("/")
    start, dash, end = numbers.partition("-")
    first = _number(start, f"invalid start port '{start}'")
    last = _number(end, f"invalid end port '{end}'") if dash else first
    if last < first:
        raise Rejected(Reason.INVALID, f"invalid port range: {text}")
    return PortRange(first=first, last=last, protocol=_protocol(protocol, text))


def _number(text: str, what: str) -> int:
    if not text:
        raise Rejected(Reason.INVALID, f"{what}: value is empty")
    if not (text.isascii() and text.isdecimal()):
        raise Rejected(Reason.INVALID, f"{what}: invalid syntax")
    if len(text.lstrip("0")) > 5 or int(text) > _PORT_MAX:
        raise Rejected(Reason.INVALID, f"{what}: value out of range")
    return int(text)


def _protocol(text: str, whole: str) -> str:
    protocol = text.lower() or "tcp"
    if protocol not in PROTOCOLS:
        raise Rejected(Reason.INVALID, f'invalid port specification: "{whole}"')
    return protocol


def exposed_ports(exposed: Iterable[str]) -> tuple[str, ...]:
    """ExposedPorts in their normal form, ranges spelled out, sorted by number: `("80/tcp", "8000/udp", ...)`."""
    ranges = [parse_port_range(text) for text in exposed]
    ports = {(number, each.protocol) for each in ranges for number in each}
    return tuple(f"{number}/{protocol}" for number, protocol in sorted(ports))


def validate_port_bindings(bindings: Mapping[str, Sequence[PortBinding] | None]) -> None:
    """Refuse what `create` refuses. Raises Rejected(INVALID)."""
    for text, hosts in bindings.items():
        try:
            port = parse_port(text)
        except Rejected:
            raise Rejected(Reason.INVALID, f'invalid port specification: "{text}"') from None
        if port.first == 0:
            raise Rejected(Reason.INVALID, f'invalid port specification: "{text}"')
        for host in hosts or ():
            _validate_binding(host)


def _validate_binding(host: PortBinding) -> None:
    if host.host_port:
        try:
            parse_port_range(host.host_port)
        except Rejected:
            raise Rejected(Reason.INVALID, f'invalid port specification: "{host.host_port}"') from None
    if host.host_ip:
        try:
            ipaddress.ip_address(host.host_ip.strip("[]"))
        except ValueError:
            raise Rejected(Reason.INVALID, f'invalid IP address in port mapping: "{host.host_ip}"') from None


def port_wishes(
    exposed: Iterable[str],
    bindings: Mapping[str, Sequence[PortBinding] | None],
    publish_all: bool = False,
    *,
    default_addresses: Sequence[str] = ANY_ADDRESSES,
) -> tuple[PortWish, ...]:
    """Everything a container wants published, in the order of container ports.

    bindings: HostConfig.PortBindings. publish_all: exposed ports without a binding get an ephemeral one each (`-P`).
    default_addresses: what an empty HostIp stands for; two of them make two wishes for the same host port, which the
    ledger gives the same number (`com.docker.network.bridge.host_binding_ipv4` changes them). Raises Rejected(INVALID).
    """
    validate_port_bindings(bindings)
    exposed = exposed_ports(exposed)
    wanted: dict[PortRange, list[PortBinding]] = {}
    for text, hosts in bindings.items():
        wanted.setdefault(parse_port(text), []).extend(hosts or ())
    if publish_all:
        for text in (*exposed, *bindings):
            hosts_of = wanted.setdefault(parse_port(text), [])
            if not hosts_of:
                hosts_of.append(PortBinding())
    return tuple(
        wish for port in sorted(wanted) for host in wanted[port] for wish in _wishes(port, host, default_addresses)
    )


def _wishes(port: PortRange, host: PortBinding, default_addresses: Sequence[str]) -> list[PortWish]:
    numbers = parse_port_range(host.host_port) if host.host_port else PortRange(first=0, last=0)
    if host.host_ip:
        addresses: Sequence[str] = (str(ipaddress.ip_address(host.host_ip.strip("[]"))),)
    else:
        addresses = default_addresses
    return [
        PortWish(
            host_ip=address,
            first_port=numbers.first,
            last_port=numbers.last,
            container_port=port.first,
            protocol=port.protocol,
        )
        for address in addresses
    ]
