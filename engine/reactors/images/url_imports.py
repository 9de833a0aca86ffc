"""The body of a URL on its way into an image (`docker import http://...`), told as it comes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from engine.drivers.ports.registry import Registry, WebContent
from engine.drivers.ports.storage import Progress
from engine.reactors.images import messages
from engine.reactors.images.layers import Emit, progress_of


@asynccontextmanager
async def fetched(registry: Registry, url: str, emit: Emit) -> AsyncIterator[AsyncIterator[bytes]]:
    """The body, once the server has answered: a refusal comes before the first message. Raises PortError."""
    async with registry.download(url) as content:
        await emit(messages.status(f"Downloading from {url}"))
        async with progress_of("", "Importing", emit) as progress:
            yield _counted(content, progress)


async def _counted(content: WebContent, progress: Progress) -> AsyncGenerator[bytes, None]:
    done = 0
    async for chunk in content.chunks:
        yield chunk
        done += len(chunk)
        progress(done, content.size)
