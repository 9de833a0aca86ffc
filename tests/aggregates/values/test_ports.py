"""Port specifications read as users write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.values import ports
from engine.aggregates.values.config import PortBinding
from engine.aggregates.values.endpoints import PortWish
from engine.aggregates.values.ports import PortRange

numbers = st.integers(min_value=0, max_value=65535)
protocols = st.sampled_from(ports.PROTOCOLS)


@given(numbers, protocols)
def test_a_port_is_read_back_as_it_is_written(number: int, protocol: str) -> None:
    port = PortRange(first=number, last=number, protocol=protocol)
    assert ports.parse_port(str(port)) == port == ports.parse_port_range(str(port).upper())


@given(numbers, numbers, protocols)
def test_a_range_is_read_back_as_it_is_written_or_refused_when_it_runs_backwards(
    one: int, other: int, protocol: str
) -> None:
    text = f"{one}-{other}/{protocol}"
    if other < one:
        with pytest.raises(Rejected, match="invalid port range"):
            ports.parse_port_range(text)
    else:
        assert list(ports.parse_port_range(text)) == list(range(one, other + 1))


@given(st.text(max_size=12))
def test_any_text_is_a_port_range_or_refused(text: str) -> None:
    try:
        parsed = ports.parse_port_range(text)
    except Rejected as refused:
        assert refused.reason is Reason.INVALID
    else:
        assert 0 <= parsed.first <= parsed.last <= 65535


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "invalid port '': value is empty"),
        ("http", "invalid port 'http': invalid syntax"),
        ("-1", "invalid port '-1': invalid syntax"),
        ("65536", "invalid port '65536': value out of range"),
        ("80/icmp", 'invalid port specification: "80/icmp"'),
        ("８０", "invalid syntax"),
    ],
)
def test_what_is_no_port_is_refused(text: str, words: str) -> None:
    with pytest.raises(Rejected) as refused:
        ports.parse_port(text)
    assert words in refused.value.message


def test_the_protocol_is_tcp_unless_said() -> None:
    assert ports.parse_port("80") == PortRange(first=80, last=80, protocol="tcp")
    assert ports.parse_port("53/UDP").protocol == "udp"


def test_exposed_ranges_are_spelled_out_once_each() -> None:
    assert ports.exposed_ports(["8001-8002/udp", "80", "80/tcp", "8002/udp"]) == ("80/tcp", "8001/udp", "8002/udp")


def test_an_empty_host_address_means_both_families_and_an_empty_port_an_ephemeral_one() -> None:
    wishes = ports.port_wishes([], {"80/tcp": [PortBinding()]})
    assert wishes == (
        PortWish(host_ip="0.0.0.0", first_port=0, last_port=0, container_port=80),
        PortWish(host_ip="::", first_port=0, last_port=0, container_port=80),
    )


def test_addresses_ports_and_ranges_are_taken_as_given() -> None:
    bindings = {
        "53/udp": [
            PortBinding(host_ip="127.0.0.1", host_port="5353"),
            PortBinding(host_ip="[::1]", host_port="8000-8010"),
        ],
        "80": None,
    }
    assert ports.port_wishes(["80/tcp"], bindings) == (
        PortWish(host_ip="127.0.0.1", first_port=5353, last_port=5353, container_port=53, protocol="udp"),
        PortWish(host_ip="::1", first_port=8000, last_port=8010, container_port=53, protocol="udp"),
    )


def test_publish_all_gives_each_exposed_port_without_a_binding_an_ephemeral_one() -> None:
    bindings = {"80/tcp": [PortBinding(host_ip="0.0.0.0", host_port="8080")], "90/tcp": []}
    wishes = ports.port_wishes(["80", "443", "53/udp"], bindings, True)
    wanted = {(wish.container_port, wish.protocol, wish.first_port) for wish in wishes}
    assert wanted == {(80, "tcp", 8080), (443, "tcp", 0), (53, "udp", 0), (90, "tcp", 0)}


def test_exposing_alone_publishes_nothing() -> None:
    assert ports.port_wishes(["80/tcp"], {}) == ()


@pytest.mark.parametrize(
    ("bindings", "words"),
    [
        ({"0/tcp": []}, 'invalid port specification: "0/tcp"'),
        ({"web": []}, 'invalid port specification: "web"'),
        ({"80-90/tcp": []}, 'invalid port specification: "80-90/tcp"'),
        ({"80/tcp": [PortBinding(host_port="many")]}, 'invalid port specification: "many"'),
        ({"80/tcp": [PortBinding(host_port="90-80")]}, 'invalid port specification: "90-80"'),
        ({"80/tcp": [PortBinding(host_ip="localhost")]}, "invalid IP address"),
    ],
)
def test_wrong_bindings_are_refused_at_create(bindings: dict[str, list[PortBinding]], words: str) -> None:
    with pytest.raises(Rejected) as refused:
        ports.port_wishes([], bindings)
    assert words in refused.value.message
    assert refused.value.reason is Reason.INVALID
