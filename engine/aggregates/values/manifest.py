"""Manifests, indexes and image configurations: parsed from the bytes a registry or an archive gave.

Owns reading both vocabularies (OCI and Docker schema 2) into one set of values, and the choice of a platform.
Refuses to know: where the bytes came from and whether their digest is right (the drivers verify).
Sources: OCI image-spec manifest.md, image-index.md, config.md; distribution manifest schema 2. Schema 1 is refused, as
moby does since v28.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from msgspec.structs import replace

from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.values.config import ContainerConfig
from engine.aggregates.values.descriptor import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_LAYER_ZSTD,
    DOCKER_MANIFEST,
    INDEXES,
    MANIFESTS,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    SCHEMA1,
    Descriptor,
)
from engine.aggregates.values.ids import SHA256_DIGEST, DiffID, Digest
from engine.aggregates.values.platform import Platform, fallbacks

MANIFEST_BYTES_MAX = 4 << 20
"""Larger manifests are refused (distribution's own limit)."""

ATTESTATION = "vnd.docker.reference.type"
"""An index entry with this annotation describes another one (provenance, SBOM) and is never run."""

_OCI_NAMES = {
    DOCKER_LAYER: OCI_LAYER,
    DOCKER_LAYER_GZIP: OCI_LAYER_GZIP,
    DOCKER_LAYER_ZSTD: OCI_LAYER_ZSTD,
}
_OCI_ONLY = frozenset({*_OCI_NAMES.values(), DOCKER_LAYER_ZSTD})

_RFC3339 = re.compile(
    r"(?P<seconds>\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2})(?:\.(?P<fraction>\d{1,9}))?(?P<zone>[Zz]|[+-]\d{2}:\d{2})"
)


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """One image: its configuration and its layers, lowest first."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = {}


class IndexEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One image of an index. platform: None where the index does not say."""

    descriptor: Descriptor
    platform: Platform | None = None
    annotations: Mapping[str, str] = {}


class ImageIndex(msgspec.Struct, frozen=True, kw_only=True):
    """Images under one name, usually one a platform."""

    media_type: str
    entries: tuple[IndexEntry, ...]


class HistoryEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One step of the build. created: RFC 3339 or ""; an empty_layer step has no layer in rootfs."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration blob of an image, whose digest is the image's ID. created: RFC 3339 or ""."""

    architecture: str
    os: str
    variant: str = ""
    os_version: str = ""
    created: str = ""
    author: str = ""
    docker_version: str = ""
    config: ContainerConfig = ContainerConfig()
    diff_ids: tuple[DiffID, ...] = ()
    history: tuple[HistoryEntry, ...] = ()

    @property
    def platform(self) -> Platform:
        return Platform(os=self.os, architecture=self.architecture, variant=self.variant)

    @property
    def created_at(self) -> int:
        """UTC ns; 0 when it is not said, or not a time."""
        return _time_ns(self.created)


def parse_manifest(body: bytes, media_type: str = "") -> Manifest | ImageIndex:
    """Parse a manifest or index. media_type: the server's Content-Type, believed only when the body does not say.
    Raises Rejected(INVALID) for schema 1, unknown kinds and malformed bodies."""
    if len(body) > MANIFEST_BYTES_MAX:
        raise Rejected(Reason.INVALID, f"manifest is larger than {MANIFEST_BYTES_MAX} bytes")
    document = _json_object(body, "manifest")
    kind = _kind(document, media_type)
    if kind in INDEXES:
        return ImageIndex(media_type=kind, entries=tuple(_entry(item) for item in _list(document, "manifests")))
    layers = tuple(_descriptor(item) for item in _list(document, "layers"))
    config = _descriptor(document.get("config"))
    return Manifest(media_type=kind, config=config, layers=layers, annotations=_strings(document.get("annotations")))


def index_entries(body: bytes) -> tuple[Mapping[str, Any], ...]:
    """The descriptors of an index as they stand there, with everything that is said in them. Raises
    Rejected(INVALID)."""
    return tuple(_list(_json_object(body, "manifest"), "manifests"))


def choose(index: ImageIndex, wanted: Platform) -> IndexEntry:
    """The entry to run on `wanted`: exact first, then fallbacks of its variant. Raises Rejected(NOT_FOUND)."""
    runnable = [entry for entry in index.entries if ATTESTATION not in entry.annotations]
    for candidate in fallbacks(wanted):
        for entry in runnable:
            if entry.platform is not None and entry.platform.normalized == candidate:
                return entry
    unsaid = [entry for entry in runnable if entry.platform is None]
    if len(runnable) == 1 and unsaid:
        return unsaid[0]  # an index of one image that names no platform: its configuration will tell.
    raise Rejected(
        Reason.NOT_FOUND,
        f"no matching manifest for {wanted} in the manifest list entries: no match for platform in manifest: not found",
    )


def render_manifest(config: Descriptor, layers: Sequence[Descriptor]) -> bytes:
    """A Docker schema 2 manifest for an image that came without one: the bytes that dockerd makes of the same parts."""
    return _render(DOCKER_MANIFEST, replace(config, media_type=DOCKER_CONFIG), layers)


def render_for_registry(config: Descriptor, layers: Sequence[Descriptor]) -> tuple[str, bytes]:
    """(media type, body) of a manifest all of whose parts are named in one vocabulary: OCI's when a layer's name is
    OCI's or zstd, which Docker's has not, else Docker's."""
    if not any(layer.media_type in _OCI_ONLY for layer in layers):
        return DOCKER_MANIFEST, render_manifest(config, layers)
    renamed = [replace(layer, media_type=_OCI_NAMES.get(layer.media_type, layer.media_type)) for layer in layers]
    return OCI_MANIFEST, _render(OCI_MANIFEST, replace(config, media_type=OCI_CONFIG), renamed)


def descriptor(one: Descriptor) -> dict[str, Any]:
    """As OCI writes it."""
    return {"mediaType": one.media_type, "size": one.size, "digest": one.digest}


def _render(media_type: str, config: Descriptor, layers: Sequence[Descriptor]) -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": descriptor(config),
        "layers": [descriptor(layer) for layer in layers],
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=3)


