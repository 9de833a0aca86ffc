"""What `docker rmi` comes to: which names go, whether the image goes with them, and what stands against it (IMG-12).

Pure. Owns the conflicts and their words. Source: moby daemon/images/image_delete.go.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from engine import transactions
from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Command, Reason, Rejected
from engine.aggregates.image import ImageState, ImageStatus, RemoveImage
from engine.aggregates.values.ids import short
from engine.aggregates.values.reference import parse
from engine.projections.containers import Containers
from engine.projections.images import Images


class Conflict(msgspec.Struct, frozen=True):
    """What stands against deleting an image. hard: force does not help."""

    image_id: str
    message: str
    hard: bool = False

    def refusal(self) -> Rejected:
        how = "cannot be forced" if self.hard else "must be forced"
        return Rejected(Reason.CONFLICT, f"conflict: unable to delete {short(self.image_id)} ({how}) - {self.message}")


class Removal(msgspec.Struct, frozen=True, kw_only=True):
    """What to do with one image: the names to take, and whether it goes."""

    names: tuple[str, ...]
    delete: bool

    def commands(self, state: ImageState, at: int) -> tuple[Command, ...]:
        """As one transaction."""
        untagged = transactions.untag(state.image_id, self.names)
        return (*untagged, RemoveImage(image_id=state.image_id, at=at)) if self.delete else untagged


class RemovalPlans:
    """Over all images, and all containers."""

    def __init__(self, images: Images, containers: Containers) -> None:
        self._images = images
        self._containers = containers

    def of(self, text: str, *, force: bool) -> tuple[ImageState, Removal]:
        """By an id, or a name. Raises Rejected: NOT_FOUND, CONFLICT."""
        state = self._images.find(text)
        return state, self._by_id(state, force) if is_id(state, text) else self._by_name(state, text, force)

    def _by_name(self, state: ImageState, text: str, force: bool) -> Removal:
        """One name, with the digests of its repository when no other tag of it is left; and the image after its last
        name, unless something uses it, which is no error then."""
        if not force and single_reference(state):
            user = next(iter(self._users(state)), None)
            if user is not None:
                raise Rejected(
                    Reason.CONFLICT,
                    f'conflict: unable to remove repository reference "{text}" (must force) - container '
                    f"{short(user.container_id)} is using its referenced image {short(state.image_id)}",
                )
        reference = parse(text).with_default_tag()
        name = str(reference)
        if name not in state.references | state.repository_digests:
            name = f"{reference.repository}@{reference.digest}"
        names = [name]
        same = f"{reference.repository}:"
        tags_left = any(other.startswith(same) and other != name for other in state.references)
        if name in state.references and not tags_left:
            names += sorted(held for held in state.repository_digests if held.startswith(f"{reference.repository}@"))
        left = [other for other in names_of(state) if other not in names]
        delete = not left and self.conflict(state, references=(), force=force) is None
        return Removal(names=tuple(names), delete=delete)

    def _by_id(self, state: ImageState, force: bool) -> Removal:
        references = () if single_reference(state) else names_of(state)
        conflict = self.conflict(state, references=references, force=force)
        if conflict is not None:
            raise conflict.refusal()
        return Removal(names=names_of(state), delete=True)

    def conflict(self, state: ImageState, *, references: Iterable[str], force: bool = False) -> Conflict | None:
        """The first conflict, in moby's order. references: names that count against it."""
        if any(other.parent == state.image_id for other in self._images if other.status is ImageStatus.READY):
            return Conflict(state.image_id, "image has dependent child images", True)
        users = self._users(state)
        for user in users:
            if user.alive:
                words = f"image is being used by running container {short(user.container_id)}"
                return Conflict(state.image_id, words, True)
        if force:
            return None
        if any(references):
            return Conflict(state.image_id, "image is referenced in multiple repositories")
        for user in users:
            words = f"image is being used by stopped container {short(user.container_id)}"
            return Conflict(state.image_id, words)
        return None

    def _users(self, state: ImageState) -> list[ContainerState]:
        return self._containers.using_image(state.image_id)

    def parent_left(self, state: ImageState) -> ImageState | None:
        """The parent of an image that went, when nobody names or uses it."""
        parent = self._images.get(state.parent) if state.parent else None
        unused = parent is not None and not names_of(parent) and self.conflict(parent, references=()) is None
        return parent if unused else None

    def parts_left(self, state: ImageState, names: Iterable[str]) -> list[ImageState]:
        """Images that were here only as parts of an index for which the names stood, and that nothing uses."""
        indexes = dict.fromkeys(state.tagged_indexes.get(name, name.partition("@")[2]) for name in names)
        return [
            part
            for index in indexes
            for part in self._images.of_index(index)
            if part.image_id != state.image_id
            and part.status is ImageStatus.READY
            and not (names_of(part) or self._images.is_part(part))
            and self.conflict(part, references=()) is None
        ]


def names_of(state: ImageState) -> tuple[str, ...]:
    """Tags, then digests."""
    return (*sorted(state.references), *sorted(state.repository_digests))


def is_id(state: ImageState, text: str) -> bool:
    """Whether the user named the image by (a beginning of) its id."""
    return state.image_id.startswith(text) or state.image_id.partition(":")[2].startswith(text)


def single_reference(state: ImageState) -> bool:
    """At most one tag, and all names in one repository; False without any name."""
    names = names_of(state)
    if len(names) <= 1:
        return len(names) == 1
    return len(state.references) <= 1 and len({parse(name).repository for name in names}) == 1
