"""Images as `images` and `image inspect` read them, and who has which name.

Lookup order (IMG-10): full id, then name[:tag] or name@digest, then unique id prefix.
"""

from __future__ import annotations

import re

from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.image import DECIDER, ImageState, ImageStatus
from engine.aggregates.values.ids import Digest
from engine.aggregates.values.platform import Platform, fallbacks
from engine.aggregates.values.reference import Reference, parse
from engine.projections.states import States

NO_DIGEST = Digest("")
_HEX_PREFIX = re.compile(r"(?:sha256:)?[0-9a-f]{1,64}")


class Images(States[ImageState]):
    def __init__(self) -> None:
        super().__init__(DECIDER, ImageState)
        self._by_reference: dict[str, str] = {}
        self._by_index: dict[str, set[str]] = {}

    def reset(self) -> None:
        super().reset()
        self._by_reference.clear()
        self._by_index.clear()

    def changed(self, key: str, before: ImageState | None, after: ImageState | None) -> None:
        old = before.references | before.repository_digests if before is not None else frozenset()
        new = after.references | after.repository_digests if after is not None else frozenset()
        if before is None or after is None or old != new:
            self.revision += 1
        for reference in old - new:
            if self._by_reference.get(reference) == key:
                del self._by_reference[reference]
        for reference in new - old:
            self._by_reference[reference] = key
        was, now = before.indexes.keys() if before else set(), after.indexes.keys() if after else set()
        for index in was - now:
            self._by_index[index].discard(key)
        for index in now - was:
            self._by_index.setdefault(index, set()).add(key)

    def lookup(self, text: str) -> ImageState | None:
        """The image a user means by a name, digest or id; None when there is none here."""
        if text.startswith("sha256:") and (state := self.get(text)) is not None:
            return state
        if (state := self.get(f"sha256:{text}")) is not None:
            return state
        reference = self._parsed(text)
        if reference is not None:
            key = self._by_reference.get(str(reference.with_default_tag()))
            if key is None and reference.digest:
                key = self._by_reference.get(f"{reference.repository}@{reference.digest}")
            if key is not None:
                return self.get(key)
        if _HEX_PREFIX.fullmatch(text):
            return self.by_prefix(f"sha256:{text.removeprefix('sha256:')}")
        return None

    def find(self, text: str) -> ImageState:
        """As `lookup`, raising Rejected(NOT_FOUND) in the words that make the CLI pull."""
        state = self.lookup(text)
        if state is None:
            reference = self._parsed(text)
            shown = reference.with_default_tag().familiar if reference is not None else text
            raise Rejected(Reason.NOT_FOUND, f"No such image: {shown}")
        return state

    def owner(self, reference: str) -> str:
        """The id of the image that has this canonical reference, or ""."""
        return self._by_reference.get(reference, "")

    def of_index(self, index: str) -> list[ImageState]:
        """The images of an index that are here, the oldest first."""
        found = [self.get(key) for key in self._by_index.get(index, ())]
        return sorted((state for state in found if state is not None), key=lambda state: state.added_at)

    def index_of(self, state: ImageState, text: str) -> Digest:
        """The index that the user's word for an image stands for, or "". An id stands for the only one there is."""
        reference = self._parsed(text)
        if reference is not None:
            name = str(reference.with_default_tag())
            if name in state.references:
                return state.tagged_indexes.get(name, NO_DIGEST)
            if f"{reference.repository}@{reference.digest}" in state.repository_digests:
                digest = Digest(reference.digest)
                return digest if digest in state.indexes else NO_DIGEST
        return next(iter(state.indexes)) if len(state.indexes) == 1 else NO_DIGEST

    def for_platform(self, text: str, wanted: Platform) -> ImageState:
        """As `find`; of what an index has here, the image for a platform, or that for one that may stand for it."""
        state = self.find(text)
        index = self.index_of(state, text)
        here = [state, *(self.of_index(index) if index else ())]
        platforms: dict[Platform, ImageState] = {
            one.platform.normalized: one for one in reversed(here) if one.platform is not None
        }
        for candidate in fallbacks(wanted):
            found = platforms.get(candidate)
            if found is not None and found.status is ImageStatus.READY:
                return found
        raise Rejected(
            Reason.NOT_FOUND,
            f"image with reference {text} was found but its platform ({state.platform}) does not match the specified "
            f"platform ({wanted})",
        )

    def main_index(self, state: ImageState) -> Digest:
        """What the image's names stand for, when that is an index; of several the first name's."""
        named = (state.tagged_indexes.get(name, NO_DIGEST) for name in sorted(state.references))
        by_digest = (Digest(name.partition("@")[2]) for name in sorted(state.repository_digests))
        for index in (*named, *by_digest):
            if index in state.indexes:
                return index
        return NO_DIGEST

    def is_part(self, state: ImageState) -> bool:
        """Whether it has no name and is here as one image of an index that has one."""
        return not (state.references or state.repository_digests) and any(
            index in other.tagged_indexes.values()
            or any(name.endswith(f"@{index}") for name in other.repository_digests)
            for index in state.indexes
            for other in self.of_index(index)
        )

    @staticmethod
    def _parsed(text: str) -> Reference | None:
        try:
            return parse(text)
        except Rejected:
            return None
