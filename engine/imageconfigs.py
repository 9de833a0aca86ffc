"""The configuration of images, read from their blobs.

Events hold what lists and decisions need; what a container inherits (env, command, ...) stays in the configuration
blob, which the image's ID pins. Both the API and the reactors read it here. The cache is right for ever: an ID names
the bytes.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

from engine.aggregates.image import ImageState
from engine.aggregates.values.ids import Digest
from engine.aggregates.values.manifest import ImageConfig, parse_image_config
from engine.errors import Fault, PortError

CACHED_MAX = 256


class Blobs(Protocol):
    """The part of the blob store that is needed."""

    async def read(self, digest: Digest) -> bytes: ...


class ImageConfigs:
    """Parsed configurations, the most recently used ones kept."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._cache: OrderedDict[str, ImageConfig] = OrderedDict()

    async def of(self, state: ImageState) -> ImageConfig:
        """The configuration of an image. Raises PortError when its blob can not be read."""
        known = self._cache.get(state.image_id)
        if known is not None:
            self._cache.move_to_end(state.image_id)
            return known
        if state.config is None:
            raise PortError("image configuration", f"No such image: {state.image_id}", fault=Fault.NOT_FOUND)
        config = parse_image_config(await self._blobs.read(state.config.digest))
        self._cache[state.image_id] = config
        while len(self._cache) > CACHED_MAX:
            self._cache.popitem(last=False)
        return config
