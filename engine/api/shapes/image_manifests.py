"""The manifests under an image's name, as `GET /images/json?manifests=1` and inspect tell them. Pure.

Source: Engine API `ImageManifestSummary`; moby daemon/containerd/image_list.go (multiPlatformSummary).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from engine.aggregates.image import ImageState
from engine.aggregates.values.descriptor import MANIFESTS
from engine.aggregates.values.manifest import ATTESTATION, descriptor

ATTESTATION_OF = "vnd.docker.reference.digest"
_DESCRIPTOR_KEYS = ("mediaType", "digest", "size", "urls", "annotations", "data", "platform", "artifactType")


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """An image that is here, and the containers that use it."""

    state: ImageState
    containers: tuple[str, ...] = ()


def of_entry(entry: Mapping[str, Any], part: Part | None) -> dict[str, Any]:
    """One entry of an index. entry: as it stands there; part: the image, if it is here."""
    told = {key: entry[key] for key in _DESCRIPTOR_KEYS if key in entry}
    annotations = entry.get("annotations") or {}
    if ATTESTATION in annotations:
        shape = _summary(told, "attestation", content=0, unpacked=0, available=False)
        return shape | {"AttestationData": {"For": annotations.get(ATTESTATION_OF, "")}}
    if part is not None:
        return _image(told, part)
    if entry.get("mediaType") not in MANIFESTS:
        return _summary(told, "unknown", content=0, unpacked=0, available=False)
    shape = _summary(told, "image", content=0, unpacked=0, available=False)
    platform = entry.get("platform") or {"architecture": "", "os": ""}
    return shape | {"ImageData": {"Platform": platform, "Containers": [], "Size": {"Unpacked": 0}}}


def of_image(part: Part) -> dict[str, Any]:
    """The only manifest of an image that is of no index."""
    assert part.state.manifest is not None, "the caller looks"
    return _image(descriptor(part.state.manifest), part)


def _image(told: Mapping[str, Any], part: Part) -> dict[str, Any]:
    state = part.state
    blobs = {blob.digest: blob.size for blob in (state.config, *(layer.blob for layer in state.layers)) if blob}
    content = int(told["size"]) + sum(blobs.values())
    platform = told.get("platform") or msgspec.to_builtins(state.platform)
    # An image that came by another manifest has other blobs than this one names.
    available = state.manifest is not None and state.manifest.digest == told["digest"]
    shape = _summary(told, "image", content=content, unpacked=state.size, available=available)
    data = {"Platform": platform, "Containers": list(part.containers), "Size": {"Unpacked": state.size}}
    return shape | {"ImageData": data}


def _summary(told: Mapping[str, Any], kind: str, *, content: int, unpacked: int, available: bool) -> dict[str, Any]:
    return {
        "ID": told["digest"],
        "Descriptor": dict(told),
        "Available": available,
        "Size": {"Content": content, "Total": content + unpacked},
        "Kind": kind,
    }
