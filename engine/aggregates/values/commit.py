"""What `docker commit` asks for beside the container."""

from __future__ import annotations

import msgspec

from engine.aggregates.values.config import ContainerConfig
from engine.aggregates.values.reference import Reference


class CommitWish(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for. config: instead of the container's own; changes: Dockerfile instructions over it."""

    reference: Reference | None = None
    author: str = ""
    comment: str = ""
    pause: bool = True
    changes: tuple[str, ...] = ()
    config: ContainerConfig | None = None
