"""An image: known by the digest of its configuration, named by references, made of layers that others may share.

The event holds what lists and decisions need; the configuration itself (env included) stays in its blob, which the
digest pins. Which layers and blobs may be deleted is a fold over all images and containers, never a counter.
Small aggregate in one module: commands, events, state, lifecycle, decide.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import ClassVar, assert_never

import msgspec
from msgspec.structs import replace

from engine.aggregates.decider import Command, Decider, Event, Reason, Rejected, Retention
from engine.aggregates.values.descriptor import Descriptor
from engine.aggregates.values.ids import ChainID, DiffID, Digest, ImageID
from engine.aggregates.values.platform import Platform


class ImageLayer(msgspec.Struct, frozen=True, kw_only=True):
    """One layer: the blob as received and the unpacked tree it became. size: bytes unpacked."""

    diff_id: DiffID
    chain_id: ChainID
    blob: Descriptor
    size: int


class ImageCommand(Command, frozen=True, kw_only=True):
    image_id: ImageID

    @property
    def key(self) -> str:
        return self.image_id


class AddImage(ImageCommand, frozen=True, kw_only=True):
    """Everything is in the store and verified. Adding what is there already changes nothing. created_at: the image's
    own (ns, 0 unknown); at: when it came here; manifest: None when it was never in a registry's form."""

    at: int
    platform: Platform
    created_at: int
    layers: tuple[ImageLayer, ...]
    config: Descriptor
    manifest: Descriptor | None
    labels: Mapping[str, str]
    parent: ImageID = ImageID("")
    origin: str = ""
    """How it came: `pull`, `load`, `import`, `commit`, `build`."""


class TagImage(ImageCommand, frozen=True, kw_only=True):
    """reference: canonical, with a tag. The name ledger is moved in the same transaction. index: what the name stands
    for, when that is an index of which this is one image."""

    at: int
    reference: str
    index: Digest = Digest("")


class UntagImage(ImageCommand, frozen=True, kw_only=True):
    """reference: canonical, a tag or a repository digest."""

    reference: str


class RecordRepositoryDigest(ImageCommand, frozen=True, kw_only=True):
    """`docker.io/library/alpine@sha256:...`: under this digest that repository had it."""

    reference: str


class RecordIndex(ImageCommand, frozen=True, kw_only=True):
    """The image is one of an index, there as `manifest`. Both bodies are in the store."""

    index: Descriptor
    manifest: Descriptor


class RecordCompressedLayer(ImageCommand, frozen=True, kw_only=True):
    """A layer that was made here has been compressed for a push. layer: its blob as it lies here; blob: the compressed
    one, kept from now on."""

    layer: Digest
    blob: Descriptor


class RequireImage(ImageCommand, frozen=True, kw_only=True):
    """Changes nothing; rejected unless the image is here to stay. In one transaction with what is made from the image,
    it keeps a removal that was decided a moment ago from taking the layers away."""


class NoteImage(ImageCommand, frozen=True, kw_only=True):
    """Somebody looked at it (save): told, and nothing changes."""

    action: str


class RemoveImage(ImageCommand, frozen=True, kw_only=True):
    at: int


class ReportImageRemoved(ImageCommand, frozen=True, kw_only=True):
    """layers, blobs: what ended with it (nobody else used them)."""

    layers: tuple[ChainID, ...]
    blobs: tuple[Digest, ...] = ()


