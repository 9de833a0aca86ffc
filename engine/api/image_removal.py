"""`docker rmi`: which names go, whether the image goes with them, and what stands against it (IMG-12).

Owns the conflicts and their words; the images reactor discards. Source: moby daemon/images/image_delete.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import aclosing
from typing import Any, cast

import msgspec

from engine import transactions
from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Cause, Reason, Rejected
from engine.aggregates.image import ImageRemoved, ImageState, ImageStatus, RemoveImage
from engine.aggregates.values.ids import short
from engine.aggregates.values.platform import Platform
from engine.aggregates.values.reference import parse
from engine.api.context import ApiContext

Record = dict[str, str]
"""`{"Untagged": name}` or `{"Deleted": id}`."""


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


class ImageRemovals:
    def __init__(self, context: ApiContext) -> None:
        self._context = context

    async def remove(self, text: str, *, force: bool, prune: bool, cause: Cause) -> list[Record]:
        """Raises Rejected: NOT_FOUND, CONFLICT. Returns when what went is off the disk's books."""
        state = self._context.views.images.find(text)
        removal = self._by_id(state, force) if is_id(state, text) else self._by_name(state, text, force)
        return await self._perform(state, removal, prune=prune, cause=cause)

    async def remove_platforms(
        self, text: str, platforms: Sequence[Platform], *, force: bool, cause: Cause
    ) -> list[Record]:
        """Single images of an index; its names stay with the others of it that are here. Raises as `remove`.
        Source: moby daemon/containerd/image_delete.go."""
        if not force:
            words = "Content will be removed from all images referencing this variant. Use —-force to force delete."
            raise Rejected(Reason.INVALID, words)
        images = self._context.views.images
        records: list[Record] = []
        for wanted in platforms:
            state = images.for_platform(text, wanted)
            if state.platform is None or state.platform.normalized != wanted:
                raise Rejected(Reason.NOT_FOUND, f"no image of {text} is for {wanted}, only for {state.platform}")
            conflict = self._conflict(state, references=(), force=True)
            if conflict is not None:
                raise conflict.refusal()
            for index in state.indexes:
                await self._context.images.hand_over(state.image_id, index, cause)
            state = self._context.application.state("image", state.image_id)
            whole = Removal(names=names_of(state), delete=True)
            records += await self._perform(state, whole, prune=False, cause=cause)
        return records

    async def remove_unused(self, state: ImageState, cause: Cause) -> list[Record]:
        """An image with all its names, for a prune; nothing when something came to use it meanwhile."""
        if self._conflict(state, references=()) is not None:
            return []
        return await self._perform(state, Removal(names=names_of(state), delete=True), prune=True, cause=cause)

    # -- deciding ------------------------------------------------------------------------------------------------------

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
        delete = not left and self._conflict(state, references=(), force=force) is None
        return Removal(names=tuple(names), delete=delete)

    def _by_id(self, state: ImageState, force: bool) -> Removal:
        references = () if single_reference(state) else names_of(state)
        conflict = self._conflict(state, references=references, force=force)
        if conflict is not None:
            raise conflict.refusal()
        return Removal(names=names_of(state), delete=True)

    def _conflict(self, state: ImageState, *, references: Iterable[str], force: bool = False) -> Conflict | None:
        """The first conflict, in moby's order. references: names that count against it."""
        images = self._context.views.images
        if any(other.parent == state.image_id for other in images if other.status is ImageStatus.READY):
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
        return self._context.views.containers.using_image(state.image_id)

    # -- doing ---------------------------------------------------------------------------------------------------------

    async def _perform(self, state: ImageState, removal: Removal, *, prune: bool, cause: Cause) -> list[Record]:
        commands: list[Any] = list(transactions.untag(state.image_id, removal.names))
        if removal.delete:
            commands.append(RemoveImage(image_id=state.image_id, at=self._context.clock.now_ns()))
        committed = await self._context.application.execute(*commands, cause=cause)
        records = [{"Untagged": parse(name).familiar} for name in removal.names]
        if removal.delete:
            records += await self._deleted(state, committed.position, prune=prune, cause=cause)
        for part in self._parts_left(state, removal.names):
            records += await self._perform(part, Removal(names=(), delete=True), prune=prune, cause=cause)
        return records

    async def _deleted(self, state: ImageState, after: int, *, prune: bool, cause: Cause) -> list[Record]:
        """What went with an image that is being removed: its layers, and parents that nobody names."""
        records: list[Record] = []
        records.append({"Deleted": state.image_id})
        records += [
            {"Deleted": chain_id} for chain_id in await self._removed_layers(state.image_id, after)
        ]
        parent = self._context.views.images.get(state.parent) if prune and state.parent else None
        if parent is not None and not names_of(parent) and self._conflict(parent, references=()) is None:
            records += await self._perform(parent, Removal(names=(), delete=True), prune=True, cause=cause)
        return records

    def _parts_left(self, state: ImageState, names: Iterable[str]) -> list[ImageState]:
        """Images that were here only as parts of an index for which the names stood, and that nothing uses."""
        images = self._context.views.images
        indexes = dict.fromkeys(state.tagged_indexes.get(name, name.partition("@")[2]) for name in names)
        return [
            part
            for index in indexes
            for part in images.of_index(index)
            if part.image_id != state.image_id
            and part.status is ImageStatus.READY
            and not (names_of(part) or images.is_part(part))
            and self._conflict(part, references=()) is None
        ]

    async def _removed_layers(self, image_id: str, after: int) -> tuple[str, ...]:
        """Wait for the reactor's outcome. No deadline: it only renames, and the client's leaving cancels the wait."""
        async with aclosing(cast(Any, self._context.pump.subscribe(after, "image"))) as events:
            async for recorded in events:
                if recorded.stream == f"image:{image_id}" and isinstance(recorded.event, ImageRemoved):
                    return recorded.event.layers
        raise AssertionError("the log does not end")


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
