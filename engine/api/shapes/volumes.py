"""Volumes in Docker's shape. Source: Engine API `Volume`, `VolumeListResponse`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from engine.aggregates.volume import VolumeState
from engine.api.shapes.times import rfc3339_nano


class CreateVolumeBody(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """Body of `POST /volumes/create`; all of it may be missing."""

    name: str = ""
    driver: str = ""
    driver_opts: Mapping[str, str] | None = None
    labels: Mapping[str, str] | None = None
    cluster_volume_spec: Mapping[str, Any] | None = None


def mountpoint(data_root: str, name: str) -> str:
    """Where a volume of the local driver lies (docs/design/storage.md): the path follows from the name."""
    return f"{data_root}/volumes/{name}/_data"


def volume(state: VolumeState, mountpoint: str, size: int | None = None) -> dict[str, Any]:
    """size: bytes on disk, where they were asked for (`system df`)."""
    shape: dict[str, Any] = {
        "CreatedAt": rfc3339_nano(state.created_at // 1_000_000_000 * 1_000_000_000),
        "Driver": state.driver,
        "Labels": dict(state.labels) or None,
        "Mountpoint": mountpoint,
        "Name": state.name,
        "Options": dict(state.options) or None,
        "Scope": "local",
    }
    if size is not None:
        shape["UsageData"] = {"RefCount": len(state.references), "Size": size}
    return shape
