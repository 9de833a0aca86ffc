"""Links that are deleted without waiting for the kernel to free them."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from engine.drivers.linux.network import links, netlink
from engine.drivers.linux.network.deletion import LinkDeletions
from tests.support.netns import World, link_names

pytestmark = pytest.mark.root


@pytest.fixture
def deletions(namespace: None) -> Iterator[LinkDeletions]:
    opened = LinkDeletions()
    yield opened
    opened.close()


def make_bridges(*names: str) -> None:
    with netlink.open_socket(netlink.ROUTE) as route:
        netlink.transact(route, [links.new_bridge(name) for name in names])


def test_nobody_finds_a_link_once_its_deletion_returns(deletions: LinkDeletions) -> None:
    names = [f"bridge{number}" for number in range(6)]
    make_bridges(*names)
    for name in names:
        deletions.delete(name)
        assert name not in link_names()


def test_the_name_of_a_deleted_link_is_free(deletions: LinkDeletions) -> None:
    for _ in range(3):
        make_bridges("bridge")
        deletions.delete("bridge")


def test_deleting_what_is_not_there_is_no_error(deletions: LinkDeletions) -> None:
    deletions.delete("nothing")
    deletions.delete_at(4711)


def test_a_link_that_can_not_be_deleted_is_refused(deletions: LinkDeletions) -> None:
    with pytest.raises(OSError) as refused:
        deletions.delete("lo")
    assert refused.value.errno == errno.EOPNOTSUPP


async def test_networks_that_are_removed_one_after_another_leave_nothing(world: World) -> None:
    specs = [await world.network(number) for number in range(18, 26)]
    for spec in specs:
        await world.networking.networks.remove(spec)
        assert f"br-{spec.network_id[:12]}" not in link_names()
