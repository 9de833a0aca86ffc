"""HTTP as registries need it: one client per host and trust, redirects that keep secrets home, bounded bodies.

Owns connections. Redirects are followed here, not by httpx, because a registry sends blobs' readers to storage hosts,
who must not see its Authorization; and because only reads are followed at all.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

import httpx

from engine.drivers.registry.policy import RegistryPolicy, is_insecure, tls_context, trust_state
from engine.errors import Fault, PortError

ERROR_BYTES_MAX = 64 << 10
_REDIRECTS_MAX = 10
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
SILENCE_S = 60.0
"""A read that brings nothing for so long counts as broken and is tried again (moby waits for ever)."""
_CONNECT_S = 30.0


class _Client(NamedTuple):
    client: httpx.AsyncClient
    trust: tuple[tuple[str, int], ...]


class Transport:
    """Sends requests. Close it with `aclose`."""

    def __init__(self, policy: RegistryPolicy, silence_s: float = SILENCE_S) -> None:
        self.policy = policy
        self._timeout = httpx.Timeout(connect=_CONNECT_S, read=silence_s, write=silence_s, pool=None)
        self._clients: dict[tuple[str, bool], _Client] = {}
        self._retired: list[httpx.AsyncClient] = []
        """Of another trust than now; requests of theirs may be under way."""

    async def aclose(self) -> None:
        clients, self._clients = self._clients, {}
        retired, self._retired = self._retired, []
        for client in (*(each.client for each in clients.values()), *retired):
            await client.aclose()

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        content: AsyncIterator[bytes] | bytes | None = None,
        data: Mapping[str, str] | None = None,
        verify: bool = True,
    ) -> AsyncIterator[httpx.Response]:
        """One request; the answer with its body unread. Raises httpx.HTTPError, PortError for endless redirects."""
        target = url_of(url)
        sent = dict(headers)
        for _ in range(_REDIRECTS_MAX):
            client = self._client(_host(target), verify=verify and not is_insecure(self.policy, _host(target)))
            async with client.stream(method, target, headers=sent, content=content, data=data) as response:
                place = response.headers.get("location")
                if response.status_code not in _REDIRECTS or not place or method not in ("GET", "HEAD"):
                    yield response
                    return
                following = url_of(place, target)
            if (following.scheme, _host(following)) != (target.scheme, _host(target)):
                sent.pop("Authorization", None)
            if target.scheme == "https" and following.scheme == "http" and verify:
                raise PortError(
                    "registry",
                    f"refusing a redirect from https to {following.host} in the clear",
                    fault=Fault.FORBIDDEN,
                )
            target = following
        raise PortError("registry", f"stopped after {_REDIRECTS_MAX} redirects")

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        data: Mapping[str, str] | None = None,
        content: bytes | None = None,
        limit: int = ERROR_BYTES_MAX,
        verify: bool = True,
    ) -> tuple[httpx.Response, bytes]:
        """One request with a small answer: the answer and its whole body, at most `limit` bytes."""
        async with self.stream(method, url, headers=headers, data=data, content=content, verify=verify) as response:
            return response, await bounded(response, limit)

    def _client(self, host: str, *, verify: bool) -> httpx.AsyncClient:
        trust = trust_state(self.policy, host)
        known = self._clients.get((host, verify))
        if known is not None and known.trust == trust:
            return known.client
        client = httpx.AsyncClient(
            verify=tls_context(self.policy, host, verify=verify),
            timeout=self._timeout,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=4, keepalive_expiry=30.0),
            headers={"User-Agent": self.policy.user_agent, "Accept-Encoding": "identity"},
            follow_redirects=False,
        )
        if known is not None:
            self._retired.append(known.client)
        self._clients[host, verify] = _Client(client, trust)
        return client


def url_of(text: str, base: httpx.URL | None = None) -> httpx.URL:
    """A URL as a user or a registry gives it. Raises PortError(INVALID)."""
    try:
        return httpx.URL(text) if base is None else base.join(text)
    except httpx.InvalidURL as error:
        raise PortError("registry", f"unable to parse server address: {error}", fault=Fault.INVALID) from error


async def bounded(response: httpx.Response, limit: int) -> bytes:
    """The body. Raises PortError(INVALID) when it is longer than `limit` bytes."""
    parts: list[bytes] = []
    length = 0
    async for part in response.aiter_raw():
        parts.append(part)
        length += len(part)
        if length > limit:
            raise PortError("registry", f"the registry's answer is longer than {limit} bytes", fault=Fault.INVALID)
    return b"".join(parts)


def _host(url: httpx.URL) -> str:
    return url.netloc.decode()
