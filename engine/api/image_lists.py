"""`docker images`: which of them, and what is told of each (IMG-08).

Owns the filters, and what an entry tells of an index: the images that a name stands for beside the one that runs here.
Source: moby daemon/images/images.go for the filters, daemon/containerd/image_list.go for manifests.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from msgspec.structs import replace

from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.image import ImageState, ImageStatus
from engine.aggregates.values.manifest import descriptor
from engine.aggregates.values.patterns import Pattern, compiled
from engine.aggregates.values.reference import parse
from engine.api.context import ApiContext
from engine.api.filters import Filters
from engine.api.image_platforms import find
from engine.api.pruning import prune_label_match, prune_until
from engine.api.shapes import image_manifests
from engine.api.shapes import images as shapes
from engine.api.versions import ApiVersion

LIST_FILTERS = frozenset({"dangling", "label", "label!", "before", "since", "reference", "until"})


async def summary_of(
    context: ApiContext, state: ImageState, version: ApiVersion, shared: Counter[str] | None, *, manifests: bool
) -> dict[str, Any]:
    """An entry. shared: how often each layer is used, where sizes of shared layers are asked for."""
    users = len(context.views.containers.using_image(state.image_id))
    facts = shapes.ListFacts(containers=users, shared=shared)
    return shapes.summary(state, facts, version) | await target_of(context, state, version, manifests=manifests)


async def target_of(
    context: ApiContext, state: ImageState, version: ApiVersion, *, manifests: bool
) -> dict[str, Any]:
    """`Descriptor` (since 1.48): what the image's name stands for, an index perhaps; `Manifests` where asked for."""
    images = context.views.images
    index = images.main_index(state)
    shape: dict[str, Any] = {}
    target = state.indexes[index].index if index else state.manifest
    if target is not None and version >= (1, 48):
        shape["Descriptor"] = descriptor(target)
    if manifests and index:
        parts = {part.indexes[index].manifest.digest: _part(context, part) for part in images.of_index(index)}
        entries = await context.images.entries_of(index)
        shape["Manifests"] = [image_manifests.of_entry(entry, parts.get(entry["digest"])) for entry in entries]
    elif manifests:
        shape["Manifests"] = [image_manifests.of_image(_part(context, state))] if state.manifest is not None else []
    return shape


def _part(context: ApiContext, state: ImageState) -> image_manifests.Part:
    users = context.views.containers.using_image(state.image_id)
    return image_manifests.Part(state=state, containers=tuple(user.container_id for user in users))


def filtered(context: ApiContext, filters: Filters, *, every: bool) -> list[ImageState]:
    """IMG-08, newest first."""
    filters.validate(LIST_FILTERS)
    dangling = filters.boolean("dangling", default=False) if "dangling" in filters else None
    before = _limit(context, filters, "before")
    since = _limit(context, filters, "since")
    until = prune_until(filters, context.clock.now_ns())
    parents = {state.parent for state in context.views.images}
    found = [
        state
        for state in context.views.images
        if state.status is ImageStatus.READY
        and (before is None or state.created_at < before)
        and (since is None or state.created_at > since)
        and (until is None or state.created_at <= until)
        and prune_label_match(filters, state.labels)
        and ("reference" not in filters or _named(_narrowed(filters, state)))
        and (dangling is None or dangling == (not state.references and not context.views.images.is_part(state)))
        and (every or _named(state) or not (state.image_id in parents or context.views.images.is_part(state)))
    ]
    if "reference" in filters:
        found = [_narrowed(filters, state) for state in found]
    return sorted(found, key=lambda state: (state.created_at, state.added_at), reverse=True)


def _named(state: ImageState) -> bool:
    return bool(state.references or state.repository_digests)


def _limit(context: ApiContext, filters: Filters, key: str) -> int | None:
    """The creation of the image a filter names; of the last one, as in moby."""
    moments = [find(context, name).created_at for name in filters.get(key)]
    return moments[-1] if moments else None


def _narrowed(filters: Filters, state: ImageState) -> ImageState:
    """With those of its names alone that fit one of the patterns, as `name` or as `name:tag`; `*` stays within a
    component. Source: moby daemon/images/images.go."""
    expressions = [_glob(pattern) for pattern in filters.get("reference")]

    def fits(name: str) -> bool:
        reference = parse(name)
        return any(e.fullmatch(reference.familiar) or e.fullmatch(reference.familiar_name) for e in expressions)

    return replace(
        state,
        references=frozenset(filter(fits, state.references)),
        repository_digests=frozenset(filter(fits, state.repository_digests)),
    )


def _glob(pattern: str) -> Pattern:
    """Go's path.Match as a regular expression. Raises Rejected(INVALID) for one that does not compile."""
    translated = ""
    for part in re.findall(r"\\.|\[\^?[^\]]*\]|.", pattern):
        if part == "*":
            translated += "[^/]*"
        elif part == "?":
            translated += "[^/]"
        elif part.startswith("[") and len(part) > 1:
            translated += part
        else:
            translated += re.escape(part[-1])
    try:
        return compiled(translated)
    except ValueError as error:
        raise Rejected(Reason.INVALID, "syntax error in pattern") from error