class ImageAdded(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "image.added"
    at: int
    platform: Platform
    created_at: int
    layers: tuple[ImageLayer, ...]
    config: Descriptor
    manifest: Descriptor | None = None
    labels: Mapping[str, str] = {}
    parent: ImageID = ImageID("")
    origin: str = ""


class ImageTagged(Event, frozen=True, kw_only=True):
    """index: what the name stands for; "" when that is the image itself."""

    NAME: ClassVar[str] = "image.tagged"
    at: int
    reference: str
    index: Digest = Digest("")


class ImageUntagged(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "image.untagged"
    reference: str


class RepositoryDigestRecorded(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "image.repository_digest_recorded"
    reference: str


class ImageIndexed(Event, frozen=True, kw_only=True):
    """The image is one of an index. manifest: as which."""

    NAME: ClassVar[str] = "image.indexed"
    index: Descriptor
    manifest: Descriptor


class LayerCompressed(Event, frozen=True, kw_only=True):
    """layer: the blob that is not compressed; blob: the one that is."""

    NAME: ClassVar[str] = "image.layer_compressed"
    layer: Digest
    blob: Descriptor


class ImageNoted(Event, frozen=True, kw_only=True):
    """What is no change of state and yet told by `/events`, in Docker's words: save."""

    NAME: ClassVar[str] = "image.noted"
    RETENTION: ClassVar[Retention] = Retention.LOW
    action: str


class ImageRemoveRequested(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "image.remove_requested"
    at: int


class ImageRemoved(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "image.removed"
    layers: tuple[ChainID, ...] = ()
    blobs: tuple[Digest, ...] = ()


ImageEvent = (
    ImageAdded
    | ImageTagged
    | ImageUntagged
    | RepositoryDigestRecorded
    | ImageIndexed
    | LayerCompressed
    | ImageNoted
    | ImageRemoveRequested
    | ImageRemoved
)


class ImageStatus(enum.Enum):
    ABSENT = "absent"
    READY = "ready"
    REMOVING = "removing"


TRANSITIONS: dict[tuple[ImageStatus, type[Event]], tuple[ImageStatus, str]] = {
    (ImageStatus.ABSENT, ImageAdded): (ImageStatus.READY, "images reactor"),
    (ImageStatus.READY, ImageTagged): (ImageStatus.READY, "user"),
    (ImageStatus.READY, ImageUntagged): (ImageStatus.READY, "user"),
    (ImageStatus.READY, RepositoryDigestRecorded): (ImageStatus.READY, "images reactor"),
    (ImageStatus.READY, ImageIndexed): (ImageStatus.READY, "images reactor"),
    (ImageStatus.READY, LayerCompressed): (ImageStatus.READY, "images reactor"),
    (ImageStatus.READY, ImageNoted): (ImageStatus.READY, "user"),
    (ImageStatus.READY, ImageRemoveRequested): (ImageStatus.REMOVING, "user"),
    (ImageStatus.REMOVING, ImageRemoved): (ImageStatus.ABSENT, "images reactor"),
}


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """An index that an image is one of, and the manifest by which it is."""

    index: Descriptor
    manifest: Descriptor


class ImageState(msgspec.Struct, frozen=True, kw_only=True):
    """references: tags; repository_digests: `repo@digest`; both canonical. tagged_at: of the newest tag. compressed: of
    layers that are not, by their blobs' digests: the blob that registries get. indexes: those it is one of, by digest;
    tagged_indexes: tags that stand for one of them."""

    image_id: ImageID
    status: ImageStatus = ImageStatus.ABSENT
    added_at: int = 0
    created_at: int = 0
    platform: Platform | None = None
    layers: tuple[ImageLayer, ...] = ()
    config: Descriptor | None = None
    manifest: Descriptor | None = None
    labels: Mapping[str, str] = {}
    parent: ImageID = ImageID("")
    references: frozenset[str] = frozenset()
    repository_digests: frozenset[str] = frozenset()
    tagged_at: int = 0
    compressed: Mapping[Digest, Descriptor] = {}
    indexes: Mapping[Digest, Membership] = {}
    tagged_indexes: Mapping[str, Digest] = {}

    @property
    def size(self) -> int:
        """Bytes of all layers unpacked."""
        return sum(layer.size for layer in self.layers)

    @property
    def blobs(self) -> frozenset[Digest]:
        """Everything of it in the blob store."""
        parts = [self.config, self.manifest, *self.compressed.values(), *(layer.blob for layer in self.layers)]
        for member in self.indexes.values():
            parts += [member.index, member.manifest]
        return frozenset(part.digest for part in parts if part is not None)

    @property
    def chain(self) -> tuple[ChainID, ...]:
        """The layers to stack, lowest first."""
        return tuple(layer.chain_id for layer in self.layers)


def initial(key: str) -> ImageState:
    return ImageState(image_id=ImageID(key))


def evolve(state: ImageState, event: ImageEvent) -> ImageState:
    row = TRANSITIONS.get((state.status, type(event)))
    assert row is not None, f"no transition from {state.status.value} by {event.NAME}"
    status = row[0]
    match event:
        case ImageAdded():
            return replace(
                state,
                status=status,
                added_at=event.at,
                created_at=event.created_at,
                platform=event.platform,
                layers=event.layers,
                config=event.config,
                manifest=event.manifest,
                labels=event.labels,
                parent=event.parent,
            )
        case ImageTagged():
            others = _without(state.tagged_indexes, event.reference)
            return replace(
                state,
                references=state.references | {event.reference},
                tagged_at=event.at,
                tagged_indexes={**others, event.reference: event.index} if event.index else others,
            )
        case ImageUntagged():
            return replace(
                state,
                references=state.references - {event.reference},
                repository_digests=state.repository_digests - {event.reference},
                tagged_indexes=_without(state.tagged_indexes, event.reference),
            )
        case RepositoryDigestRecorded():
            return replace(state, repository_digests=state.repository_digests | {event.reference})
        case ImageIndexed():
            member = Membership(index=event.index, manifest=event.manifest)
            return replace(state, indexes={**state.indexes, event.index.digest: member})
        case LayerCompressed():
            return replace(state, compressed={**state.compressed, event.layer: event.blob})
        case ImageNoted():
            return state
        case ImageRemoveRequested():
            return replace(state, status=status)
        case ImageRemoved():
            return ImageState(image_id=state.image_id)
        case _:
            assert_never(event)


def _without(mapping: Mapping[str, Digest], key: str) -> Mapping[str, Digest]:
    return {name: value for name, value in mapping.items() if name != key}


ImageCommands = (
    AddImage
    | TagImage
    | UntagImage
    | RecordRepositoryDigest
    | RecordIndex
    | RecordCompressedLayer
    | RequireImage
    | NoteImage
    | RemoveImage
    | ReportImageRemoved
)


def decide(state: ImageState, command: ImageCommands) -> tuple[Event, ...]:
    if state.status is ImageStatus.ABSENT and not isinstance(command, AddImage | ReportImageRemoved):
        raise Rejected(Reason.NOT_FOUND, f"No such image: {state.image_id}")
    match command:
        case AddImage():
            return _add(state, command)
        case TagImage():
            if state.status is ImageStatus.REMOVING:
                raise Rejected(Reason.CONFLICT, f"image {state.image_id} is being removed")
            index = state.tagged_indexes.get(command.reference, "")
            known = command.reference in state.references and index == command.index
            return () if known else (ImageTagged(at=command.at, reference=command.reference, index=command.index),)
        case UntagImage():
            known = command.reference in state.references | state.repository_digests
            return (ImageUntagged(reference=command.reference),) if known else ()
        case RecordRepositoryDigest():
            if state.status is ImageStatus.REMOVING:
                raise Rejected(Reason.CONFLICT, f"image {state.image_id} is being removed")
            known = command.reference in state.repository_digests
            return () if known else (RepositoryDigestRecorded(reference=command.reference),)
        case RecordIndex():
            if state.status is ImageStatus.REMOVING:
                raise Rejected(Reason.CONFLICT, f"image {state.image_id} is being removed")
            known = command.index.digest in state.indexes
            return () if known else (ImageIndexed(index=command.index, manifest=command.manifest),)
        case RecordCompressedLayer():
            if state.status is ImageStatus.REMOVING:
                raise Rejected(Reason.CONFLICT, f"image {state.image_id} is being removed")
            known = command.layer in state.compressed
            return () if known else (LayerCompressed(layer=command.layer, blob=command.blob),)
        case RequireImage():
            if state.status is ImageStatus.REMOVING:
                raise Rejected(Reason.NOT_FOUND, f"No such image: {state.image_id}")
            return ()
        case NoteImage():
            return (ImageNoted(action=command.action),) if state.status is ImageStatus.READY else ()
        case RemoveImage():
            if state.status is ImageStatus.REMOVING:
                raise Rejected(Reason.CONFLICT, f"image {state.image_id} is being removed")
            names = sorted(state.references | state.repository_digests)
            return (*(ImageUntagged(reference=name) for name in names), ImageRemoveRequested(at=command.at))
        case ReportImageRemoved():
            removing = state.status is ImageStatus.REMOVING
            return (ImageRemoved(layers=command.layers, blobs=command.blobs),) if removing else ()
        case _:
            assert_never(command)


def _add(state: ImageState, command: AddImage) -> tuple[Event, ...]:
    if state.status is ImageStatus.REMOVING:
        raise Rejected(Reason.CONFLICT, f"image {state.image_id} is being removed")
    if state.status is ImageStatus.READY:
        return ()
    return (
        ImageAdded(
            at=command.at,
            platform=command.platform,
            created_at=command.created_at,
            layers=command.layers,
            config=command.config,
            manifest=command.manifest,
            labels=command.labels,
            parent=command.parent,
            origin=command.origin,
        ),
    )


DECIDER: Decider[ImageState] = Decider(
    name="image",
    initial=initial,
    decide=decide,
    evolve=evolve,
    terminal=lambda state: state.status is ImageStatus.ABSENT,
    commands=ImageCommands.__args__,
    events=ImageEvent.__args__,
    endings=(ImageRemoved,),
)