def parse_image_config(body: bytes) -> ImageConfig:
    """Parse an image configuration. Raises Rejected(INVALID) when it is no image's (an artifact's, say)."""
    document = _json_object(body, "image configuration")
    rootfs = document.get("rootfs")
    if not isinstance(rootfs, dict) or not isinstance(document.get("os"), str) or not document["os"]:
        raise Rejected(Reason.INVALID, "invalid image configuration: no rootfs or os in it")
    diff_ids = tuple(DiffID(_digest(item)) for item in _list(rootfs, "diff_ids"))
    history = document.get("history") or []
    try:
        return ImageConfig(
            architecture=document.get("architecture") or "",
            os=document["os"],
            variant=document.get("variant") or "",
            os_version=document.get("os.version") or "",
            created=document.get("created") or "",
            author=document.get("author") or "",
            docker_version=document.get("docker_version") or "",
            config=_container_config(document.get("config")),
            diff_ids=diff_ids,
            history=msgspec.convert([_without_nulls(step) for step in history], type=tuple[HistoryEntry, ...]),
        )
    except (msgspec.ValidationError, TypeError, AttributeError) as error:
        raise Rejected(Reason.INVALID, f"invalid image configuration: {error}") from error


def layer_history(config: ImageConfig) -> tuple[tuple[HistoryEntry, DiffID | None], ...]:
    """Each history step with the layer it made, oldest first; the configuration must have a step for each layer or
    none at all, as moby demands."""
    layers = iter(config.diff_ids)
    return tuple((step, None if step.empty_layer else next(layers, None)) for step in config.history)


