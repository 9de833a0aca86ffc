"""Image references as Docker reads and shows them: `docker.io/library/alpine:3.20` is `alpine:3.20` to people.

Owns parsing, normalising and the familiar form. Source: distribution/reference (grammar and normalisation rules).
"""

from __future__ import annotations

import re

import msgspec

from engine.aggregates.decider import Reason, Rejected

DEFAULT_DOMAIN = "docker.io"
LEGACY_DEFAULT_DOMAIN = "index.docker.io"
OFFICIAL_REPOSITORY_PREFIX = "library/"
DEFAULT_TAG = "latest"
NAME_LENGTH_MAX = 255

_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_DOMAIN = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|[-]+)[a-z0-9]+)*"
_PATH = rf"{_COMPONENT}(?:/{_COMPONENT})*"
_TAG = r"[\w][\w.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"
_REFERENCE = re.compile(rf"(?P<name>[^@]+?)(?::(?P<tag>{_TAG}))?(?:@(?P<digest>{_DIGEST}))?", re.ASCII)
_DOMAIN_ONLY = re.compile(_DOMAIN, re.ASCII)
_PATH_ONLY = re.compile(_PATH, re.ASCII)
TAG = re.compile(_TAG, re.ASCII)
_HEX64 = re.compile(r"[a-f0-9]{64}")


class Reference(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """A normalised reference. domain: `docker.io`, `127.0.0.1:5000`; path: `library/alpine`; tag and digest may be
    ""."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def repository(self) -> str:
        """`docker.io/library/alpine`."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """`alpine`, `user/app`, `127.0.0.1:5000/a/b`."""
        if self.domain != DEFAULT_DOMAIN:
            return self.repository
        head, _, rest = self.path.partition("/")
        return rest if head == "library" and rest and "/" not in rest else self.path

    @property
    def familiar(self) -> str:
        """What people see: `alpine:3.20`, `alpine@sha256:...`."""
        text = self.familiar_name
        if self.tag:
            text += f":{self.tag}"
        if self.digest:
            text += f"@{self.digest}"
        return text

    def __str__(self) -> str:
        text = self.repository
        if self.tag:
            text += f":{self.tag}"
        if self.digest:
            text += f"@{self.digest}"
        return text

    def with_default_tag(self) -> Reference:
        """`:latest` where neither a tag nor a digest is given."""
        return self if self.tag or self.digest else msgspec.structs.replace(self, tag=DEFAULT_TAG)


def parse(text: str) -> Reference:
    """Parse and normalise what a user typed. Raises Rejected(INVALID) `invalid reference format`."""
    if _HEX64.fullmatch(text):
        raise Rejected(
            Reason.INVALID,
            f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings",
        )
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise Rejected(Reason.INVALID, "invalid reference format")
    domain, path = _split_domain(match["name"])
    if path.lower() != path:
        raise Rejected(Reason.INVALID, f"invalid reference format: repository name ({path}) must be lowercase")
    if not _DOMAIN_ONLY.fullmatch(domain) or not _PATH_ONLY.fullmatch(path):
        raise Rejected(Reason.INVALID, "invalid reference format")
    if len(domain) + 1 + len(path) > NAME_LENGTH_MAX:
        raise Rejected(Reason.INVALID, f"repository name must not be more than {NAME_LENGTH_MAX} characters")
    return Reference(domain=domain, path=path, tag=match["tag"] or "", digest=match["digest"] or "")


def _split_domain(name: str) -> tuple[str, str]:
    """The registry and the path: the first component is a registry when it has a dot, a colon, capitals or is
    localhost."""
    head, slash, rest = name.partition("/")
    is_domain = slash and ("." in head or ":" in head or head == "localhost" or head.lower() != head)
    domain, path = (head, rest) if is_domain else (DEFAULT_DOMAIN, name)
    if domain == LEGACY_DEFAULT_DOMAIN:
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = OFFICIAL_REPOSITORY_PREFIX + path
    return domain, path
