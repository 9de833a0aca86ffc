"""Which image a name means on which platform: an index has one for each (IMG-04, CTR-47).

Owns the parameter `platform` in both its spellings. Source: moby daemon/server/httputils/form.go DecodePlatform.
"""

from __future__ import annotations

import msgspec

from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.image import ImageState
from engine.aggregates.values import platform as platforms
from engine.aggregates.values.platform import Platform
from engine.api.context import ApiContext


class _PlatformParameter(msgspec.Struct, frozen=True):
    os: str = ""
    architecture: str = ""
    variant: str = ""


def platform_of(context: ApiContext, text: str) -> Platform | None:
    """`linux/arm64`, as pull, import and create take it; None when nothing is said. Raises Rejected(INVALID)."""
    return platforms.parse(text, context.images.host_platform) if text else None


def decode_platform(text: str) -> Platform:
    """The JSON form that all others take: `{"os":"linux","architecture":"arm64"}`. Raises Rejected(INVALID)."""
    try:
        wanted = msgspec.json.decode(text, type=_PlatformParameter)
    except msgspec.MsgspecError as error:
        raise Rejected(Reason.INVALID, f"failed to parse platform: {error}") from error
    if not wanted.os or not wanted.architecture:
        raise Rejected(Reason.INVALID, "both OS and Architecture must be provided")
    return Platform(os=wanted.os, architecture=wanted.architecture, variant=wanted.variant).normalized


def find(context: ApiContext, name: str, wanted: Platform | None = None) -> ImageState:
    """The image a user means; of what an index has here, the one for a platform. Raises Rejected(NOT_FOUND)."""
    images = context.views.images
    state: ImageState = images.find(name) if wanted is None else images.for_platform(name, wanted)
    return state
