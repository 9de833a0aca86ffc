"""Port: an OCI distribution registry."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from engine.aggregates.values.ids import Digest
from engine.aggregates.values.reference import Reference
from engine.drivers.ports.storage import Descriptor


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks, of one request; never stored, never printed. meta: headers that the client wants the registry to get
    (`X-Meta-...`)."""

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""
    meta: Mapping[str, str] = {}

    @property
    def secret(self) -> Credentials | None:
        """Itself, when there is anything in it that proves who asks."""
        return self if self.username or self.password or self.identity_token or self.registry_token else None

    def __repr__(self) -> str:
        return "Credentials(***)"


class RemoteManifest(msgspec.Struct, frozen=True, kw_only=True):
    descriptor: Descriptor
    body: bytes


class SearchResult(msgspec.Struct, frozen=True, kw_only=True):
    """A repository that a search has found. is_automated: what the registry says; there are none any more."""

    name: str = ""
    description: str = ""
    star_count: int = 0
    is_official: bool = False
    is_automated: bool = False


class WebContent(msgspec.Struct, frozen=True, kw_only=True):
    """What a URL has. size: bytes, 0 where the server does not say."""

    size: int
    chunks: AsyncIterator[bytes]


class Registry(Protocol):
    """Reading from and writing to a registry; mirrors, token and basic auth, TLS policy are the driver's own."""

    async def manifest(
        self, reference: Reference, credentials: Credentials | None, *, to_pull: bool = True
    ) -> RemoteManifest:
        """The manifest or index a tag or digest names, its digest verified. to_pull: refusals have Docker's words for
        who pulls (a repository that is denied is not found); else the registry's own. Raises PortError NOT_FOUND,
        UNAUTHORIZED, FORBIDDEN, UNAVAILABLE (registry down)."""
        ...

    def blob(
        self, reference: Reference, digest: Digest, credentials: Credentials | None, offset: int = 0
    ) -> AsyncIterator[bytes]:
        """Stream a blob, from `offset` where the server allows ranges. Not verified here."""
        ...

    async def tags(self, reference: Reference, credentials: Credentials | None) -> tuple[str, ...]: ...

    async def has_blob(self, reference: Reference, descriptor: Descriptor, credentials: Credentials | None) -> bool:
        """Whether the repository has the blob already."""
        ...

    async def mount_blob(
        self, reference: Reference, descriptor: Descriptor, source_path: str, credentials: Credentials | None
    ) -> bool:
        """Have the registry take a blob from another of its repositories (`library/alpine`). False when it does not,
        and the blob must be pushed."""
        ...

    async def push_blob(
        self,
        reference: Reference,
        descriptor: Descriptor,
        source: Callable[[int], AsyncIterator[bytes]],
        credentials: Credentials | None,
    ) -> None:
        """Upload a blob of exactly `descriptor.size` bytes. source: makes the stream from an offset on, again for each
        try; progress is what it has handed out. Raises PortError, FORBIDDEN and UNAUTHORIZED among them."""
        ...

    async def push_manifest(
        self, reference: Reference, descriptor: Descriptor, body: bytes, credentials: Credentials | None
    ) -> None:
        """Put a manifest under the reference's tag, or under its digest where there is no tag. Its blobs are there."""
        ...

    async def search(
        self, domain: str, term: str, limit: int, credentials: Credentials | None
    ) -> tuple[SearchResult, ...]:
        """Repositories of a registry that fit a term, as the registry ranks them. Raises PortError, INVALID for a
        registry that cannot be reached."""
        ...

    def download(self, url: str) -> AbstractAsyncContextManager[WebContent]:
        """What is at a URL, which need be no registry's; read within the block. Raises PortError, before it or while it
        is read."""
        ...

    async def login(self, server: str, credentials: Credentials) -> str:
        """Check credentials; an identity token or "". Raises PortError UNAUTHORIZED."""
        ...
