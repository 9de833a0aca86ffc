"""The ledger of host ports: who gets which, and who is told that it is taken."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from engine.aggregates.decider import Reason
from engine.aggregates.ports import DECIDER, STREAM_KEY, PortsReleased, ReleasePorts, ReservePorts
from engine.aggregates.values.endpoints import PortWish
from tests.support.memory import Story, outcome

ONE, OTHER = "4f5e" * 16, "77aa" * 16
V4, V6 = "0.0.0.0", "::"


def wish(ip: str = V4, first: int = 8080, last: int = 0, container: int = 80, protocol: str = "tcp") -> PortWish:
    return PortWish(host_ip=ip, first_port=first, last_port=last or first, container_port=container, protocol=protocol)


def reserve(owner: str, *wishes: PortWish, first: int = 32768, last: int = 60999, avoid: set[int] = set()):
    return ReservePorts(
        container_id=owner, wishes=wishes, ephemeral_first=first, ephemeral_last=last, avoid=frozenset(avoid)
    )


def both(first: int = 0, last: int = 0, container: int = 80) -> tuple[PortWish, PortWish]:
    return wish(V4, first, last, container), wish(V6, first, last, container)


def given(*commands: ReservePorts | ReleasePorts) -> Story:
    return Story(DECIDER, STREAM_KEY).when(*commands)


def ports_of(*commands: ReservePorts | ReleasePorts, owner: str = ONE) -> list[tuple[str, int]]:
    """What the owner holds after the commands."""
    state = DECIDER.initial(STREAM_KEY)
    for command in commands:
        for event in DECIDER.decide(state, command):
            state = DECIDER.evolve(state, event)
    return [(port.host_ip, port.host_port) for port in state.held.get(owner, ())]


def test_a_port_asked_for_is_given() -> None:
    assert ports_of(reserve(ONE, *both(8080, 8080))) == [(V4, 8080), (V6, 8080)]


@pytest.mark.parametrize(
    ("held", "asked", "address"),
    [
        (V4, V4, "0.0.0.0:8080"),
        (V4, "127.0.0.1", "127.0.0.1:8080"),
        ("127.0.0.1", V4, "0.0.0.0:8080"),
        (V6, "::1", "[::1]:8080"),
        ("127.0.0.1", "127.0.0.1", "127.0.0.1:8080"),
    ],
)
def test_a_port_that_is_taken_is_refused(held: str, asked: str, address: str) -> None:
    given(reserve(ONE, wish(held)), reserve(OTHER, wish(asked))).rejected(
        Reason.SYSTEM, f"Bind for {address} failed: port is already allocated"
    )


@pytest.mark.parametrize(
    ("held", "asked"),
    [
        (wish(V4), wish(V6)),
        (wish("127.0.0.1"), wish("127.0.0.2")),
        (wish(protocol="tcp"), wish(protocol="udp")),
        (wish(first=8080), wish(first=8081)),
    ],
)
def test_what_does_not_overlap_is_given(held: PortWish, asked: PortWish) -> None:
    assert ports_of(reserve(ONE, held), reserve(OTHER, asked), owner=OTHER) == [(asked.host_ip, asked.first_port)]


def test_one_wish_that_cannot_be_met_refuses_them_all() -> None:
    given(reserve(ONE, wish(first=80)), reserve(OTHER, wish(first=81), wish(first=80))).rejected(
        Reason.SYSTEM, "Bind for 0.0.0.0:80 failed: port is already allocated"
    )


def test_a_container_asks_once_for_each_port() -> None:
    given(reserve(ONE, wish(), wish())).rejected(
        Reason.SYSTEM, "Bind for 0.0.0.0:8080 failed: port is already allocated"
    )


def test_a_container_that_holds_ports_asks_in_vain_for_more_and_is_not_refused() -> None:
    given(reserve(ONE, wish()), reserve(ONE, wish(first=99))).then()


def test_no_wishes_are_no_event() -> None:
    given(reserve(ONE)).then()


def test_a_range_gives_its_first_free_port() -> None:
    assert ports_of(reserve(OTHER, wish(first=8000)), reserve(ONE, wish(first=8000, last=8010))) == [(V4, 8001)]


def test_a_range_without_a_free_port_is_refused() -> None:
    given(reserve(ONE, wish(first=8000)), reserve(OTHER, wish(first=8000, last=8000))).rejected(
        Reason.SYSTEM, "Bind for 0.0.0.0:8000 failed: port is already allocated"
    )


def test_both_families_of_a_range_get_the_same_port() -> None:
    held = reserve(OTHER, wish(V6, 8000))
    assert ports_of(held, reserve(ONE, *both(8000, 8002))) == [(V4, 8001), (V6, 8001)]


def test_both_families_of_an_ephemeral_port_get_the_same_port() -> None:
    held = reserve(OTHER, wish(V6, 32768))
    assert ports_of(held, reserve(ONE, *both())) == [(V4, 32769), (V6, 32769)]


def test_a_container_port_published_twice_gets_two_ephemeral_ports() -> None:
    taken = ports_of(reserve(ONE, *both(), *both()))
    assert taken == [(V4, 32768), (V6, 32768), (V4, 32769), (V6, 32769)]


def test_ephemeral_ports_rest_before_they_are_given_again() -> None:
    commands = [reserve(ONE, wish(first=0)), ReleasePorts(container_id=ONE)] * 3
    assert ports_of(*commands, reserve(ONE, wish(first=0))) == [(V4, 32771)]


def test_ephemeral_ports_begin_anew_at_the_end_of_their_range() -> None:
    commands = [reserve(ONE, wish(first=0), first=40000, last=40001), ReleasePorts(container_id=ONE)] * 2
    assert ports_of(*commands, reserve(ONE, wish(first=0), first=40000, last=40001)) == [(V4, 40000)]


def test_ephemeral_ports_of_other_programs_are_avoided() -> None:
    assert ports_of(reserve(ONE, wish(first=0), avoid={32768, 32769})) == [(V4, 32770)]


def test_when_all_ephemeral_ports_are_held_nobody_gets_one() -> None:
    given(
        reserve(ONE, wish(first=0), first=40000, last=40000), reserve(OTHER, wish(first=0), first=40000, last=40000)
    ).rejected(Reason.SYSTEM, "all ports are allocated")


def test_released_ports_are_free_again() -> None:
    commands = (reserve(ONE, wish()), ReleasePorts(container_id=ONE), reserve(OTHER, wish()))
    assert ports_of(*commands, owner=OTHER) == [(V4, 8080)]


def test_a_release_is_told_once() -> None:
    given(reserve(ONE, wish()), ReleasePorts(container_id=ONE)).then(PortsReleased(container_id=ONE))
    given(ReleasePorts(container_id=ONE)).then()


def test_the_ledger_never_ends() -> None:
    state = DECIDER.initial(STREAM_KEY)
    assert outcome(DECIDER, state, reserve(ONE, wish())) == "reserved"
    assert not DECIDER.terminal(state)


def test_a_port_of_a_routed_network_takes_none_of_the_hosts() -> None:
    routed = replace(wish(), routed=True)
    assert ports_of(reserve(ONE, routed)) == [(V4, 0)]
    assert ports_of(reserve(ONE, routed), reserve(OTHER, wish()), owner=OTHER) == [(V4, 8080)]
    assert ports_of(reserve(OTHER, wish()), reserve(ONE, routed)) == [(V4, 0)]
