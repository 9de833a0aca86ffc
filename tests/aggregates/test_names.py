"""Names: one owner at most, and Docker's words for who is late."""

from __future__ import annotations

import pytest

from engine.aggregates.decider import Reason
from engine.aggregates.names import (
    DECIDER,
    MoveName,
    NameKind,
    NameReleased,
    NameReserved,
    ReleaseName,
    ReserveName,
)
from tests.support.memory import Story

ONE, OTHER = "4f5e" * 16, "77aa" * 16
KEY = "container/web"


def reserve(owner: str, kind: NameKind = NameKind.CONTAINER, name: str = "web") -> ReserveName:
    return ReserveName(kind=kind, name=name, owner=owner)


def test_a_free_name_is_taken() -> None:
    assert Story(DECIDER, KEY).when(reserve(ONE)).then(NameReserved(owner=ONE)).owner == ONE


def test_a_name_taken_twice_by_one_owner_is_taken_once() -> None:
    Story(DECIDER, KEY).when(reserve(ONE), reserve(ONE)).then()


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        (
            NameKind.CONTAINER,
            "web",
            f'Conflict. The container name "/web" is already in use by container "{ONE}". '
            "You have to remove (or rename) that container to be able to reuse that name.",
        ),
        (NameKind.NETWORK, "back", "network with name back already exists"),
        (NameKind.IMAGE, "docker.io/library/a:1", f"docker.io/library/a:1 is already the name of image {ONE[:12]}"),
    ],
)
def test_a_name_of_somebody_else_is_refused(kind: NameKind, name: str, words: str) -> None:
    story = Story(DECIDER, f"{kind.value}/{name}")
    story.when(reserve(ONE, kind, name), reserve(OTHER, kind, name)).rejected(Reason.CONFLICT, words)


def test_a_tag_moves_from_image_to_image() -> None:
    story = Story(DECIDER, KEY).when(reserve(ONE), MoveName(kind=NameKind.CONTAINER, name="web", owner=OTHER))
    assert story.then(NameReserved(owner=OTHER)).owner == OTHER


def test_moving_a_name_to_its_owner_is_nothing() -> None:
    Story(DECIDER, KEY).when(reserve(ONE), MoveName(kind=NameKind.CONTAINER, name="web", owner=ONE)).then()


def test_the_owner_gives_its_name_back() -> None:
    story = Story(DECIDER, KEY).when(reserve(ONE), ReleaseName(kind=NameKind.CONTAINER, name="web", owner=ONE))
    assert DECIDER.terminal(story.then(NameReleased(owner=ONE)))


def test_nobody_gives_back_the_name_of_another() -> None:
    Story(DECIDER, KEY).when(reserve(ONE), ReleaseName(kind=NameKind.CONTAINER, name="web", owner=OTHER)).then()


def test_a_name_is_of_one_kind() -> None:
    assert reserve(ONE, NameKind.NETWORK).key == "network/web"
    assert reserve(ONE).key == KEY
