"""Reading a URL that a user gives (`docker import http://...`): no registry's protocol, the same connections.

Owns the refusals' words. Source: moby daemon/builder/remotecontext/remote.go GetWithStatusError.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import httpx

from engine.drivers.ports.registry import WebContent
from engine.drivers.registry.errors import unreachable
from engine.drivers.registry.http import ERROR_BYTES_MAX, Transport, bounded, url_of
from engine.errors import Fault, PortError

_FAULTS = {400: Fault.INVALID, 401: Fault.UNAUTHORIZED, 403: Fault.FORBIDDEN, 404: Fault.NOT_FOUND}


@asynccontextmanager
async def download(transport: Transport, url: str) -> AsyncIterator[WebContent]:
    """See engine/drivers/ports/registry.py, Registry.download."""
    target = url_of(url)
    if target.scheme not in ("http", "https"):
        raise PortError("download", f'Get "{url}": unsupported protocol scheme "{target.scheme}"')
    if not target.host:
        raise PortError("download", f'Get "{url}": http: no Host in request URL')
    try:
        async with transport.stream("GET", url, headers={}) as response:
            if response.status_code >= 400:
                raise await _refusal(response, url)
            yield WebContent(size=int(response.headers.get("content-length", 0)), chunks=_chunks(response, url))
    except httpx.TransportError as error:
        raise unreachable(error, url, "download") from error


async def _chunks(response: httpx.Response, url: str) -> AsyncGenerator[bytes, None]:
    try:
        async for part in response.aiter_raw():
            yield part
    except httpx.TransportError as error:
        raise unreachable(error, url, "download") from error


async def _refusal(response: httpx.Response, url: str) -> PortError:
    said = (await bounded(response, ERROR_BYTES_MAX)).decode(errors="replace").strip()
    words = f"failed to GET {url} with status {response.status_code} {response.reason_phrase}: {said}"
    return PortError("download", words, fault=_FAULTS.get(response.status_code, Fault.SYSTEM))