def _kind(document: Mapping[str, Any], media_type: str) -> str:
    """What the document is: its own word, the server's, or its shape, in this order."""
    if document.get("schemaVersion") == 1 or media_type in SCHEMA1:
        raise Rejected(
            Reason.INVALID,
            "support for Docker Image Format v1 and Docker Image manifest version 2, schema 1 has been removed: "
            "manifest schema 1 is not supported",
        )
    said = document.get("mediaType") or media_type.partition(";")[0].strip()
    if said not in MANIFESTS and said not in INDEXES:
        said = OCI_INDEX if "manifests" in document else OCI_MANIFEST if "layers" in document else said
    if said not in MANIFESTS and said not in INDEXES:
        raise Rejected(Reason.INVALID, f"unsupported manifest media type: {said or 'unknown'}")
    # A body that is both would be read as one thing here and as another by somebody else (CVE-2021-41190).
    if ("manifests" in document) == ("layers" in document):
        raise Rejected(Reason.INVALID, "ambiguous manifest: it must have either layers or manifests")
    if (said in INDEXES) != ("manifests" in document):
        raise Rejected(Reason.INVALID, f"manifest's media type {said} and its content do not agree")
    return said


def _container_config(raw: Any) -> ContainerConfig:
    if raw is None:
        return ContainerConfig()
    config = _without_nulls(raw)
    for name in ("Cmd", "Entrypoint", "Shell"):
        if isinstance(config.get(name), str):
            config[name] = [config[name]]  # Docker's strslice reads a lone string as a list of one.
    return msgspec.convert(config, type=ContainerConfig)


def _without_nulls(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in raw.items() if value is not None}


def _json_object(body: bytes, what: str) -> dict[str, Any]:
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Rejected(Reason.INVALID, f"invalid {what}: {error}") from error
    if not isinstance(document, dict):
        raise Rejected(Reason.INVALID, f"invalid {what}: not a JSON object")
    return document


def _list(document: Mapping[str, Any], name: str) -> Sequence[Any]:
    value = document.get(name)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise Rejected(Reason.INVALID, f"invalid manifest: {name} is not a list")
    return value


def _descriptor(raw: Any) -> Descriptor:
    if not isinstance(raw, dict):
        raise Rejected(Reason.INVALID, "invalid manifest: a descriptor is missing")
    size = raw.get("size")
    if not isinstance(size, int) or size < 0:
        raise Rejected(Reason.INVALID, "invalid manifest: a descriptor has no size")
    media_type = raw.get("mediaType")
    return Descriptor(
        media_type=media_type if isinstance(media_type, str) else "", digest=_digest(raw.get("digest")), size=size
    )


def _entry(raw: Any) -> IndexEntry:
    descriptor = _descriptor(raw)
    said = raw.get("platform")
    platform = None
    if isinstance(said, dict) and said.get("architecture") and said.get("os"):
        platform = Platform(
            os=str(said["os"]), architecture=str(said["architecture"]), variant=str(said.get("variant") or "")
        )
    return IndexEntry(descriptor=descriptor, platform=platform, annotations=_strings(raw.get("annotations")))


def _digest(raw: Any) -> Digest:
    if not isinstance(raw, str) or not SHA256_DIGEST.fullmatch(raw):
        raise Rejected(Reason.INVALID, f"invalid manifest: unsupported digest {raw!r}")
    return Digest(raw)


def _time_ns(text: str) -> int:
    """RFC 3339 with up to nine digits of fraction."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        return 0
    try:
        seconds = datetime.fromisoformat(match["seconds"] + match["zone"].upper().replace("Z", "+00:00")).timestamp()
    except ValueError:
        return 0
    return max(int(seconds) * 1_000_000_000 + int((match["fraction"] or "").ljust(9, "0")[:9]), 0)


def _strings(raw: Any) -> dict[str, str]:
    return {str(name): str(value) for name, value in raw.items()} if isinstance(raw, dict) else {}
