"""Appending images and names: the one place where the log learns of a new image or tag.

A name belongs to one image. Taking it from another is a rule over two streams, so names are moved under one lock:
who has it now, and the transaction that takes it away, are one step.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from engine import transactions
from engine.aggregates.decider import Cause, Command, Reason, Rejected
from engine.aggregates.image import AddImage, ImageState, ImageStatus, RecordRepositoryDigest
from engine.aggregates.values.ids import ImageID
from engine.aggregates.values.reference import Reference
from engine.reactors.base import Hands


class Additions:
    def __init__(self, hands: Hands) -> None:
        self._hands = hands
        self._moving = trio.Lock()

    async def add(
        self,
        image: AddImage,
        *,
        cause: Cause,
        names: Sequence[Reference] = (),
        repository_digests: Sequence[Reference] = (),
        also: Sequence[Command] = (),
    ) -> None:
        """An image with its names, and `also`, as one transaction. Waits for a removal of the same image to end."""
        digests = [
            RecordRepositoryDigest(image_id=image.image_id, reference=str(reference))
            for reference in repository_digests
        ]
        while True:
            await self._until_not_removing(image.image_id)
            try:
                await self._append(image.image_id, (image, *digests), names, also, cause)
            except Rejected as error:
                if error.reason is not Reason.CONFLICT:
                    raise
                await trio.sleep(0.002)  # a removal was decided a moment ago; it shows once it is committed
            else:
                return

    async def tag(self, image_id: ImageID, reference: Reference, cause: Cause) -> None:
        """Give an image a name, from whoever has it. Raises Rejected: NOT_FOUND, CONFLICT while it is removed."""
        await self._append(image_id, (), (reference,), (), cause)

    async def _append(
        self,
        image_id: ImageID,
        first: Sequence[Command],
        names: Sequence[Reference],
        also: Sequence[Command],
        cause: Cause,
    ) -> None:
        async with self._moving:
            moves: list[Command] = []
            for reference in dict.fromkeys(names):
                owner = self._hands.views.images.owner(str(reference))
                moves += transactions.tag(image_id, str(reference), owner, self._hands.clock.now_ns())
            with trio.CancelScope(shield=True):  # one commit: the next move must see this one
                await self._hands.application.execute(*first, *moves, *also, cause=cause)

    async def _until_not_removing(self, image_id: ImageID) -> None:
        """No deadline: the images reactor finishes every removal, and the caller's own cancellation is enough."""

        def settled(state: ImageState) -> bool:
            return state.status is not ImageStatus.REMOVING

        await self._hands.pump.until(f"image:{image_id}", settled)
