"""Choosing subnets and addresses, and Docker's words where it can not be done."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.values import subnet
from engine.aggregates.values.subnet import AddressPool, Pool

FRONT = Pool(subnet="10.1.0.0/29", gateway="10.1.0.1")
cidrs = st.builds(
    lambda number, length: str(ipaddress.ip_network((number, length), strict=False)),
    st.integers(
        min_value=int(ipaddress.IPv4Address("172.16.0.0")), max_value=int(ipaddress.IPv4Address("192.168.255.255"))
    ),
    st.integers(min_value=10, max_value=30),
)


def test_networks_take_the_default_pools_in_order_and_then_none_is_left() -> None:
    taken: list[str] = []
    for _ in range(31):
        taken.append(subnet.choose_subnet(taken))
    assert taken[:2] == ["172.17.0.0/16", "172.18.0.0/16"]
    assert taken[14:16] == ["172.31.0.0/16", "192.168.0.0/20"]
    assert taken[-1] == "192.168.240.0/20"
    with pytest.raises(Rejected, match="all predefined address pools have been fully subnetted") as refused:
        subnet.choose_subnet(taken)
    assert refused.value.reason is Reason.INVALID


def test_host_routes_are_avoided_even_when_they_are_smaller_or_larger_than_a_subnet() -> None:
    assert subnet.choose_subnet(["172.17.3.0/24", "172.18.0.0/15"]) == "172.20.0.0/16"


def test_a_released_subnet_is_given_again() -> None:
    assert subnet.choose_subnet(["172.18.0.0/16"]) == "172.17.0.0/16"


def test_a_size_may_be_asked_for_and_must_fit_a_pool() -> None:
    assert subnet.choose_subnet(["172.17.0.0/24"], size=24) == "172.17.1.0/24"
    with pytest.raises(Rejected, match="invalid address pool"):
        subnet.choose_subnet([], size=8)


def test_the_ipv6_pool_is_unique_local_and_pinned_to_the_host() -> None:
    pool = subnet.unique_local_pool("host-a")
    assert pool == subnet.unique_local_pool("host-a") != subnet.unique_local_pool("host-b")
    first = subnet.choose_subnet([], [pool])
    second = subnet.choose_subnet([first], [pool])
    assert ipaddress.ip_network(first).is_private
    assert ipaddress.ip_network(first).prefixlen == 64
    assert not subnet.overlap(first, second)


@given(st.lists(cidrs, max_size=40))
def test_a_chosen_subnet_overlaps_nothing_and_is_the_first_that_does_not(taken: list[str]) -> None:
    pools = [AddressPool(base="172.16.0.0/12", size=20), AddressPool(base="192.168.0.0/16", size=24)]
    every = [net for pool in pools for net in ipaddress.ip_network(pool.base).subnets(new_prefix=pool.size)]
    free = [net for net in every if not any(net.overlaps(ipaddress.ip_network(each)) for each in taken)]
    if not free:
        with pytest.raises(Rejected):
            subnet.choose_subnet(taken, pools)
    else:
        assert subnet.choose_subnet(taken, pools) == str(free[0])


@given(cidrs, cidrs)
def test_overlap_is_what_the_standard_library_says_and_symmetric(one: str, other: str) -> None:
    expected = ipaddress.ip_network(one).overlaps(ipaddress.ip_network(other))
    assert subnet.overlap(one, other) == subnet.overlap(other, one) == expected


def test_families_never_overlap() -> None:
    assert not subnet.overlap("0.0.0.0/0", "::/0")


def test_an_overlapping_subnet_is_refused_in_dockers_words() -> None:
    with pytest.raises(Rejected, match="Pool overlaps with other one on this address space") as refused:
        subnet.claim_subnet("172.18.5.0/24", ["172.18.0.0/16"])
    assert refused.value.reason is Reason.FORBIDDEN
    assert subnet.claim_subnet("172.19.0.0/16", ["172.18.0.0/16"]) == "172.19.0.0/16"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("10.0.0.1/24", "it should be 10.0.0.0/24"),
        ("10.0.0.0", "invalid CIDR address"),
        ("nonsense", "invalid CIDR address"),
    ],
)
def test_a_wrong_subnet_is_refused(text: str, words: str) -> None:
    with pytest.raises(Rejected, match=words):
        subnet.parse_subnet(text)


def test_the_gateway_is_the_first_address_of_the_range_that_is_not_auxiliary() -> None:
    assert subnet.make_pool("10.1.0.0/24").gateway == "10.1.0.1"
    assert subnet.make_pool("10.1.0.0/24", ip_range="10.1.0.128/25").gateway == "10.1.0.128"
    assert subnet.make_pool("10.1.0.0/24", auxiliary={"router": "10.1.0.1"}).gateway == "10.1.0.2"
    assert subnet.make_pool("10.1.0.0/24", gateway="10.1.0.254").gateway == "10.1.0.254"
    assert subnet.make_pool("fd00::/64").gateway == "fd00::1"
    assert subnet.make_pool("10.1.0.0/24", without_gateway=True).gateway == ""


def test_addresses_are_given_one_after_another_and_rest_before_they_are_given_again() -> None:
    assert subnet.next_address(FRONT, (), "", "") == "10.1.0.2"
    assert subnet.next_address(FRONT, (), "", "10.1.0.2") == "10.1.0.3"
    assert subnet.next_address(FRONT, (), "", "10.1.0.6") == "10.1.0.2"


def test_the_last_address_is_no_host_and_then_none_is_left() -> None:
    taken = [f"10.1.0.{last}" for last in range(2, 7)]
    with pytest.raises(Rejected, match="no available addresses on this pool") as refused:
        subnet.next_address(FRONT, taken, "", "10.1.0.4")
    assert refused.value.reason is Reason.UNAVAILABLE


def test_a_range_bounds_what_is_given_but_not_what_may_be_asked_for() -> None:
    pool = Pool(subnet="10.1.0.0/24", gateway="10.1.0.1", ip_range="10.1.0.16/28")
    assert subnet.next_address(pool, (), "", "") == "10.1.0.16"
    assert subnet.next_address(pool, (), "", "10.1.0.31") == "10.1.0.16"
    assert subnet.next_address(pool, (), "10.1.0.200", "") == "10.1.0.200"


@pytest.mark.parametrize(
    ("wanted", "reason", "words"),
    [
        ("10.2.0.1", Reason.INVALID, "requested address is out of range"),
        ("fd00::1", Reason.INVALID, "requested address is out of range"),
        ("10.1.0.1", Reason.FORBIDDEN, "Address already in use"),
        ("10.1.0.5", Reason.FORBIDDEN, "Address already in use"),
        ("10.1.0.0", Reason.FORBIDDEN, "Address already in use"),
        ("10.1.0.7", Reason.FORBIDDEN, "Address already in use"),
        ("10.1.0", Reason.INVALID, "invalid IPv4 address"),
    ],
)
def test_an_address_that_can_not_be_had_is_refused(wanted: str, reason: Reason, words: str) -> None:
    with pytest.raises(Rejected, match=words) as refused:
        subnet.next_address(FRONT, ["10.1.0.5"], wanted, "")
    assert refused.value.reason is reason


def test_the_smallest_subnets_still_have_addresses() -> None:
    assert subnet.next_address(Pool(subnet="10.1.0.0/31"), (), "", "") == "10.1.0.0"
    assert subnet.next_address(Pool(subnet="10.1.0.4/32"), (), "", "") == "10.1.0.4"
    assert subnet.next_address(Pool(subnet="fd00::/126", gateway="fd00::1"), (), "", "fd00::2") == "fd00::3"


@given(st.sets(st.integers(min_value=1, max_value=14)), st.integers(min_value=0, max_value=15))
def test_a_given_address_is_free_and_the_next_after_the_cursor(used: set[int], cursor: int) -> None:
    pool = Pool(subnet="10.1.0.0/28", gateway="10.1.0.1")
    taken = [f"10.1.0.{last}" for last in used]
    free = [last for last in range(2, 15) if last not in used]
    if not free:
        with pytest.raises(Rejected):
            subnet.next_address(pool, taken, "", f"10.1.0.{cursor}")
        return
    expected = next((last for last in free if last > cursor), free[0])
    assert subnet.next_address(pool, taken, "", f"10.1.0.{cursor}") == f"10.1.0.{expected}"


def test_every_wrong_part_of_an_ipam_configuration_is_named() -> None:
    errors = subnet.ipam_errors(
        "10.1.0.1/24", gateway="10.2.0.1", ip_range="10.1.0.0/16", auxiliary={"a": "fd00::1", "b": "10.1.0.9"}
    )
    assert errors == [
        "invalid subnet 10.1.0.1/24: it should be 10.1.0.0/24",
        "invalid ip-range 10.1.0.0/16: CIDR block is bigger than its parent subnet 10.1.0.0/24",
        "invalid gateway 10.2.0.1: parent subnet 10.1.0.0/24 doesn't contain this address",
        "invalid auxiliary address a: parent subnet is an IPv4 block",
    ]
    assert subnet.ipam_errors("10.1.0.0/24", ip_range="fd00::/64") == [
        "invalid ip-range fd00::/64: parent subnet is an IPv4 block"
    ]
    assert subnet.ipam_errors("10.1.0.0/24", gateway="10.1.0.1", ip_range="10.1.0.128/25") == []


def test_a_mac_address_follows_the_address_or_the_seed_and_is_unicast() -> None:
    assert subnet.mac_address("172.17.0.2", b"") == "02:42:ac:11:00:02"
    assert subnet.mac_address("", b"\xff\x00\x01\x02rest") == "02:42:ff:00:01:02"
    with pytest.raises(ValueError, match="four bytes"):
        subnet.mac_address("", b"abc")


def test_a_users_mac_address_is_normalised_or_refused() -> None:
    assert subnet.parse_mac_address("02-42-AC-11-00-02") == "02:42:ac:11:00:02"
    for wrong in ("02:42", "02:42-ac:11:00:02", "zz:42:ac:11:00:02", "01:00:5e:00:00:01"):
        with pytest.raises(Rejected, match="invalid MAC address"):
            subnet.parse_mac_address(wrong)
