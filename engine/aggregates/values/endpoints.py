"""Endpoints and published ports: what ties a container to a network, as plain values."""

from __future__ import annotations

import msgspec

from engine.aggregates.values.config import EndpointConfig


class PublishedPort(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, order=True):
    """One host port that leads to a container port. protocol: tcp, udp, sctp. host_ip: `0.0.0.0`, `::` or one
    address. host_port: 0 where none leads there, because the container's own address is reached from outside."""

    host_ip: str
    host_port: int
    container_port: int
    protocol: str = "tcp"


class Endpoint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A container's place on a network, as allocated: addresses without prefix, prefix lengths beside them."""

    endpoint_id: str
    network_id: str
    container_id: str
    mac_address: str = ""
    ipv4_address: str = ""
    ipv4_prefix_length: int = 0
    ipv4_gateway: str = ""
    ipv6_address: str = ""
    ipv6_prefix_length: int = 0
    ipv6_gateway: str = ""
    dns_names: tuple[str, ...] = ()


class PortWish(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A publication somebody wants: any free host port of `first_port`..`last_port` (0, 0: an ephemeral one). routed:
    the container's own address is reached, and no port of the host is needed."""

    host_ip: str
    first_port: int
    last_port: int
    container_port: int
    protocol: str = "tcp"
    routed: bool = False


class NetworkAttachment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A container's wish to be on a network. `name` as the user gave it (or the network's own). `network_id` is ""
    until the container has been on it: up to then the wish follows the name, from then on that one network, as in moby
    (getNetworkID). `config` is the user's EndpointConfig."""

    name: str
    network_id: str = ""
    config: EndpointConfig = EndpointConfig()
