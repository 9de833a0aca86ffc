"""Finding the images in an archive that has been split into files.

Owns the reading of `index.json` (OCI layout) and `manifest.json` (Docker). Where both are there the OCI index leads,
because it keeps manifests' digests, and `manifest.json` adds names. Raises Rejected(INVALID) for what makes no sense.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from typing import Any

import msgspec

from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.values.descriptor import DOCKER_CONFIG, INDEXES, Descriptor
from engine.aggregates.values.ids import DiffID, Digest
from engine.aggregates.values.manifest import (
    ATTESTATION,
    ImageIndex,
    IndexEntry,
    Manifest,
    choose,
    parse_image_config,
    parse_manifest,
)
from engine.aggregates.values.platform import Platform
from engine.aggregates.values.reference import parse as parse_reference

_JSON_BYTES_MAX = 8 << 20
_LINKS_MAX = 16
_NAME = "io.containerd.image.name"
_REF_NAME = "org.opencontainers.image.ref.name"
_LAYER_KINDS = {"1f8b": ".gzip", "28b52ffd": ".zstd"}


class FoundLayer(msgspec.Struct, frozen=True, kw_only=True):
    diff_id: DiffID
    blob: Descriptor


class FoundImage(msgspec.Struct, frozen=True, kw_only=True):
    """manifest_body: b"" where the archive has none. references: canonical names with tags. index: what they stand
    for, when it is one image of an index."""

    config: Descriptor
    layers: tuple[FoundLayer, ...]
    manifest_body: bytes = b""
    manifest_media_type: str = ""
    references: tuple[str, ...] = ()
    index: Descriptor | None = None


class Archive:
    """The members, by name (links followed) and by digest."""

    def __init__(self, members: Sequence[dict[str, Any]]) -> None:
        self._members = {posixpath.normpath(member["name"]).lstrip("/"): member for member in members}
        self._by_digest = {member["digest"]: member for member in members if "digest" in member}

    def member(self, name: str) -> dict[str, Any] | None:
        """The regular member under a name; old archives share layers by links."""
        name = posixpath.normpath(name).lstrip("/")
        for _ in range(_LINKS_MAX):
            member = self._members.get(name)
            if member is None or "link" not in member:
                return member
            base = "" if member["hard"] else posixpath.dirname(name)
            name = posixpath.normpath(posixpath.join(base, member["link"])).lstrip("/")
        return None

    def has(self, digest: str) -> bool:
        return digest in self._by_digest

    def file_of(self, digest: str) -> str:
        member = self._by_digest.get(digest)
        if member is None:
            raise _invalid(f"content {digest} is not in the archive")
        return str(member["file"])

    def read(self, member: dict[str, Any]) -> bytes:
        if member["size"] > _JSON_BYTES_MAX:
            raise _invalid(f"{member['name']} is too large")
        with open(member["file"], "rb") as file:
            return file.read()


def find_images(archive: Archive, platforms: Sequence[Platform] = ()) -> tuple[FoundImage, ...]:
    """The images, in the archive's order, each once. platforms: what to take of an index, else all of it that is
    there."""
    docker = archive.member("manifest.json")
    layout = archive.member("index.json")
    named = _docker_images(archive, archive.read(docker)) if docker is not None else ()
    if layout is None or archive.member("oci-layout") is None:
        if docker is None:
            raise _invalid("invalid archive: does not contain a manifest.json")
        return named
    images = _layout_images(archive, archive.read(layout), platforms)
    references = {image.config.digest: image.references for image in named}
    return tuple(
        msgspec.structs.replace(
            image, references=tuple(dict.fromkeys((*image.references, *references.get(image.config.digest, ()))))
        )
        for image in images
    )


def _layout_images(archive: Archive, body: bytes, platforms: Sequence[Platform]) -> tuple[FoundImage, ...]:
    index = parse_manifest(body)
    if not isinstance(index, ImageIndex):
        raise _invalid("index.json is no image index")
    names: dict[Digest, list[str]] = {}
    found: dict[Digest, tuple[Descriptor, Descriptor | None]] = {}
    for entry in index.entries:
        if ATTESTATION in entry.annotations:
            continue
        inner = entry.descriptor if entry.descriptor.media_type in INDEXES else None
        for chosen in _images_of(archive, entry, platforms):
            found.setdefault(chosen.digest, (chosen, inner))
            names.setdefault(chosen.digest, []).extend(_names(entry))
    return tuple(
        _image_by_manifest(archive, descriptor, tuple(dict.fromkeys(names[digest])), inner)
        for digest, (descriptor, inner) in found.items()
    )


def _images_of(archive: Archive, entry: IndexEntry, platforms: Sequence[Platform]) -> list[Descriptor]:
    """The manifests an index entry leads to: itself, or of an inner index what is there and wanted."""
    member = archive.member(f"blobs/sha256/{entry.descriptor.digest[7:]}")
    if member is None:
        raise _invalid(f"content {entry.descriptor.digest} is not in the archive")
    if entry.descriptor.media_type not in INDEXES:
        return [entry.descriptor]
    inner = parse_manifest(archive.read(member), entry.descriptor.media_type)
    if not isinstance(inner, ImageIndex):
        raise _invalid(f"{entry.descriptor.digest} is no image index")
    there = tuple(one for one in inner.entries if ATTESTATION not in one.annotations and _is_whole(archive, one))
    if platforms:
        some = msgspec.structs.replace(inner, entries=there)
        return [choose(some, platform).descriptor for platform in platforms]
    if not there:
        raise _invalid(f"no image of the index {entry.descriptor.digest} is in the archive")
    return [one.descriptor for one in there]


def _is_whole(archive: Archive, entry: IndexEntry) -> bool:
    """Whether an image is in the archive with everything of it: an index may be saved with some of its images."""
    member = archive.member(f"blobs/sha256/{entry.descriptor.digest[7:]}")
    if member is None:
        return False
    manifest = parse_manifest(archive.read(member), entry.descriptor.media_type)
    return isinstance(manifest, Manifest) and all(
        archive.has(blob.digest) for blob in (manifest.config, *manifest.layers)
    )


def _image_by_manifest(
    archive: Archive, descriptor: Descriptor, references: tuple[str, ...], index: Descriptor | None
) -> FoundImage:
    member = archive.member(f"blobs/sha256/{descriptor.digest[7:]}")
    body = archive.read(member) if member is not None else b""
    manifest = parse_manifest(body, descriptor.media_type)
    if not isinstance(manifest, Manifest):
        raise _invalid(f"{descriptor.digest} is no image manifest")
    diff_ids = _diff_ids(archive, manifest.config.digest)
    if len(diff_ids) != len(manifest.layers):
        raise _invalid(f"{descriptor.digest} has {len(manifest.layers)} layers, its configuration {len(diff_ids)}")
    return FoundImage(
        config=manifest.config,
        layers=tuple(
            FoundLayer(diff_id=diff_id, blob=blob) for diff_id, blob in zip(diff_ids, manifest.layers, strict=True)
        ),
        manifest_body=body,
        manifest_media_type=manifest.media_type,
        references=references,
        index=index,
    )


def _docker_images(archive: Archive, body: bytes) -> tuple[FoundImage, ...]:
    try:
        entries = msgspec.json.decode(body, type=list[dict[str, Any]])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _invalid(f"invalid manifest.json: {error}") from error
    return tuple(_docker_image(archive, entry) for entry in entries)


def _docker_image(archive: Archive, entry: dict[str, Any]) -> FoundImage:
    config = _named(archive, entry.get("Config"))
    layers = [_named(archive, path) for path in entry.get("Layers") or ()]
    diff_ids = _diff_ids(archive, config["digest"])
    if len(diff_ids) != len(layers):
        raise _invalid(f"invalid manifest, layers length mismatch: expected {len(diff_ids)}, got {len(layers)}")
    return FoundImage(
        config=Descriptor(media_type=DOCKER_CONFIG, digest=config["digest"], size=config["size"]),
        layers=tuple(
            FoundLayer(diff_id=diff_id, blob=_layer_descriptor(layer))
            for diff_id, layer in zip(diff_ids, layers, strict=True)
        ),
        references=tuple(str(parse_reference(text).with_default_tag()) for text in entry.get("RepoTags") or () if text),
    )


def _layer_descriptor(member: dict[str, Any]) -> Descriptor:
    suffix = next((kind for magic, kind in _LAYER_KINDS.items() if member["magic"].startswith(magic)), "")
    media_type = "application/vnd.docker.image.rootfs.diff.tar" + suffix
    return Descriptor(media_type=media_type, digest=member["digest"], size=member["size"])


def _named(archive: Archive, name: Any) -> dict[str, Any]:
    member = archive.member(name) if isinstance(name, str) else None
    if member is None:
        raise _invalid(f"invalid archive: {name} is named in manifest.json and not there")
    return member


def _diff_ids(archive: Archive, digest: Digest) -> tuple[DiffID, ...]:
    with open(archive.file_of(digest), "rb") as file:
        return parse_image_config(file.read(_JSON_BYTES_MAX)).diff_ids


def _names(entry: IndexEntry) -> list[str]:
    """Canonical references of an entry. A ref.name that is a tag alone names nothing."""
    full = entry.annotations.get(_NAME) or ""
    if not full:
        short = entry.annotations.get(_REF_NAME, "")
        full = short if "/" in short or ":" in short else ""
    if not full:
        return []
    try:
        reference = parse_reference(full)
    except Rejected:
        return []  # an annotation is anybody's text: one that is no reference is no name.
    return [] if reference.digest else [str(reference.with_default_tag())]


def _invalid(words: str) -> Rejected:
    return Rejected(Reason.INVALID, words)
