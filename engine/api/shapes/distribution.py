"""What a registry has under a name, as `GET /distribution/{name}/json` tells it (IMG-19). Pure.

Platforms are read from what the registry sent, not from what this engine makes of it: an index may name platforms that
no Linux knows. Source: moby daemon/server/router/distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from engine.aggregates.values.descriptor import Descriptor


class Platform(msgspec.Struct, frozen=True, omit_defaults=True):
    """OCI's platform, with its names."""

    architecture: str | None = None
    os: str | None = None
    os_version: str = msgspec.field(name="os.version", default="")
    os_features: Sequence[str] = msgspec.field(name="os.features", default=())
    variant: str = ""


class _Entry(msgspec.Struct, frozen=True):
    platform: Platform | None = None


class _Index(msgspec.Struct, frozen=True):
    manifests: tuple[_Entry, ...] = ()


def index_platforms(body: bytes) -> list[Platform]:
    """One for each image of an index, in its order."""
    entries = msgspec.json.decode(body, type=_Index).manifests
    return [_complete(entry.platform or Platform()) for entry in entries]


def config_platforms(body: bytes) -> list[Platform]:
    """That of one image by its configuration; none when it is not said."""
    try:
        said = msgspec.json.decode(body, type=Platform)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return []  # no image: an artifact's configuration may be anything.
    return [_complete(said)] if said.os or said.architecture else []


def inspect(descriptor: Descriptor, media_type: str, platforms: Sequence[Platform]) -> dict[str, Any]:
    """media_type: the document's own word, as a registry may serve it under another."""
    return {
        "Descriptor": {"mediaType": media_type, "digest": descriptor.digest, "size": descriptor.size},
        "Platforms": list(platforms) or None,
    }


def _complete(platform: Platform) -> Platform:
    """Architecture and system are told also where they are empty."""
    return msgspec.structs.replace(platform, architecture=platform.architecture or "", os=platform.os or "")
