"""Networks in Docker's shape: list entries and inspect.

Source: Engine API `NetworkSummary`, `NetworkInspect`; moby daemon/network.go.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

import msgspec

from engine.aggregates.network import NetworkState
from engine.aggregates.values.config import EndpointConfig
from engine.aggregates.values.endpoints import Endpoint
from engine.aggregates.values.subnet import Pool
from engine.api.shapes.times import rfc3339_nano
from engine.api.versions import ApiVersion


class IPAMConfigBody(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """One subnet asked for. `auxiliary` is what docker's CLI calls --aux-address."""

    subnet: str = ""
    ip_range: str = msgspec.field(default="", name="IPRange")
    gateway: str = ""
    auxiliary: Mapping[str, str] | None = msgspec.field(default=None, name="AuxiliaryAddresses")


class IPAMBody(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    driver: str = ""
    config: tuple[IPAMConfigBody, ...] | None = None
    options: Mapping[str, str] | None = None


class ConfigReference(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    network: str = ""


class CreateNetworkBody(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """Body of `POST /networks/create`. CheckDuplicate of old clients is the rule here anyway."""

    name: str = ""
    driver: str = ""
    scope: str = ""
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: ConfigReference | None = None
    ipam: IPAMBody | None = msgspec.field(default=None, name="IPAM")
    enable_ipv4: bool | None = msgspec.field(default=None, name="EnableIPv4")
    enable_ipv6: bool | None = msgspec.field(default=None, name="EnableIPv6")
    options: Mapping[str, str] | None = None
    labels: Mapping[str, str] | None = None


class ConnectBody(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    container: str = ""
    endpoint_config: EndpointConfig | None = None


class DisconnectBody(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    container: str = ""
    force: bool = False


def summary(state: NetworkState, version: ApiVersion) -> dict[str, Any]:
    """An entry of `GET /networks`: containers are not told since 1.28, where the key stayed, empty, until 1.52."""
    settings = state.settings
    shape: dict[str, Any] = {
        "Name": settings.name,
        "Id": state.network_id,
        "Created": rfc3339_nano(state.created_at),
        "Scope": "local",
        "Driver": settings.driver,
        "EnableIPv4": settings.enable_ipv4,
        "EnableIPv6": settings.enable_ipv6,
        "IPAM": ipam(state),
        "Internal": settings.internal,
        "Attachable": settings.attachable,
        "Ingress": False,
        "ConfigFrom": {"Network": settings.config_from},
        "ConfigOnly": settings.config_only,
        "Options": dict(settings.options),
        "Labels": dict(settings.labels),
    }
    if version < (1, 48):
        del shape["EnableIPv4"]
    if version < (1, 52):
        shape["Containers"] = {}
    return shape


def inspect(state: NetworkState, names: Mapping[str, str], version: ApiVersion) -> dict[str, Any]:
    """`GET /networks/{id}`. names: container id -> name, for those with an endpoint here."""
    containers = {owner: attachment(held, names.get(owner, "")) for owner, held in state.endpoints.items()}
    shape = {**summary(state, version), "Containers": containers}
    if version >= (1, 52):
        shape["Status"] = {"IPAM": {"Subnets": {pool.subnet: usage(pool, state) for pool in _allocated(state)}}}
    return shape


def _allocated(state: NetworkState) -> tuple[Pool, ...]:
    return () if state.settings.config_only else state.settings.pools


def ipam(state: NetworkState) -> dict[str, Any]:
    settings = state.settings
    options = None if settings.ipam_options is None else dict(settings.ipam_options)
    config = [ipam_config(pool) for pool in settings.pools]
    return {"Driver": settings.ipam_driver, "Options": options, "Config": config or None}


def ipam_config(pool: Pool) -> dict[str, Any]:
    shape: dict[str, Any] = {"Subnet": pool.subnet}
    if pool.ip_range:
        shape["IPRange"] = pool.ip_range
    if pool.gateway:
        shape["Gateway"] = pool.gateway
    if pool.auxiliary:
        shape["AuxiliaryAddresses"] = dict(pool.auxiliary)
    return shape


def attachment(endpoint: Endpoint, name: str) -> dict[str, Any]:
    return {
        "Name": name,
        "EndpointID": endpoint.endpoint_id,
        "MacAddress": endpoint.mac_address,
        "IPv4Address": with_prefix(endpoint.ipv4_address, endpoint.ipv4_prefix_length),
        "IPv6Address": with_prefix(endpoint.ipv6_address, endpoint.ipv6_prefix_length),
    }


def with_prefix(address: str, prefix_length: int) -> str:
    return f"{address}/{prefix_length}" if address else ""


def usage(pool: Pool, state: NetworkState) -> dict[str, int]:
    """How many addresses are taken (network, broadcast, gateway and auxiliary ones count), and how many are left.

    Numbers are capped at 2**63 - 1 as Go's uint64 readers in other languages expect."""
    subnet = ipaddress.ip_network(pool.subnet, strict=False)
    chosen = ipaddress.ip_network(pool.ip_range, strict=False) if pool.ip_range else subnet
    ends = {str(subnet.network_address)} | ({str(subnet.broadcast_address)} if subnet.version == 4 else set())
    held = {held.ipv6_address if subnet.version == 6 else held.ipv4_address for held in state.endpoints.values()}
    taken = {address for address in held | ends | {pool.gateway} | set(pool.auxiliary.values()) if address}
    in_range = sum(ipaddress.ip_address(address) in chosen for address in taken)
    cap = (1 << 63) - 1
    return {
        "IPsInUse": min(len(taken), cap),
        "DynamicIPsAvailable": min(max(chosen.num_addresses - in_range, 0), cap),
    }
