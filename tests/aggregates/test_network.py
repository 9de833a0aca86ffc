"""Networks: made by the kernel's leave, addresses given and taken back, removed when nobody is left."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from engine.aggregates.decider import Command, Reason
from engine.aggregates.network import (
    DECIDER,
    AllocateEndpoint,
    CreateNetwork,
    EndpointReleased,
    NetworkCreateFailed,
    NetworkSettings,
    NetworkState,
    NetworkStatus,
    RedefineNetwork,
    ReleaseEndpoint,
    RemoveNetwork,
    ReportNetworkFailed,
    ReportNetworkReady,
    ReportNetworkRemoved,
    RetireNetwork,
)
from engine.aggregates.values.subnet import Pool
from tests.support.memory import Story, outcome

ID, ONE, OTHER = "d1" * 32, "4f5e" * 16, "77aa" * 16
V4 = Pool(subnet="172.18.0.0/29", gateway="172.18.0.1")
V6 = Pool(subnet="fd00::/64", gateway="fd00::1")


def create(*pools: Pool, driver: str = "bridge", predefined: bool = False, **settings: Any) -> CreateNetwork:
    named = NetworkSettings(name="back", driver=driver, pools=pools or (V4,), **settings)
    return CreateNetwork(network_id=ID, at=1, settings=named, predefined=predefined)


def allocate(owner: str = ONE, **wanted: Any) -> AllocateEndpoint:
    return AllocateEndpoint(network_id=ID, endpoint_id="e1" * 32, container_id=owner, seed=b"\1\2\3\4\5\6", **wanted)


CREATE, READY, FAILED = create(), ReportNetworkReady(network_id=ID), ReportNetworkFailed(network_id=ID, error="EPERM")
RELEASE = ReleaseEndpoint(network_id=ID, container_id=ONE)
REMOVE, REMOVED = RemoveNetwork(network_id=ID, at=2), ReportNetworkRemoved(network_id=ID)
LIVES: dict[NetworkStatus, tuple[Command, ...]] = {
    NetworkStatus.ABSENT: (),
    NetworkStatus.CREATING: (CREATE,),
    NetworkStatus.READY: (CREATE, READY),
    NetworkStatus.FAILED: (CREATE, FAILED),
    NetworkStatus.REMOVING: (CREATE, READY, REMOVE),
    NetworkStatus.REMOVED: (CREATE, READY, REMOVE, REMOVED),
}
NONE, UNKNOWN = "nothing", "no: not found"
TABLE = {
    NetworkStatus.ABSENT: ("create_requested", NONE, NONE, UNKNOWN, NONE, UNKNOWN, NONE),
    NetworkStatus.CREATING: (NONE, "created", "create_failed", UNKNOWN, NONE, UNKNOWN, NONE),
    NetworkStatus.READY: (NONE, NONE, NONE, "endpoint_allocated", NONE, "remove_requested", NONE),
    NetworkStatus.FAILED: (NONE, NONE, NONE, UNKNOWN, NONE, UNKNOWN, NONE),
    NetworkStatus.REMOVING: (NONE, NONE, NONE, UNKNOWN, NONE, UNKNOWN, "removed"),
    NetworkStatus.REMOVED: (NONE, NONE, NONE, UNKNOWN, NONE, UNKNOWN, NONE),
}


def after(*commands: Command) -> NetworkState:
    state = DECIDER.initial(ID)
    for command in commands:
        for event in DECIDER.decide(state, command):
            state = DECIDER.evolve(state, event)
    return state


@pytest.mark.parametrize("status", NetworkStatus, ids=lambda status: status.value)
def test_every_command_in_every_status(status: NetworkStatus) -> None:
    state = after(*LIVES[status])
    assert state.status is status
    commands = (CREATE, READY, FAILED, allocate(), RELEASE, REMOVE, REMOVED)
    assert tuple(outcome(DECIDER, state, command) for command in commands) == TABLE[status]


def test_a_creation_is_settled_by_either_outcome() -> None:
    assert [after(*LIVES[status]).settled for status in NetworkStatus] == [False, False, True, True, True, True]


def test_a_creation_that_the_kernel_refused_says_why_and_is_over() -> None:
    state = Story(DECIDER, ID).when(CREATE, FAILED).then(NetworkCreateFailed(error="EPERM"))
    assert state.error == "EPERM"
    assert DECIDER.terminal(state)


def test_the_first_address_is_the_first_after_the_gateway() -> None:
    endpoint = after(CREATE, READY, allocate()).endpoints[ONE]
    assert (endpoint.ipv4_address, endpoint.ipv4_prefix_length, endpoint.ipv4_gateway) == (
        "172.18.0.2",
        29,
        "172.18.0.1",
    )
    assert endpoint.mac_address == "02:42:ac:12:00:02"


def test_a_network_of_both_families_gives_an_address_of_each() -> None:
    endpoint = after(create(V4, V6, enable_ipv6=True), READY, allocate()).endpoints[ONE]
    assert (endpoint.ipv4_address, endpoint.ipv6_address, endpoint.ipv6_prefix_length, endpoint.ipv6_gateway) == (
        "172.18.0.2",
        "fd00::2",
        64,
        "fd00::1",
    )


def test_a_network_without_ipv4_makes_macs_from_the_seed() -> None:
    assert after(create(V6), READY, allocate()).endpoints[ONE].mac_address == "02:42:01:02:03:04"


def test_an_internal_network_tells_no_gateway() -> None:
    assert after(create(internal=True), READY, allocate()).endpoints[ONE].ipv4_gateway == ""


@pytest.mark.parametrize("driver", ["host", "null"])
def test_networks_without_a_bridge_give_no_mac(driver: str) -> None:
    settings = NetworkSettings(name=driver, driver=driver)
    made = CreateNetwork(network_id=ID, at=1, settings=settings, predefined=True)
    assert after(made, READY, allocate()).endpoints[ONE].mac_address == ""


def test_an_address_asked_for_is_given_and_a_taken_one_is_not() -> None:
    assert after(CREATE, READY, allocate(address="172.18.0.5")).endpoints[ONE].ipv4_address == "172.18.0.5"
    Story(DECIDER, ID).when(CREATE, READY, allocate(), allocate(OTHER, address="172.18.0.2")).rejected(
        Reason.FORBIDDEN, "Address already in use"
    )


@pytest.mark.parametrize(
    ("address", "reason", "words"),
    [
        ("172.18.0.1", Reason.FORBIDDEN, "Address already in use"),
        ("172.18.0.0", Reason.FORBIDDEN, "Address already in use"),
        ("172.18.0.7", Reason.FORBIDDEN, "Address already in use"),
        ("10.0.0.1", Reason.INVALID, "requested address is out of range"),
        ("fish", Reason.INVALID, "invalid IPv4 address: fish"),
    ],
)
def test_the_gateway_the_ends_and_strangers_are_never_given(address: str, reason: Reason, words: str) -> None:
    Story(DECIDER, ID).when(CREATE, READY, allocate(address=address)).rejected(reason, words)


def test_a_gateway_is_kept_however_it_is_written() -> None:
    odd = replace(V6, gateway="fd00::0001")
    Story(DECIDER, ID).when(create(odd), READY, allocate(ipv6_address="fd00::1")).rejected(
        Reason.FORBIDDEN, "Address already in use"
    )


def test_a_full_network_says_so() -> None:
    commands = [allocate(f"{number:064x}") for number in range(5)]
    Story(DECIDER, ID).when(CREATE, READY, *commands, allocate()).rejected(
        Reason.UNAVAILABLE, "no available addresses on this pool"
    )


def test_an_address_rests_before_it_is_given_again() -> None:
    state = after(CREATE, READY, allocate(), RELEASE, allocate())
    assert state.endpoints[ONE].ipv4_address == "172.18.0.3"


def test_a_container_has_one_endpoint_however_often_it_asks() -> None:
    Story(DECIDER, ID).when(CREATE, READY, allocate(), allocate(address="172.18.0.5")).then()


def test_an_address_cannot_be_asked_for_on_a_predefined_network() -> None:
    Story(DECIDER, ID).when(create(predefined=True), READY, allocate(address="172.18.0.5")).rejected(
        Reason.INVALID, "user specified IP address is supported on user defined networks only"
    )


def test_a_release_is_told_once() -> None:
    Story(DECIDER, ID).when(CREATE, READY, allocate(), RELEASE).then(
        EndpointReleased(endpoint_id="e1" * 32, container_id=ONE)
    )
    Story(DECIDER, ID).when(CREATE, READY, RELEASE).then()


def test_a_network_in_use_is_not_removed() -> None:
    Story(DECIDER, ID).when(CREATE, READY, allocate(), REMOVE).rejected(
        Reason.FORBIDDEN,
        f'error while removing network: network back has active endpoints (name:"{ONE[:12]}" id:"{"e1" * 6}")',
    )


def test_a_predefined_network_is_not_removed() -> None:
    Story(DECIDER, ID).when(create(predefined=True), READY, REMOVE).rejected(
        Reason.FORBIDDEN, "back is a pre-defined network and cannot be removed"
    )


def test_a_network_that_is_gone_takes_nobody() -> None:
    Story(DECIDER, ID).when(*LIVES[NetworkStatus.REMOVING], allocate()).rejected(
        Reason.NOT_FOUND, "network back not found"
    )


OTHERWISE = NetworkSettings(name="back", driver="bridge", pools=(Pool(subnet="10.9.0.0/24", gateway="10.9.0.1"),))
REDEFINE, RETIRE = RedefineNetwork(network_id=ID, settings=OTHERWISE), RetireNetwork(network_id=ID, at=3)


def test_a_predefined_network_is_created_anew_by_other_settings_and_remembers_the_old_until_it_is() -> None:
    changed = after(create(predefined=True), READY, REDEFINE)
    assert (changed.status, changed.settings) == (NetworkStatus.CREATING, OTHERWISE)
    assert changed.before is not None
    assert changed.before.pools == (V4,)
    again = after(create(predefined=True), READY, REDEFINE, RedefineNetwork(network_id=ID, settings=CREATE.settings))
    assert again.before is not None
    assert (again.settings, again.before.pools) == (CREATE.settings, (V4,))
    ready = after(create(predefined=True), READY, REDEFINE, READY)
    assert (ready.status, ready.before) == (NetworkStatus.READY, None)


@pytest.mark.parametrize("command", [REDEFINE, RETIRE])
def test_a_network_with_containers_or_of_a_user_stays_as_it_is(command: Command) -> None:
    for life in ((create(predefined=True), READY, allocate()), (CREATE, READY)):
        state = after(*life)
        assert DECIDER.decide(state, command) == ()


def test_a_predefined_network_without_containers_can_be_retired() -> None:
    assert after(create(predefined=True), READY, RETIRE).status is NetworkStatus.REMOVING
