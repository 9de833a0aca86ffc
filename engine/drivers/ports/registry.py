"""Port: an OCI distribution registry."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

import msgspec

from engine.aggregates.values.ids import Digest
from engine.aggregates.values.reference import Reference
from engine.drivers.ports.storage import Descriptor


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """Of one request; never stored, never printed."""

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""

    def __repr__(self) -> str:
        return "Credentials(***)"


class RemoteManifest(msgspec.Struct, frozen=True, kw_only=True):
    descriptor: Descriptor
    body: bytes


class Registry(Protocol):
    """Reading from and writing to a registry; mirrors, token and basic auth, TLS policy are the driver's own."""

    async def manifest(self, reference: Reference, credentials: Credentials | None) -> RemoteManifest:
        """The manifest or index a tag or digest names, its digest verified. Raises PortError NOT_FOUND, UNAUTHORIZED,
        FORBIDDEN, UNAVAILABLE (registry down)."""
        ...

    def blob(
        self, reference: Reference, digest: Digest, credentials: Credentials | None, offset: int = 0
    ) -> AsyncIterator[bytes]:
        """Stream a blob, from `offset` where the server allows ranges. Not verified here."""
        ...

    async def tags(self, reference: Reference, credentials: Credentials | None) -> tuple[str, ...]: ...

    async def login(self, server: str, credentials: Credentials) -> str:
        """Check credentials; an identity token or "". Raises PortError UNAUTHORIZED."""
        ...
