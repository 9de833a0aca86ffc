"""Address management as plain functions: choosing subnets and addresses, and Docker's words for a wish not met.

Owns: the default pools, overlap, the choice of a free subnet and of a free address, MAC addresses.
Refuses to know: who holds what (the caller passes it in) and the kernel (host routes are passed in too).
Source: moby daemon/libnetwork/ipams/defaultipam, ipamutils, daemon/network.go (validation), netutils (MAC addresses).
"""

from __future__ import annotations

import functools
import hashlib
import ipaddress
import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from engine.aggregates.decider import Reason, Rejected

DEFAULT_NETWORK = "bridge"
"""The network of containers that ask for none."""
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAC = re.compile(r"[0-9a-fA-F]{2}(?:([:-])[0-9a-fA-F]{2}(?:\1[0-9a-fA-F]{2}){4})")


class Pool(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One subnet of a network, as agreed. ip_range: the part of it that addresses are given from, or "". gateway: ""
    only where there is none. auxiliary: name to address, never given."""

    subnet: str
    gateway: str = ""
    ip_range: str = ""
    auxiliary: Mapping[str, str] = {}


class AddressPool(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where subnets are taken from (`default-address-pools`): `base` cut into subnets of prefix length `size`."""

    base: str
    size: int


DEFAULT_POOLS = (
    *(AddressPool(base=f"172.{second}.0.0/16", size=16) for second in range(17, 32)),
    AddressPool(base="192.168.0.0/16", size=20),
)
GLOBAL_POOLS = (AddressPool(base="10.0.0.0/8", size=24),)


def unique_local_pool(host_id: str) -> AddressPool:
    """The host's own IPv6 pool of /64s under a unique local /48, the same for the same host_id (RFC 4193)."""
    global_id = hashlib.sha256(host_id.encode()).digest()[:5]
    base = ipaddress.IPv6Address(b"\xfd" + global_id + bytes(10))
    return AddressPool(base=f"{base}/48", size=64)


def parse_subnet(text: str) -> IPNetwork:
    """A CIDR whose host bits are clear. Raises Rejected(INVALID)."""
    try:
        interface = ipaddress.ip_interface(text)
    except ValueError:
        raise Rejected(Reason.INVALID, f"invalid CIDR address: {text}") from None
    if "/" not in text:
        raise Rejected(Reason.INVALID, f"invalid CIDR address: {text}")
    if interface.ip != interface.network.network_address:
        raise Rejected(
            Reason.INVALID, f"invalid network config:\ninvalid subnet {text}: it should be {interface.network}"
        )
    return interface.network


def overlap(one: str, other: str) -> bool:
    """Whether two CIDRs share an address; never across families. Host bits are ignored."""
    return _overlap(ipaddress.ip_network(one, strict=False), ipaddress.ip_network(other, strict=False))


def _overlap(one: IPNetwork, other: IPNetwork) -> bool:
    return (
        one.version == other.version
        and int(one.network_address) <= int(other.broadcast_address)
        and int(other.network_address) <= int(one.broadcast_address)
    )


def claim_subnet(subnet: str, networks: Iterable[str]) -> str:
    """The subnet a user asked for. Raises Rejected: FORBIDDEN when it overlaps a network's. Host routes do not matter
    here: the user decided."""
    wanted = parse_subnet(subnet)
    if any(_overlap(wanted, ipaddress.ip_network(each, strict=False)) for each in networks):
        raise Rejected(Reason.FORBIDDEN, "invalid pool request: Pool overlaps with other one on this address space")
    return str(wanted)


def choose_subnet(taken: Iterable[str], pools: Sequence[AddressPool] = DEFAULT_POOLS, *, size: int = 0) -> str:
    """The first subnet of the pools that overlaps nothing of `taken`: networks' subnets, destinations of host routes.

    size: another prefix length than the pools' own (`--subnet 0.0.0.0/24`), or 0. Jumps over what is taken, so a pool
    of 2**40 subnets costs no more than the number taken. Raises Rejected(INVALID)."""
    used = [ipaddress.ip_network(each, strict=False) for each in taken]
    fitting = [pool for pool in pools if not size or _base(pool).prefixlen <= size <= _base(pool).max_prefixlen]
    if not fitting:
        raise Rejected(Reason.INVALID, "invalid address pool")
    for pool in fitting:
        found = _first_free(_base(pool), size or pool.size, used)
        if found is not None:
            return str(found)
    raise Rejected(Reason.INVALID, "all predefined address pools have been fully subnetted")


def _base(pool: AddressPool) -> IPNetwork:
    return ipaddress.ip_network(pool.base)


def _first_free(base: IPNetwork, size: int, used: Iterable[IPNetwork]) -> IPNetwork | None:
    step = 1 << (base.max_prefixlen - size)
    start = int(base.network_address)
    end = int(base.broadcast_address)
    inside = [each for each in used if _overlap(each, base)]
    for each in sorted(inside, key=lambda network: int(network.network_address)):
        if start + step <= int(each.network_address):
            break
        if int(each.broadcast_address) >= start:
            start = (int(each.broadcast_address) // step + 1) * step
    if start + step - 1 > end:
        return None
    return _network(start, size, base.version)


def _network(start: int, size: int, version: int) -> IPNetwork:
    return ipaddress.IPv4Network((start, size)) if version == 4 else ipaddress.IPv6Network((start, size))


def make_pool(
    subnet: str,
    *,
    gateway: str = "",
    ip_range: str = "",
    auxiliary: Mapping[str, str] | None = None,
    without_gateway: bool = False,
) -> Pool:
    """A pool with its gateway: the one asked for, else the first address of the ip-range or subnet that no auxiliary
    address takes. Validated by the caller (`ipam_errors`). Raises Rejected(UNAVAILABLE) in a subnet without room."""
    pool = Pool(subnet=str(parse_subnet(subnet)), ip_range=ip_range, auxiliary=dict(auxiliary or {}))
    if without_gateway:
        return pool
    return msgspec.structs.replace(pool, gateway=gateway or next_address(pool, (), "", ""))


def next_address(pool: Pool, taken: Collection[str], wanted: str, cursor: str) -> str:
    """An address of the pool that is neither taken nor the gateway nor auxiliary.

    taken: as they were given. wanted: the user's choice, or "". cursor: the last address given, or "": the search
    starts behind it and wraps, so an address rests before it is given again. The first address of a subnet is never
    given, nor IPv4's last (except in /31, /32). Raises Rejected: FORBIDDEN taken, INVALID out of range, UNAVAILABLE
    none left."""
    reserved = {*taken, *_held_back(pool.gateway, *pool.auxiliary.values())}
    if wanted:
        return _claim(pool, reserved, wanted)
    first, last = _assignable(pool.subnet, pool.ip_range)
    newest = int(ipaddress.ip_address(cursor)) if cursor else last
    begin = newest + 1 if first <= newest < last else first
    written = _written_6 if ":" in pool.subnet else _written_4
    # Refuses at most as many as are reserved, however many there are.
    for number in itertools.chain(range(begin, last + 1), range(first, begin)):
        if (address := written(number)) not in reserved:
            return address
    raise Rejected(Reason.UNAVAILABLE, "no available addresses on this pool")


@functools.lru_cache(maxsize=256)
def _held_back(*addresses: str) -> frozenset[str]:
    """As addresses that are given are written: a gateway may be `2001:db8::0001`."""
    return frozenset(str(ipaddress.ip_address(address)) for address in addresses if address)


def _written_4(number: int) -> str:
    return f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def _written_6(number: int) -> str:
    return str(ipaddress.IPv6Address(number))


@functools.lru_cache(maxsize=256)
def _assignable(subnet_text: str, ip_range: str) -> tuple[int, int]:
    subnet = ipaddress.ip_network(subnet_text, strict=False)
    chosen = ipaddress.ip_network(ip_range, strict=False) if ip_range else subnet
    first, last = int(chosen.network_address), int(chosen.broadcast_address)
    if subnet.prefixlen < subnet.max_prefixlen - 1:
        first = max(first, int(subnet.network_address) + 1)
        if subnet.version == 4:
            last = min(last, int(subnet.broadcast_address) - 1)
    return first, last


def _claim(pool: Pool, reserved: Collection[str], wanted: str) -> str:
    try:
        address = ipaddress.ip_address(wanted)
    except ValueError:
        raise Rejected(Reason.INVALID, f"invalid IPv{6 if ':' in wanted else 4} address: {wanted}") from None
    subnet = ipaddress.ip_network(pool.subnet, strict=False)
    if address.version != subnet.version or address not in subnet:
        raise Rejected(Reason.INVALID, "requested address is out of range")
    ends = {subnet.network_address, subnet.broadcast_address} if subnet.version == 4 else {subnet.network_address}
    if str(address) in reserved or (subnet.num_addresses > 2 and address in ends):
        raise Rejected(Reason.FORBIDDEN, "Address already in use")
    return str(address)


def ipam_errors(
    subnet: str, *, gateway: str = "", ip_range: str = "", auxiliary: Mapping[str, str] | None = None
) -> list[str]:
    """Everything wrong with one IPAM configuration, in moby's words; the caller joins the lists of all of them after
    `invalid network config:` and answers 400."""
    try:
        interface = ipaddress.ip_interface(subnet)
    except ValueError:
        return [f"invalid subnet {subnet}: invalid CIDR block notation"]
    network = interface.network
    errors = []
    if interface.ip != network.network_address:
        errors.append(f"invalid subnet {subnet}: it should be {network}")
    if ip_range:
        errors += _range_errors(ip_range, network)
    if gateway:
        errors += [f"invalid gateway {gateway}: {error}" for error in _address_errors(gateway, network)]
    for name, address in sorted((auxiliary or {}).items()):
        errors += [f"invalid auxiliary address {name}: {error}" for error in _address_errors(address, network)]
    return errors


def _range_errors(ip_range: str, subnet: IPNetwork) -> list[str]:
    try:
        interface = ipaddress.ip_interface(ip_range)
    except ValueError:
        return [f"invalid ip-range {ip_range}: invalid CIDR block notation"]
    if interface.version != subnet.version:
        return [f"invalid ip-range {ip_range}: parent subnet is an IPv{subnet.version} block"]
    errors = []
    if interface.network.prefixlen < subnet.prefixlen:
        errors.append(f"invalid ip-range {ip_range}: CIDR block is bigger than its parent subnet {subnet}")
    if interface.ip != interface.network.network_address:
        errors.append(f"invalid ip-range {ip_range}: it should be {interface.network}")
    if not _overlap(interface.network, subnet):
        errors.append(f"invalid ip-range {ip_range}: parent subnet {subnet} doesn't contain ip-range")
    return errors


def _address_errors(text: str, subnet: IPNetwork) -> list[str]:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return ["invalid address"]
    if address.version != subnet.version:
        return [f"parent subnet is an IPv{subnet.version} block"]
    return [] if address in subnet else [f"parent subnet {subnet} doesn't contain this address"]


def mac_address(ipv4_address: str, seed: bytes) -> str:
    """A locally administered unicast address 02:42:...: from the IPv4 address where there is one, so that the same
    address keeps the same MAC; else from the first four bytes of `seed`."""
    tail = ipaddress.IPv4Address(ipv4_address).packed if ipv4_address else seed[:4]
    if len(tail) != 4:
        raise ValueError("a MAC address needs four bytes of seed")
    return ":".join(f"{byte:02x}" for byte in b"\x02\x42" + tail)


def parse_mac_address(text: str) -> str:
    """A user's MAC address in its usual form. Raises Rejected(INVALID) as moby does."""
    if not _MAC.fullmatch(text):
        raise Rejected(Reason.INVALID, f"invalid MAC address: {text}")
    normal = text.lower().replace("-", ":")
    if int(normal[:2], 16) & 1:
        raise Rejected(Reason.INVALID, f"invalid MAC address: {text} is a multicast address")
    return normal
