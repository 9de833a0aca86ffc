"""A registry client that is loaded when a registry is first asked for something.

An HTTP client and what it imports are a tenth of the engine's start and several megabytes, and most engines are
restarted far more often than they pull. Owns nothing but that moment; what a verb means is the port's.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

import trio

from engine.aggregates.values.descriptor import Descriptor
from engine.aggregates.values.ids import Digest
from engine.aggregates.values.reference import Reference
from engine.drivers.ports.registry import Credentials, RemoteManifest, SearchResult, WebContent
from engine.drivers.registry.policy import RegistryPolicy

if TYPE_CHECKING:
    from engine.drivers.registry.client import RegistryClient

_CLIENT = "engine.drivers.registry.client"


class LateRegistry:
    """See engine/drivers/ports/registry.py, Registry."""

    def __init__(self, policy: RegistryPolicy) -> None:
        self._policy = policy
        self._client: RegistryClient | None = None

    def configure(self, policy: RegistryPolicy) -> None:
        """Another policy, from the next request on."""
        self._policy = policy
        if self._client is not None:
            self._client.configure(policy)

    async def _loaded(self) -> RegistryClient:
        """The client; loaded in a thread, for the loop has containers to look after."""
        if self._client is None:
            await trio.to_thread.run_sync(importlib.import_module, _CLIENT)
        if self._client is None:  # nobody else was quicker.
            from engine.drivers.registry.client import RegistryClient

            self._client = RegistryClient(self._policy)
        return self._client

    async def manifest(
        self, reference: Reference, credentials: Credentials | None, *, to_pull: bool = True
    ) -> RemoteManifest:
        return await (await self._loaded()).manifest(reference, credentials, to_pull=to_pull)

    async def blob(
        self, reference: Reference, digest: Digest, credentials: Credentials | None, offset: int = 0
    ) -> AsyncGenerator[bytes, None]:
        async with aclosing((await self._loaded()).blob(reference, digest, credentials, offset)) as parts:
            async for part in parts:
                yield part

    async def tags(self, reference: Reference, credentials: Credentials | None) -> tuple[str, ...]:
        return await (await self._loaded()).tags(reference, credentials)

    async def has_blob(self, reference: Reference, descriptor: Descriptor, credentials: Credentials | None) -> bool:
        return await (await self._loaded()).has_blob(reference, descriptor, credentials)

    async def mount_blob(
        self, reference: Reference, descriptor: Descriptor, source_path: str, credentials: Credentials | None
    ) -> bool:
        return await (await self._loaded()).mount_blob(reference, descriptor, source_path, credentials)

    async def push_blob(
        self,
        reference: Reference,
        descriptor: Descriptor,
        source: Callable[[int], AsyncIterator[bytes]],
        credentials: Credentials | None,
    ) -> None:
        await (await self._loaded()).push_blob(reference, descriptor, source, credentials)

    async def push_manifest(
        self, reference: Reference, descriptor: Descriptor, body: bytes, credentials: Credentials | None
    ) -> None:
        await (await self._loaded()).push_manifest(reference, descriptor, body, credentials)

    async def search(
        self, domain: str, term: str, limit: int, credentials: Credentials | None
    ) -> tuple[SearchResult, ...]:
        return await (await self._loaded()).search(domain, term, limit, credentials)

    @asynccontextmanager
    async def download(self, url: str) -> AsyncIterator[WebContent]:
        async with (await self._loaded()).download(url) as content:
            yield content

    async def login(self, server: str, credentials: Credentials) -> str:
        return await (await self._loaded()).login(server, credentials)
