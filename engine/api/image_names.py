"""The names that requests give of images: two parameters that make one reference, by the verb's own rules."""

from __future__ import annotations

from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.values.ids import SHA256_DIGEST
from engine.aggregates.values.reference import TAG, Reference, parse


def pull_reference(image: str, tag: str) -> tuple[Reference, bool]:
    """(reference, all tags): `tag` may be a digest; without any tag, all of them are meant (the CLI always sends one,
    and `-a` sends none). Raises Rejected(INVALID)."""
    reference = parse(image.removesuffix(":"))
    if tag:
        fields = {"domain": reference.domain, "path": reference.path}
        if SHA256_DIGEST.fullmatch(tag):
            return Reference(**fields, digest=tag), False
        if not TAG.fullmatch(tag):
            raise Rejected(Reason.INVALID, "invalid tag format")
        return Reference(**fields, tag=tag), False
    if reference.digest:
        return Reference(domain=reference.domain, path=reference.path, digest=reference.digest), False
    return reference, not reference.tag


def push_reference(image: str, tag: str) -> Reference:
    """Without any tag, all of the repository's are meant. Raises Rejected(INVALID)."""
    reference = parse(image)
    if not tag:
        return reference
    if not TAG.fullmatch(tag):
        raise Rejected(Reason.INVALID, "invalid tag format")
    return Reference(domain=reference.domain, path=reference.path, tag=tag)


def tag_reference(repository: str, tag: str) -> Reference | None:
    """A name to give; None without a repository. Raises Rejected(INVALID)."""
    if not repository:
        return None
    reference = parse(repository)
    if reference.digest:
        raise Rejected(Reason.INVALID, "cannot import digest reference")
    if tag:
        if not TAG.fullmatch(tag):
            raise Rejected(Reason.INVALID, "invalid tag format")
        return Reference(domain=reference.domain, path=reference.path, tag=tag)
    return reference.with_default_tag()
