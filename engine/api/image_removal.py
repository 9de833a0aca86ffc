"""`docker rmi` (IMG-12): what removal_plans.py decided is asked for, and its outcome waited for.

The images reactor discards. Source: moby daemon/images/image_delete.go.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from typing import Any, cast

from engine.aggregates.decider import Cause, Reason, Rejected
from engine.aggregates.image import ImageRemoved, ImageState
from engine.aggregates.values.platform import Platform
from engine.aggregates.values.reference import parse
from engine.api.context import ApiContext
from engine.api.removal_plans import Removal, RemovalPlans, names_of

Record = dict[str, str]
"""`{"Untagged": name}` or `{"Deleted": id}`."""


class ImageRemovals:
    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._plans = RemovalPlans(context.views.images, context.views.containers)

    async def remove(self, text: str, *, force: bool, prune: bool, cause: Cause) -> list[Record]:
        """Raises Rejected: NOT_FOUND, CONFLICT. Returns when what went is off the disk's books."""
        state, removal = self._plans.of(text, force=force)
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
            conflict = self._plans.conflict(state, references=(), force=True)
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
        if self._plans.conflict(state, references=()) is not None:
            return []
        return await self._perform(state, Removal(names=names_of(state), delete=True), prune=True, cause=cause)

    # -- doing ---------------------------------------------------------------------------------------------------------

    async def _perform(self, state: ImageState, removal: Removal, *, prune: bool, cause: Cause) -> list[Record]:
        commands = removal.commands(state, self._context.clock.now_ns())
        committed = await self._context.application.execute(*commands, cause=cause)
        records = [{"Untagged": parse(name).familiar} for name in removal.names]
        if removal.delete:
            records += await self._deleted(state, committed.position, prune=prune, cause=cause)
        for part in self._plans.parts_left(state, removal.names):
            records += await self._perform(part, Removal(names=(), delete=True), prune=prune, cause=cause)
        return records

    async def _deleted(self, state: ImageState, after: int, *, prune: bool, cause: Cause) -> list[Record]:
        """What went with an image that is being removed: its layers, and parents that nobody names."""
        records: list[Record] = []
        records.append({"Deleted": state.image_id})
        records += [
            {"Deleted": chain_id} for chain_id in await self._removed_layers(state.image_id, after)
        ]
        parent = self._plans.parent_left(state) if prune else None
        if parent is not None:
            records += await self._perform(parent, Removal(names=(), delete=True), prune=True, cause=cause)
        return records

    async def _removed_layers(self, image_id: str, after: int) -> tuple[str, ...]:
        """Wait for the reactor's outcome. No deadline: it only renames, and the client's leaving cancels the wait."""
        async with aclosing(cast(Any, self._context.pump.subscribe(after, "image"))) as events:
            async for recorded in events:
                if recorded.stream == f"image:{image_id}" and isinstance(recorded.event, ImageRemoved):
                    return recorded.event.layers
        raise AssertionError("the log does not end")
