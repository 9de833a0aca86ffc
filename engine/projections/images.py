"""Images as `images` and `image inspect` read them, and who has which name.

Lookup order (IMG-10): full id, then name[:tag] or name@digest, then unique id prefix.
"""

from __future__ import annotations

import re

from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.image import DECIDER, ImageState
from engine.aggregates.values.reference import Reference, parse
from engine.projections.states import States

_HEX_PREFIX = re.compile(r"(?:sha256:)?[0-9a-f]{1,64}")


class Images(States[ImageState]):
    def __init__(self) -> None:
        super().__init__(DECIDER, ImageState)
        self._by_reference: dict[str, str] = {}

    def reset(self) -> None:
        super().reset()
        self._by_reference.clear()

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

    @staticmethod
    def _parsed(text: str) -> Reference | None:
        try:
            return parse(text)
        except Rejected:
            return None
