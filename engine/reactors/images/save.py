"""Images into an archive: which ones are meant, and that nobody removes them meanwhile (IMG-14)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from engine.aggregates.decider import Cause, Reason, Rejected
from engine.aggregates.image import ImageState, NoteImage
from engine.aggregates.values.ids import ImageID
from engine.aggregates.values.reference import parse
from engine.drivers.ports.storage import ImageArchives, LoadedLayer, SavedImage
from engine.reactors.base import Hands
from engine.reactors.images.holds import Holds


class Saves:
    def __init__(self, hands: Hands, archives: ImageArchives, holds: Holds) -> None:
        self._hands = hands
        self._archives = archives
        self._holds = holds

    async def save(self, names: Sequence[str], cause: Cause) -> AsyncIterator[bytes]:
        """The archive, in chunks; told of each image once it is whole. Raises Rejected(NOT_FOUND) before the first
        chunk."""
        chosen = self._chosen(names)
        async with self._holds.hold() as hold:
            saved = []
            for state, references in chosen.values():
                await hold.add(state.blobs, state.chain)
                saved.append(_saved(state, references))
            async for chunk in self._archives.save(saved):
                yield chunk
            notes = [NoteImage(image_id=ImageID(image_id), action="save") for image_id in chosen]
            await self._hands.application.execute(*notes, cause=cause)

    def _chosen(self, names: Sequence[str]) -> dict[str, tuple[ImageState, list[str]]]:
        """By id: the images, each with the names it was asked for by. A name without a tag means all its tags."""
        if not names:
            raise Rejected(Reason.INVALID, "no images were named")
        chosen: dict[str, tuple[ImageState, list[str]]] = {}
        for name in names:
            meant = self._meant(name)
            if not meant:
                state = self._hands.views.images.find(name)
                chosen.setdefault(state.image_id, (state, []))
            for state, reference in meant:
                _, references = chosen.setdefault(state.image_id, (state, []))
                if reference not in references:
                    references.append(reference)
        return chosen

    def _meant(self, name: str) -> list[tuple[ImageState, str]]:
        try:
            wanted = parse(name)
        except Rejected:
            return []
        if wanted.digest:
            return []
        return [
            (state, text)
            for state in self._hands.views.images
            for text in sorted(state.references)
            if (reference := parse(text)).repository == wanted.repository and wanted.tag in ("", reference.tag)
        ]


def _saved(state: ImageState, references: Sequence[str]) -> SavedImage:
    assert state.config is not None, "an image that is there has a configuration"
    return SavedImage(
        config=state.config,
        manifest=state.manifest,
        layers=tuple(LoadedLayer(diff_id=layer.diff_id, blob=layer.blob) for layer in state.layers),
        references=tuple(references),
    )
