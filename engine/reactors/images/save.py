"""Images into an archive: which ones are meant, and that nobody removes them meanwhile (IMG-14).

A name that stands for an index is saved as that index where several of its images are here, else as the one image.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from engine.aggregates.decider import Cause, Reason, Rejected
from engine.aggregates.image import ImageState, ImageStatus, NoteImage
from engine.aggregates.values.descriptor import Descriptor
from engine.aggregates.values.ids import Digest, ImageID
from engine.aggregates.values.platform import Platform
from engine.aggregates.values.reference import parse
from engine.drivers.ports.storage import ImageArchives, LoadedLayer, SavedImage, SavedIndex
from engine.reactors.base import Hands
from engine.reactors.images.holds import Holds


class _Chosen:
    """What goes into an archive. The names of an image are those by which it was asked for."""

    def __init__(self) -> None:
        self.states: dict[ImageID, ImageState] = {}
        self._names: dict[ImageID, list[str]] = {}
        self._asked: set[ImageID] = set()
        self._indexes: dict[Digest, tuple[Descriptor, list[str]]] = {}

    def add(self, state: ImageState, reference: str) -> None:
        self.states[state.image_id] = state
        self._asked.add(state.image_id)
        names = self._names.setdefault(state.image_id, [])
        if reference and reference not in names:
            names.append(reference)

    def add_index(self, index: Descriptor, reference: str, parts: Sequence[ImageState]) -> None:
        for part in parts:
            self.states.setdefault(part.image_id, part)
        _, names = self._indexes.setdefault(index.digest, (index, []))
        if reference not in names:
            names.append(reference)

    def images(self) -> tuple[SavedImage, ...]:
        return tuple(
            _saved(state, self._names.get(image_id, ()), part=image_id not in self._asked)
            for image_id, state in self.states.items()
        )

    def indexes(self) -> tuple[SavedIndex, ...]:
        return tuple(SavedIndex(index=index, references=tuple(names)) for index, names in self._indexes.values())


class Saves:
    def __init__(self, hands: Hands, archives: ImageArchives, holds: Holds) -> None:
        self._hands = hands
        self._archives = archives
        self._holds = holds

    async def save(
        self, names: Sequence[str], cause: Cause, platforms: Sequence[Platform] = ()
    ) -> AsyncIterator[bytes]:
        """The archive, in chunks; told of each image once it is whole. platforms: of what an index has here these
        alone. Raises Rejected(NOT_FOUND) before the first chunk."""
        chosen = _Chosen()
        for name in self._checked(names):
            self._choose(name, platforms, chosen)
        async with self._holds.hold() as hold:
            for state in chosen.states.values():
                await hold.add(state.blobs, state.chain)
            async for chunk in self._archives.save(chosen.images(), chosen.indexes()):
                yield chunk
            notes = [NoteImage(image_id=state.image_id, action="save") for state in chosen.states.values()]
            await self._hands.application.execute(*notes, cause=cause)

    @staticmethod
    def _checked(names: Sequence[str]) -> Sequence[str]:
        if not names:
            raise Rejected(Reason.INVALID, "no images were named")
        return names

    def _choose(self, name: str, platforms: Sequence[Platform], chosen: _Chosen) -> None:
        """A name without a tag means all its tags."""
        images = self._hands.views.images
        meant = self._meant(name)
        if not meant:
            found = [images.for_platform(name, one) for one in platforms] or [images.find(name)]
            for state in found:
                chosen.add(state, "")
        for state, reference in meant:
            index = state.tagged_indexes.get(reference)
            parts = [part for part in images.of_index(index) if part.status is ImageStatus.READY] if index else []
            if platforms:
                wanted = {one.image_id: one for one in (images.for_platform(reference, each) for each in platforms)}
                parts = [part for part in parts if part.image_id in wanted]
                state = state if state.image_id in wanted else next(iter(wanted.values()))
            chosen.add(state, reference)
            if index is not None and len(parts) > 1:
                chosen.add_index(state.indexes[index].index, reference, parts)

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


def _saved(state: ImageState, references: Sequence[str], *, part: bool) -> SavedImage:
    assert state.config is not None, "an image that is there has a configuration"
    return SavedImage(
        config=state.config,
        manifest=state.manifest,
        layers=tuple(LoadedLayer(diff_id=layer.diff_id, blob=layer.blob) for layer in state.layers),
        references=tuple(references),
        part=part,
    )
