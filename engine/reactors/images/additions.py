"""Appending images and names: the one place where the log learns of a new image or tag.

A name belongs to one image. Taking it from another is a rule over two streams, so names are moved under one lock:
who has it now, and the transaction that takes it away, are one step. A name that stands for an index belongs to that of
the index's images here which fits the host best; the others are its parts (docs/decisions/0012-names-of-indexes.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec
import trio

from engine import transactions
from engine.aggregates.decider import Cause, Command, Reason, Rejected
from engine.aggregates.image import (
    AddImage,
    ImageState,
    ImageStatus,
    RecordIndex,
    RecordRepositoryDigest,
    UntagImage,
)
from engine.aggregates.values.descriptor import Descriptor
from engine.aggregates.values.ids import Digest, ImageID
from engine.aggregates.values.platform import Platform, fallbacks
from engine.aggregates.values.reference import Reference
from engine.reactors.base import Hands
from engine.transactions import NO_DIGEST


class Belonging(msgspec.Struct, frozen=True, kw_only=True):
    """The index by which an image came, itself in the store. manifest: the image's; manifests: all it names."""

    index: Descriptor
    manifest: Descriptor
    manifests: Mapping[Digest, Descriptor]


class Additions:
    def __init__(self, hands: Hands, host: Platform) -> None:
        self._hands = hands
        self._ranks = {platform: rank for rank, platform in enumerate(fallbacks(host))}
        self._moving = trio.Lock()

    async def add(
        self,
        image: AddImage,
        *,
        cause: Cause,
        names: Sequence[Reference] = (),
        repository_digests: Sequence[Reference] = (),
        also: Sequence[Command] = (),
        belonging: Belonging | None = None,
    ) -> None:
        """An image with its names, and `also`, as one transaction. Waits for a removal of the same image to end."""
        while True:
            await self._until_not_removing(image.image_id)
            try:
                async with self._moving:
                    commands = (image, *self._memberships(image, belonging))
                    moves = self._moves(image, (*names, *repository_digests), belonging)
                    await self._append((*commands, *moves, *also), cause)
            except Rejected as error:
                if error.reason is not Reason.CONFLICT:
                    raise
                await trio.sleep(0.002)  # a removal was decided a moment ago; it shows once it is committed
            else:
                return

    async def tag(self, image_id: ImageID, reference: Reference, cause: Cause, index: Digest = NO_DIGEST) -> None:
        """Give an image a name, from whoever has it. Raises Rejected: NOT_FOUND, CONFLICT while it is removed."""
        async with self._moving:
            owner = self._hands.views.images.owner(str(reference))
            now = self._hands.clock.now_ns()
            await self._append(transactions.tag(image_id, str(reference), owner, now, index), cause)

    async def hand_over(self, image_id: ImageID, index: Digest, cause: Cause) -> None:
        """Give the names of an image that stand for an index to another image of it that is here; where there is none
        they stay."""
        async with self._moving:
            images, now = self._hands.views.images, self._hands.clock.now_ns()
            state = images.get(image_id)
            others = [
                other
                for other in images.of_index(index)
                if other.image_id != image_id and other.status is ImageStatus.READY
            ]
            if state is None or not others:
                return
            heir = min(others, key=lambda other: self._rank(other.platform)).image_id
            commands: list[Command] = []
            for name in sorted(state.references):
                if state.tagged_indexes.get(name) == index:
                    commands += transactions.tag(heir, name, image_id, now, index)
            for name in sorted(state.repository_digests):
                if name.endswith(f"@{index}"):
                    commands.append(UntagImage(image_id=image_id, reference=name))
                    commands.append(RecordRepositoryDigest(image_id=heir, reference=name))
            if commands:
                await self._append(commands, cause)

    async def _append(self, commands: Sequence[Command], cause: Cause) -> None:
        with trio.CancelScope(shield=True):  # one commit: the next move must see this one
            await self._hands.application.execute(*commands, cause=cause)

    def _memberships(self, image: AddImage, belonging: Belonging | None) -> Iterator[Command]:
        """The image's own, and those of images that were here before anybody knew of the index."""
        if belonging is None:
            return
        yield RecordIndex(image_id=image.image_id, index=belonging.index, manifest=belonging.manifest)
        for other in self._hands.views.images:
            manifest = belonging.manifests.get(other.manifest.digest) if other.manifest else None
            if manifest is not None and other.status is ImageStatus.READY and other.image_id != image.image_id:
                yield RecordIndex(image_id=other.image_id, index=belonging.index, manifest=manifest)

    def _moves(self, image: AddImage, names: Sequence[Reference], belonging: Belonging | None) -> Iterator[Command]:
        """What gives names (and digests) to the image, or to the one of the same index that has them and fits
        better."""
        images, now = self._hands.views.images, self._hands.clock.now_ns()
        index = belonging.index.digest if belonging is not None else NO_DIGEST
        for reference in dict.fromkeys(map(str, names)):
            owner = images.get(images.owner(reference))
            mine = owner is None or belonging is None or not self._fits_better(owner, image, belonging)
            image_id = image.image_id if owner is None or mine else owner.image_id
            if "@" not in reference:
                yield from transactions.tag(image_id, reference, owner.image_id if owner else "", now, index)
                continue
            if owner is not None and owner.image_id != image_id:
                yield UntagImage(image_id=owner.image_id, reference=reference)
            yield RecordRepositoryDigest(image_id=image_id, reference=reference)

    def _fits_better(self, owner: ImageState, image: AddImage, belonging: Belonging) -> bool:
        here = belonging.index.digest in owner.indexes or (
            owner.manifest is not None and owner.manifest.digest in belonging.manifests
        )
        ready = owner.status is ImageStatus.READY and owner.image_id != image.image_id
        return here and ready and self._rank(owner.platform) < self._rank(image.platform)

    def _rank(self, platform: Platform | None) -> int:
        """0 for the host's own platform; those that can not run here share the last place."""
        return self._ranks.get(platform.normalized, len(self._ranks)) if platform is not None else len(self._ranks)

    async def _until_not_removing(self, image_id: ImageID) -> None:
        """No deadline: the images reactor finishes every removal, and the caller's own cancellation is enough."""

        def settled(state: ImageState) -> bool:
            return state.status is not ImageStatus.REMOVING

        await self._hands.pump.until(f"image:{image_id}", settled)
