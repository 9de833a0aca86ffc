"""The views of containers, images, networks, volumes and execs: who is found by what, and rebuilt = followed."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from engine.aggregates import image, network, volume
from engine.aggregates.container import commands as c
from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.values.ids import ContainerID
from engine.aggregates.values.links import Link
from engine.projections.base import Projection
from engine.projections.containers import Containers
from engine.projections.execs import Execs
from engine.projections.images import Images
from engine.projections.networks import Networks
from engine.projections.volumes import Volumes
from tests.aggregates import test_exec, test_image, test_network
from tests.aggregates.container import lives
from tests.support.memory import Memory
from tests.support.world import World, histories, steps

VIEWS = (Containers, Images, Networks, Volumes, Execs)


def told(view: Projection, memory: Memory) -> Projection:
    for recorded in memory.log:
        view.apply(recorded)
    return view


def dumped(view: Projection) -> bytes:
    return msgspec.msgpack.encode(view.dump(), order="deterministic")


def refusal(find, reference: str) -> tuple[Reason, str]:
    with pytest.raises(Rejected) as caught:
        find(reference)
    return caught.value.reason, caught.value.message


# -- containers ----------------------------------------------------------------------------------------------------

FULL, TWIN, NAMED = "ab" + "1" * 62, "ab" + "2" * 62, "cd" + "3" * 62


def containers(*pairs: tuple[str, str], at: int = 0) -> tuple[Containers, Memory]:
    memory = Memory()
    for number, (container_id, name) in enumerate(pairs):
        memory.execute(msgspec.structs.replace(lives.create(), container_id=container_id, name=name, at=at + number))
    view = Containers()
    told(view, memory)
    return view, memory


def test_a_container_is_found_by_id_then_name_then_beginning() -> None:
    view, _ = containers((FULL, "cd"), (TWIN, FULL[:12]), (NAMED, "web"))
    assert view.find(FULL).container_id == FULL
    assert view.find("web").container_id == NAMED
    assert view.find("/web").container_id == NAMED
    assert view.find("cd").container_id == FULL, "a name wins over a beginning"
    assert view.find(FULL[:12]).container_id == TWIN, "also where it looks like an id"
    assert view.find("cd3").container_id == NAMED


def test_a_beginning_of_several_containers_is_ambiguous() -> None:
    view, _ = containers((FULL, "one"), (TWIN, "two"))
    assert refusal(view.find, "ab") == (Reason.INVALID, "multiple IDs found with provided prefix: ab")


@pytest.mark.parametrize("reference", ["nobody", "", "/", "AB1"])
def test_who_is_not_there_is_not_found(reference: str) -> None:
    view, _ = containers((FULL, "one"))
    assert refusal(view.find, reference) == (Reason.NOT_FOUND, f"No such container: {reference}")


def test_a_linked_container_has_a_name_by_its_link() -> None:
    """CTR-44: which follows the name of the one that links, and goes with the link."""
    link = Link(container_id=ContainerID(FULL), name="db", alias="store")
    view, memory = containers((FULL, "db"))
    memory.execute(msgspec.structs.replace(lives.create(), container_id=NAMED, name="web", links=(link,)))
    memory.execute(c.RenameContainer(container_id=ContainerID(NAMED), name="shop"))
    for recorded in memory.log[1:]:
        view.apply(recorded)
    assert view.link_names(FULL) == ("shop/store",)
    assert view.find("/shop/store").container_id == FULL
    assert refusal(view.find, "web/store")[0] is Reason.NOT_FOUND
    memory.execute(c.UnlinkContainer(container_id=ContainerID(NAMED), alias="store"))
    view.apply(memory.log[-1])
    assert view.link_names(FULL) == ()
    assert refusal(view.find, "shop/store")[0] is Reason.NOT_FOUND


def test_a_renamed_container_has_its_new_name_only() -> None:
    view, memory = containers((FULL, "one"))
    memory.execute(c.RenameContainer(container_id=FULL, name="uno"))
    view.apply(memory.log[-1])
    assert view.find("uno").name == "uno"
    assert refusal(view.find, "one")[0] is Reason.NOT_FOUND


def test_two_containers_that_swap_names_are_found_by_their_own() -> None:
    view, memory = containers((FULL, "one"), (TWIN, "two"))
    for container_id, name in ((FULL, "x"), (TWIN, "one"), (FULL, "two")):
        memory.execute(c.RenameContainer(container_id=container_id, name=name))
        view.apply(memory.log[-1])
    assert (view.find("one").container_id, view.find("two").container_id) == (TWIN, FULL)


def test_a_removed_container_is_gone_from_every_index() -> None:
    view, memory = containers((FULL, "one"))
    memory.execute(c.RemoveContainer(container_id=FULL, at=1, force=False, volumes=False))
    memory.execute(c.ReportRemoved(container_id=FULL, at=1))
    told(view := Containers(), memory)
    assert len(view) == 0
    for reference in (FULL, "one", FULL[:8]):
        assert refusal(view.find, reference)[0] is Reason.NOT_FOUND


def test_the_newest_container_is_listed_first() -> None:
    view, _ = containers((FULL, "one"), (TWIN, "two"))
    assert [state.name for state in view.newest_first()] == ["two", "one"]
    assert [state.name for state in view.using_image(lives.IMAGE)] == ["one", "two"]


# -- images --------------------------------------------------------------------------------------------------------


def images(*commands) -> Images:
    memory = Memory()
    memory.execute(test_image.ADD, *commands)
    view = Images()
    told(view, memory)
    return view


@pytest.mark.parametrize(
    "reference",
    [
        test_image.ID,
        test_image.ID.removeprefix("sha256:"),
        "alpine:3.20",
        "library/alpine:3.20",
        "docker.io/library/alpine:3.20",
        "alpine@" + test_image.DIGEST.partition("@")[2],
        "alpine:other@" + test_image.DIGEST.partition("@")[2],
        "e5e5",
        "sha256:e5e5",
    ],
)
def test_an_image_is_found_by_id_name_digest_and_beginning(reference: str) -> None:
    assert images(test_image.NAME, test_image.RECORD).find(reference).image_id == test_image.ID


def test_a_name_that_looks_like_a_beginning_wins() -> None:
    memory = Memory()
    other = "sha256:" + "77" * 32
    tag = image.TagImage(image_id=other, at=1, reference="docker.io/library/e5e5:latest")
    memory.execute(test_image.ADD, msgspec.structs.replace(test_image.ADD, image_id=other), tag)
    view = Images()
    told(view, memory)
    assert view.find("e5e5").image_id == other
    assert view.find("e5e5e").image_id == test_image.ID


@pytest.mark.parametrize(
    ("reference", "shown"),
    [("alpine", "alpine:latest"), ("alpine:nope", "alpine:nope"), ("ghcr.io/a/b", "ghcr.io/a/b:latest")],
)
def test_a_missing_image_is_told_in_the_words_that_make_the_cli_pull(reference: str, shown: str) -> None:
    assert refusal(images().find, reference) == (Reason.NOT_FOUND, f"No such image: {shown}")


def test_who_has_a_name_is_known() -> None:
    assert images(test_image.NAME).owner(test_image.TAG) == test_image.ID
    assert images(test_image.NAME, test_image.UNNAME).owner(test_image.TAG) == ""
    assert images(test_image.NAME, test_image.REMOVE, test_image.REMOVED).owner(test_image.TAG) == ""


# -- networks, volumes, execs --------------------------------------------------------------------------------------


def networks(*named: tuple[str, str], ready: bool = True) -> Networks:
    memory = Memory()
    for network_id, name in named:
        made = test_network.create()
        told_name = msgspec.structs.replace(made.settings, name=name)
        memory.execute(
            msgspec.structs.replace(made, network_id=network_id, settings=told_name),
            network.ReportNetworkReady(network_id=network_id)
            if ready
            else network.ReportNetworkFailed(network_id=network_id, error="no"),
        )
    view = Networks()
    told(view, memory)
    return view


def test_a_network_is_found_by_id_then_name_then_beginning() -> None:
    view = networks((FULL, "cd"), (TWIN, "back"), (NAMED, "front"))
    assert view.find(FULL).network_id == FULL
    assert view.find("back").network_id == TWIN
    assert view.find("cd").network_id == FULL
    assert view.find("cd3").network_id == NAMED


def test_a_network_that_is_not_there_or_failed_is_not_found() -> None:
    assert refusal(networks((FULL, "x")).find, "y") == (Reason.NOT_FOUND, "network y not found")
    assert networks((FULL, "x"), ready=False).lookup("x") is None


def test_a_beginning_of_several_networks_is_refused() -> None:
    assert refusal(networks((FULL, "x"), (TWIN, "y")).find, "ab")[0] is Reason.INVALID


def test_a_volume_is_found_by_its_whole_name() -> None:
    memory = Memory()
    memory.execute(volume.CreateVolume(name="data", at=1, driver="local", options={}, labels={}, anonymous=False))
    view = Volumes()
    told(view, memory)
    assert view.find("data").name == "data"
    assert refusal(view.find, "dat") == (Reason.NOT_FOUND, "get dat: no such volume")


def test_execs_are_listed_by_their_container_until_they_are_swept() -> None:
    memory, view = Memory(), Execs()
    memory.execute(test_exec.CREATE, test_exec.START, test_exec.EXITED)
    told(view, memory)
    assert [state.exec_id for state in view.of(test_exec.CONTAINER)] == [test_exec.ID]
    assert view.find(test_exec.ID[:10]).exec_id == test_exec.ID
    memory.execute(test_exec.REMOVE)
    view.apply(memory.log[-1])
    assert view.of(test_exec.CONTAINER) == []
    assert refusal(view.find, test_exec.ID) == (Reason.NOT_FOUND, f"No such exec instance: {test_exec.ID}")


# -- rebuilding ----------------------------------------------------------------------------------------------------


def answers(views: list) -> list[object]:
    """Everything that the indexes say, too: two views that answer alike are alike."""
    containers_, images_, networks_, volumes_, execs_ = views
    names = [*"web db".split(), *NAMES_OF_IDS]
    found = [state.container_id if (state := _try(containers_.find, name)) else None for name in names]
    tags = [images_.owner("docker.io/library/alpine:latest"), _try(images_.find, "alpine"), _try(images_.find, "1111")]
    execs = [[state.exec_id for state in execs_.of(container_id)] for container_id in NAMES_OF_IDS]
    lists = [[dumped(view)] for view in (containers_, images_, networks_, volumes_, execs_)]
    return [found, tags, execs, lists]


NAMES_OF_IDS = [digit * 64 for digit in "abc"]


def _try(find, reference: str):
    try:
        return find(reference)
    except Rejected:
        return None


@settings(max_examples=80, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_view_rebuilt_or_restored_is_the_view_that_followed(data: st.DataObject) -> None:
    host = World()
    choices = steps(host)
    following = [view() for view in VIEWS]
    seen = 0
    for name in data.draw(histories(choices)):
        choices[name](data.draw)
        for recorded in host.memory.log[seen:]:
            for view in following:
                view.apply(recorded)
        seen = len(host.memory.log)
    rebuilt = [view() for view in VIEWS]
    restored = [view() for view in VIEWS]
    cut = data.draw(st.integers(0, seen))
    for view, other in zip(rebuilt, restored, strict=True):
        for recorded in host.memory.log[:cut]:
            view.apply(recorded)
        other.restore(dumped(view))
        for recorded in host.memory.log[cut:]:
            view.apply(recorded)
            other.apply(recorded)
    event(f"{seen // 10 * 10} events or more")
    assert answers(rebuilt) == answers(following)
    assert answers(restored) == answers(following)


@pytest.mark.parametrize("view_type", VIEWS, ids=lambda view: view.__name__)
def test_a_reset_view_is_empty_and_can_begin_anew(view_type: type) -> None:
    host = World()
    host.create(NAMES_OF_IDS[0], "web", published=False, auto_remove=False, always=False)
    view = told(view_type(), host.memory)
    before = dumped(view)
    view.reset()
    assert msgspec.msgpack.decode(dumped(view)) == []
    assert dumped(told(view, host.memory)) == before
