"""What several aggregates do together: all of it, or nothing of it."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from engine import transactions
from engine.aggregates.container import commands as c
from engine.aggregates.container.lifecycle import Status
from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.values.config import ContainerConfig, EndpointConfig, EndpointIPAMConfig
from engine.aggregates.values.endpoints import NetworkAttachment
from engine.aggregates.values.mounts import MountPoint
from tests.support.world import CONTAINERS, IMAGES, NETWORKS, TAG, World, histories, steps

WEB, DB, _ = CONTAINERS
FRONT = NETWORKS["front"]


def world(*, published: bool = False) -> World:
    """A host with one container named web."""
    host = World()
    assert host.create(WEB, "web", published=published, auto_remove=False, always=False)
    return host


def refused(host: World, *commands) -> Rejected:
    """The commands are refused, and nothing of them has happened."""
    before = len(host.memory.log)
    with pytest.raises(Rejected) as caught:
        host.memory.execute(*commands)
    assert len(host.memory.log) == before
    host.check()
    return caught.value


def test_a_container_is_made_with_its_name_and_its_hold_on_volumes() -> None:
    host = world()
    host.check()
    assert host.memory.state("name", "container/web").owner == WEB
    assert host.memory.state("volume", "data").references == {WEB}


def test_a_name_that_is_taken_leaves_no_container_and_no_hold_on_a_volume() -> None:
    host = world()
    assert not host.create(DB, "web", published=False, auto_remove=False, always=False)
    assert host.container(DB).status is Status.ABSENT
    assert host.memory.state("volume", "data").references == {WEB}


def test_an_image_that_is_gone_leaves_the_name_free() -> None:
    host = World()
    assert host.remove_image(IMAGES[0])
    assert not host.create(WEB, "web", published=False, auto_remove=False, always=False)
    assert host.memory.state("name", "container/web").owner == ""


def test_a_volume_mounted_twice_is_referenced_once() -> None:
    mounts = [MountPoint(type="volume", destination=f"/{n}", name="data") for n in "ab"]
    assert transactions.volume_names([*mounts, MountPoint(type="bind", destination="/c", source="/c")]) == ("data",)


def test_a_start_takes_an_address_on_every_network_and_every_port() -> None:
    host = world(published=True)
    assert host.start(WEB)
    host.check()
    addresses = [host.memory.state("network", each).endpoints[WEB].ipv4_address for each in NETWORKS.values()]
    assert addresses == ["172.18.0.2", "172.19.0.2"]
    held = host.memory.state("ports", "host").held[WEB]
    assert [(port.host_ip, port.host_port, port.container_port) for port in held] == [
        ("0.0.0.0", 40000, 80),
        ("::", 40000, 80),
        ("0.0.0.0", 8081, 81),
        ("::", 8081, 81),
    ]


def test_a_port_that_is_taken_leaves_no_intent_and_no_address() -> None:
    host = world(published=True)
    assert host.start(WEB)
    assert host.create(DB, "db", published=True, auto_remove=False, always=False)
    error = refused(host, *host.start_commands(DB))
    assert error.message == "Bind for 0.0.0.0:8081 failed: port is already allocated"
    assert host.container(DB).status is Status.CREATED


def test_a_start_on_a_network_that_is_gone_is_refused() -> None:
    host = world()
    state = replace(host.container(WEB), networks=(NetworkAttachment(name="lost"),))
    with pytest.raises(Rejected, match="network lost not found") as caught:
        transactions.start(
            state,
            c.StartContainer(container_id=WEB, at=1),
            find_network=host.find_network,
            endpoint_ids=host.random_hex,
            seed=bytes,
            ephemeral=transactions.EphemeralRange(),
        )
    assert caught.value.reason is Reason.NOT_FOUND


def test_a_container_without_a_bridge_publishes_nothing() -> None:
    host = world(published=True)
    state = replace(host.container(WEB), networks=())
    commands = transactions.start(
        state,
        c.StartContainer(container_id=WEB, at=1),
        find_network=host.find_network,
        endpoint_ids=host.random_hex,
        seed=bytes,
        ephemeral=transactions.EphemeralRange(),
    )
    assert commands == (c.StartContainer(container_id=WEB, at=1),)


def test_a_second_start_changes_nothing_at_all() -> None:
    host = world(published=True)
    assert host.start(WEB)
    assert refused(host, *host.start_commands(WEB)).reason is Reason.NOT_MODIFIED


@pytest.mark.parametrize("end", ["exited", "start failed"])
def test_an_end_gives_every_address_and_port_back(end: str) -> None:
    host = world(published=True)
    assert host.start(WEB)
    if end == "exited":
        assert host.started(WEB)
        assert host.exited(WEB)
    else:
        assert host.start_failed(WEB)
    host.check()
    assert host.memory.state("ports", "host").held == {}


def test_an_exit_gives_back_what_a_connect_was_about_to_use() -> None:
    attachment = NetworkAttachment(name="late", network_id="d3" * 32)
    state = replace(world().container(WEB), connecting=(attachment,))
    assert "d3" * 32 in transactions.held(state, lambda reference: None)


def test_an_end_gives_back_an_address_on_a_network_that_is_younger_than_the_container() -> None:
    """NET-04: such a wish knows its network by name only."""
    host = world()
    state = replace(host.container(WEB), networks=(NetworkAttachment(name="front"),))
    assert transactions.held(state, host.find_network) == (NETWORKS["front"],)


def test_a_removal_gives_name_and_volume_back() -> None:
    host = world()
    assert host.remove(WEB, force=False)
    assert host.removed(WEB)
    assert host.memory.state("name", "container/web").owner == ""
    assert host.memory.state("volume", "data").references == frozenset()
    assert host.create(DB, "web", published=False, auto_remove=False, always=False)


def test_a_new_name_frees_the_old_one() -> None:
    host = world()
    assert host.rename(WEB, "db")
    host.check()
    assert host.memory.state("name", "container/web").owner == ""


def test_a_new_name_that_is_taken_leaves_the_old_one() -> None:
    host = world()
    assert host.create(DB, "db", published=False, auto_remove=False, always=False)
    error = refused(host, *transactions.rename(host.container(WEB), "db"))
    assert error.message.startswith('Conflict. The container name "/db" is already in use by container')
    assert host.container(WEB).name == "web"


def test_a_tag_moves_to_the_image_that_got_it_last() -> None:
    host = World()
    host.add_image(IMAGES[1])
    assert host.tag(IMAGES[0])
    assert host.tag(IMAGES[1])
    host.check()
    assert host.memory.state("image", IMAGES[0]).references == frozenset()
    assert host.memory.state("image", IMAGES[1]).references == {TAG}


def test_a_tag_taken_away_leaves_the_name_free() -> None:
    host = World()
    assert host.tag(IMAGES[0])
    assert host.untag(IMAGES[0])
    host.check()
    assert host.memory.state("name", f"image/{TAG}").owner == ""


def test_a_container_answers_to_its_name_its_aliases_its_short_id_and_its_hostname() -> None:
    state = replace(world().container(WEB), config=ContainerConfig(hostname="box", mac_address="02:00:00:00:00:01"))
    config = EndpointConfig(aliases=("www", "web"), ipam_config=EndpointIPAMConfig(ipv4_address="172.18.0.5"))
    command = transactions.allocate(state, NetworkAttachment(name="front", config=config), FRONT, "e1" * 32, b"seed")
    assert command.dns_names == ("web", "www", WEB[:12], "box")
    assert (command.address, command.ipv6_address, command.mac_address) == ("172.18.0.5", "", "02:00:00:00:00:01")


@settings(max_examples=120, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_happens_nothing_is_held_by_the_dead(data: st.DataObject) -> None:
    host = World()
    choices = steps(host)
    for name in data.draw(histories(choices)):
        choices[name](data.draw)
        host.check()
