"""Images: added, named, required, removed, and added again."""

from __future__ import annotations

import pytest

from engine.aggregates.decider import Command, Reason
from engine.aggregates.image import (
    DECIDER,
    AddImage,
    ImageLayer,
    ImageRemoved,
    ImageRemoveRequested,
    ImageStatus,
    ImageTagged,
    ImageUntagged,
    RecordRepositoryDigest,
    RemoveImage,
    ReportImageRemoved,
    RequireImage,
    TagImage,
    UntagImage,
)
from engine.aggregates.values.descriptor import OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor
from engine.aggregates.values.platform import Platform
from tests.support.memory import Story, outcome

ID = "sha256:" + "e5" * 32
CHAIN = "sha256:" + "c1" * 32
BLOB = Descriptor(media_type=OCI_LAYER_GZIP, digest="sha256:" + "b1" * 32, size=700)
CONFIG = Descriptor(media_type=OCI_CONFIG, digest=ID, size=400)
MANIFEST = Descriptor(media_type=OCI_MANIFEST, digest="sha256:" + "a1" * 32, size=300)
TAG = "docker.io/library/alpine:3.20"
DIGEST = "docker.io/library/alpine@sha256:" + "a1" * 32
ADD = AddImage(
    image_id=ID,
    at=1,
    platform=Platform(os="linux", architecture="amd64"),
    created_at=0,
    layers=(ImageLayer(diff_id="sha256:" + "d1" * 32, chain_id=CHAIN, blob=BLOB, size=4096),),
    config=CONFIG,
    manifest=MANIFEST,
    labels={"a": "b"},
    origin="pull",
)
NAME = TagImage(image_id=ID, at=2, reference=TAG)
UNNAME = UntagImage(image_id=ID, reference=TAG)
RECORD = RecordRepositoryDigest(image_id=ID, reference=DIGEST)
REQUIRE = RequireImage(image_id=ID)
REMOVE = RemoveImage(image_id=ID, at=3)
REMOVED = ReportImageRemoved(image_id=ID, layers=(CHAIN,))
LIVES: dict[ImageStatus, tuple[Command, ...]] = {
    ImageStatus.ABSENT: (),
    ImageStatus.READY: (ADD,),
    ImageStatus.REMOVING: (ADD, REMOVE),
}
UNKNOWN, BUSY = "no: not found", "no: conflict"
TABLE = {
    ImageStatus.ABSENT: ("added", UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, "nothing"),
    ImageStatus.READY: (
        "nothing",
        "tagged",
        "nothing",
        "repository_digest_recorded",
        "nothing",
        "remove_requested",
        "nothing",
    ),
    ImageStatus.REMOVING: (BUSY, BUSY, "nothing", BUSY, UNKNOWN, BUSY, "removed"),
}


def after(*commands: Command):
    state = DECIDER.initial(ID)
    for command in commands:
        for event in DECIDER.decide(state, command):
            state = DECIDER.evolve(state, event)
    return state


@pytest.mark.parametrize("status", ImageStatus, ids=lambda status: status.value)
def test_every_command_in_every_status(status: ImageStatus) -> None:
    state = after(*LIVES[status])
    assert state.status is status
    commands = (ADD, NAME, UNNAME, RECORD, REQUIRE, REMOVE, REMOVED)
    assert tuple(outcome(DECIDER, state, command) for command in commands) == TABLE[status]


def test_an_image_knows_its_size_its_layers_and_its_blobs() -> None:
    state = after(ADD)
    assert (state.size, state.chain) == (4096, (CHAIN,))
    assert state.blobs == {ID, BLOB.digest, MANIFEST.digest}


def test_an_image_has_every_name_once() -> None:
    assert after(ADD, NAME, NAME, RECORD, RECORD).references == {TAG}
    Story(DECIDER, ID).when(ADD, NAME, NAME).then()
    Story(DECIDER, ID).when(ADD, RECORD, RECORD).then()


def test_a_name_can_be_taken_away_again() -> None:
    assert Story(DECIDER, ID).when(ADD, NAME, UNNAME).then(ImageUntagged(reference=TAG)).references == frozenset()


def test_a_repository_digest_can_be_taken_away_like_a_tag() -> None:
    state = after(ADD, RECORD, UntagImage(image_id=ID, reference=DIGEST))
    assert state.repository_digests == frozenset()


def test_a_removal_takes_every_name_away_first() -> None:
    story = Story(DECIDER, ID).when(ADD, NAME, RECORD, REMOVE)
    state = story.then(ImageUntagged(reference=TAG), ImageUntagged(reference=DIGEST), ImageRemoveRequested(at=3))
    assert (state.references, state.repository_digests) == (frozenset(), frozenset())


def test_a_removed_image_leaves_nothing_behind_and_may_come_again() -> None:
    assert Story(DECIDER, ID).when(ADD, REMOVE, REMOVED).then(ImageRemoved(layers=(CHAIN,))) == DECIDER.initial(ID)
    assert after(ADD, REMOVE, REMOVED, ADD).status is ImageStatus.READY


@pytest.mark.parametrize(
    ("commands", "reason", "words"),
    [
        ((NAME,), Reason.NOT_FOUND, f"No such image: {ID}"),
        ((ADD, REMOVE, REQUIRE), Reason.NOT_FOUND, f"No such image: {ID}"),
        ((ADD, REMOVE, NAME), Reason.CONFLICT, f"image {ID} is being removed"),
        ((ADD, REMOVE, RECORD), Reason.CONFLICT, f"image {ID} is being removed"),
        ((ADD, REMOVE, ADD), Reason.CONFLICT, f"image {ID} is being removed"),
    ],
)
def test_a_refusal_is_in_dockers_words(commands: tuple[Command, ...], reason: Reason, words: str) -> None:
    Story(DECIDER, ID).when(*commands).rejected(reason, words)


def test_the_time_of_the_newest_tag_is_kept() -> None:
    other = TagImage(image_id=ID, at=9, reference="docker.io/library/alpine:latest")
    assert Story(DECIDER, ID).when(ADD, NAME, other).then(ImageTagged(at=9, reference=other.reference)).tagged_at == 9
