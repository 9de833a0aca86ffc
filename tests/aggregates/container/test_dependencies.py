"""Who is started before whom."""

from __future__ import annotations

from engine.aggregates.container.donors import by_dependency
from engine.aggregates.container.state import ContainerState
from engine.aggregates.values.config import HostConfig
from engine.aggregates.values.ids import ContainerID
from engine.aggregates.values.links import Link


def container(name: str, *links: str, network_mode: str = "bridge") -> ContainerState:
    return ContainerState(
        container_id=ContainerID(name),
        host=HostConfig(network_mode=network_mode),
        links=tuple(Link(container_id=ContainerID(other), name=other, alias=other) for other in links),
    )


def test_linked_containers_and_donors_come_first_through_any_number_of_hands() -> None:
    """CTR-44, SYS-10: otherwise the order stays; who is not among them is not waited for."""
    web = container("web", "app", "gone")
    app = container("app", "db", "side")
    side = container("side", network_mode="container:db")
    other, db = container("other"), container("db")
    assert by_dependency([web, other, app, side, db]) == (db, side, app, web, other)


def test_a_long_chain_and_one_that_needs_itself_are_ordered_too() -> None:
    """SYS-10."""
    chain = [container(str(number), str(number + 1)) for number in range(3000)]
    assert by_dependency(chain) == tuple(reversed(chain))
    alone = container("alone", network_mode="container:alone")
    assert by_dependency([alone]) == (alone,)
