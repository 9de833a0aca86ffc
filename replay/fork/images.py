"""Commands for images that are here, in the words of the docker CLI: `tag app:v2 app:prod`, `rmi app:v1`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from engine import transactions
from engine.aggregates.image import ImageState, ReportImageRemoved
from engine.api.image_names import tag_reference
from engine.api.removal_plans import Removal, RemovalPlans
from replay.fork import options
from replay.fork.options import Verbs
from replay.fork.scene import Scene, Transaction


def add(verbs: Verbs) -> None:
    options.verb(verbs, "tag", _tag, "image", "name")
    remove = options.verb(verbs, "rmi", _remove, "names")
    remove.add_argument("-f", "--force", action="store_true")
    remove.add_argument("--no-prune", action="store_true")


def _tag(asked: argparse.Namespace, scene: Scene) -> Iterator[Transaction]:
    images = scene.branch.views().images
    image = images.find(asked.image)
    reference = tag_reference(asked.name, "")
    assert reference is not None, "there is a name"
    index, owner = images.index_of(image, asked.image), images.owner(str(reference))
    yield transactions.tag(image.image_id, str(reference), owner, scene.at, index)


def _remove(asked: argparse.Namespace, scene: Scene) -> Iterator[Transaction]:
    yield from _removed(scene, *_plans(scene).of(asked.name, force=asked.force), prune=not asked.no_prune)


def _plans(scene: Scene) -> RemovalPlans:
    views = scene.branch.views()
    return RemovalPlans(views.images, views.containers)


def _removed(scene: Scene, state: ImageState, removal: Removal, *, prune: bool) -> Iterator[Transaction]:
    """With parents that nobody names, and what was here only as a part of an index."""
    yield removal.commands(state, scene.at)
    if removal.delete:
        yield (_gone(scene, state),)
        parent = _plans(scene).parent_left(state) if prune else None
        if parent is not None:
            yield from _removed(scene, parent, Removal(names=(), delete=True), prune=True)
    for part in _plans(scene).parts_left(state, removal.names):
        yield from _removed(scene, part, Removal(names=(), delete=True), prune=prune)


def _gone(scene: Scene, state: ImageState) -> ReportImageRemoved:
    """Content that nobody else uses goes with it."""
    blobs, layers = scene.branch.used_content(without=state.image_id)
    return ReportImageRemoved(
        image_id=state.image_id,
        layers=tuple(chain_id for chain_id in reversed(state.chain) if chain_id not in layers),
        blobs=tuple(digest for digest in sorted(state.blobs) if digest not in blobs),
    )
