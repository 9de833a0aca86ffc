"""The configuration of images and the entries of indexes, read from their blobs.

Events hold what lists and decisions need; what a container inherits (env, command, ...) stays in the configuration
blob, which the image's ID pins. Both the API and the reactors read it here. The caches are right for ever: an ID names
the bytes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from engine.aggregates.image import ImageState
from engine.aggregates.values.ids import Digest
from engine.aggregates.values.manifest import ImageConfig, index_entries, parse_image_config
from engine.errors import Fault, PortError

CACHED_MAX = 256


class Blobs(Protocol):
    """The part of the blob store that is needed."""

    async def read(self, digest: Digest) -> bytes: ...


Parsed = TypeVar("Parsed")


class ImageConfigs:
    """Parsed configurations and indexes, the most recently used ones kept."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._configs: OrderedDict[str, ImageConfig] = OrderedDict()
        self._indexes: OrderedDict[str, Sequence[Mapping[str, Any]]] = OrderedDict()

    async def of(self, state: ImageState) -> ImageConfig:
        """The configuration of an image. Raises PortError when its blob can not be read."""
        known = _used(self._configs, state.image_id)
        if known is not None:
            return known
        if state.config is None:
            raise PortError("image configuration", f"No such image: {state.image_id}", fault=Fault.NOT_FOUND)
        config = parse_image_config(await self._blobs.read(state.config.digest))
        return _kept(self._configs, state.image_id, config)

    async def entries(self, index: Digest) -> Sequence[Mapping[str, Any]]:
        """The descriptors of an index, as they stand there. Raises PortError when its blob can not be read."""
        known = _used(self._indexes, index)
        if known is not None:
            return known
        return _kept(self._indexes, index, index_entries(await self._blobs.read(index)))


def _used(cache: OrderedDict[str, Parsed], key: str) -> Parsed | None:
    if key in cache:
        cache.move_to_end(key)
    return cache.get(key)


def _kept(cache: OrderedDict[str, Parsed], key: str, value: Parsed) -> Parsed:
    cache[key] = value
    while len(cache) > CACHED_MAX:
        cache.popitem(last=False)
    return value
