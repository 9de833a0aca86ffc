"""Port Registry: an OCI distribution registry.

Owns reading: manifests with their digests verified, blobs resumed where they broke, tags, login. Writing is
uploads.py's, searching searching.py's, what they share door.py's. Refuses to know: what is done with manifests and
blobs; the blob store verifies blobs. Source: OCI distribution-spec v1.1.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack

import httpx
import msgspec
import trio

from engine.aggregates.values.descriptor import INDEXES, MANIFESTS, SCHEMA1, Descriptor, descriptor_of
from engine.aggregates.values.ids import Digest
from engine.aggregates.values.manifest import MANIFEST_BYTES_MAX
from engine.aggregates.values.reference import DEFAULT_DOMAIN, Reference
from engine.drivers.ports.registry import Credentials, RemoteManifest, SearchResult, WebContent
from engine.drivers.registry.auth import challenges
from engine.drivers.registry.door import Ask, Door
from engine.drivers.registry.downloads import download
from engine.drivers.registry.errors import UNREADABLE, is_tls_failure, unreachable
from engine.drivers.registry.http import SILENCE_S, bounded, url_of
from engine.drivers.registry.policy import HUB_LOGIN_SERVERS, Endpoint, RegistryPolicy, endpoints
from engine.drivers.registry.searching import search
from engine.drivers.registry.uploads import Uploads
from engine.errors import Fault, PortError

ATTEMPTS = 5
BACKOFF_S = (0.2, 0.5, 1.0, 2.0)
_ACCEPT = ", ".join([*sorted(MANIFESTS | INDEXES), *sorted(SCHEMA1)])
_TAGS_BYTES_MAX = 16 << 20
_TAG_PAGES_MAX = 1000


class RegistryClient:
    """See engine/drivers/ports/registry.py, Registry. Use `async with`, or `aclose`."""

    def __init__(
        self, policy: RegistryPolicy, *, backoff_s: tuple[float, ...] = BACKOFF_S, silence_s: float = SILENCE_S
    ) -> None:
        self._policy = policy
        self._backoff_s = backoff_s
        self._door = Door(policy, silence_s)
        self._uploads = Uploads(self._door, ATTEMPTS, backoff_s)

    async def __aenter__(self) -> RegistryClient:
        return self

    async def __aexit__(self, *unused: object) -> None:
        await self.aclose()

    def configure(self, policy: RegistryPolicy) -> None:
        """Another policy, from the next request on."""
        self._policy = policy
        self._door.configure(policy)

    async def aclose(self) -> None:
        await self._door.aclose()

    async def manifest(
        self, reference: Reference, credentials: Credentials | None, *, to_pull: bool = True
    ) -> RemoteManifest:
        wanted = reference.digest or reference.tag or "latest"
        ask = Ask(
            reference=reference,
            path=f"/v2/{reference.path}/manifests/{wanted}",
            operation="pull manifest",
            credentials=credentials,
            headers={"Accept": _ACCEPT},
            to_pull=to_pull,
        )
        response, body = await self._read(ask, MANIFEST_BYTES_MAX)
        media_type = response.headers.get("content-type", "").partition(";")[0].strip()
        found = descriptor_of(body, media_type)
        promised = reference.digest or response.headers.get("docker-content-digest", "")
        if (promised.startswith("sha256:") and promised != found.digest) or (
            reference.digest and promised != found.digest
        ):
            raise PortError("pull manifest", f"manifest verification failed for digest {promised}", fault=Fault.INVALID)
        return RemoteManifest(descriptor=found, body=body)

    async def blob(
        self, reference: Reference, digest: Digest, credentials: Credentials | None, offset: int = 0
    ) -> AsyncGenerator[bytes, None]:
        """A connection that breaks is made again from the byte it broke at; the reader notices nothing. Five breaks
        without a byte in between are given up."""
        path = f"/v2/{reference.path}/blobs/{digest}"
        ask = Ask(reference=reference, path=path, operation="pull blob", credentials=credentials)
        failures = 0
        while True:
            received = 0
            try:
                async with AsyncExitStack() as stack:
                    headers = {"Range": f"bytes={offset}-"} if offset else {}
                    response = await self._door.open(stack, msgspec.structs.replace(ask, headers=headers))
                    skip = offset if response.status_code == 200 else 0  # the server knows no ranges.
                    async for part in response.aiter_raw():
                        fresh = part[skip:] if skip else part
                        skip -= min(skip, len(part))
                        if fresh:
                            offset += len(fresh)
                            received += len(fresh)
                            yield fresh
                    return
            except (httpx.TransportError, PortError) as error:
                failures = 1 if received else failures + 1
                if failures >= ATTEMPTS or (isinstance(error, PortError) and not error.retriable):
                    raise self._door.translated(error, ask) from error
            await trio.sleep(self._backoff_s[failures - 1])

    async def tags(self, reference: Reference, credentials: Credentials | None) -> tuple[str, ...]:
        found: list[str] = []
        path = f"/v2/{reference.path}/tags/list"
        for _ in range(_TAG_PAGES_MAX):
            ask = Ask(reference=reference, path=path, operation="list tags", credentials=credentials)
            response, body = await self._read(ask, _TAGS_BYTES_MAX)
            try:
                found += msgspec.convert(msgspec.json.decode(body).get("tags") or [], type=list[str])
            except (*UNREADABLE, AttributeError) as error:
                raise PortError("list tags", f"the registry's list of tags makes no sense: {error}") from error
            following = response.links.get("next", {}).get("url")
            if not following:
                break
            target = url_of(following, httpx.URL("http://registry" + path))
            path = target.raw_path.decode()  # the path alone: a list is not continued on another host.
        return tuple(found)

    async def search(
        self, domain: str, term: str, limit: int, credentials: Credentials | None
    ) -> tuple[SearchResult, ...]:
        return await search(self._door, domain, term, limit, credentials)

    def download(self, url: str) -> AbstractAsyncContextManager[WebContent]:
        return download(self._door.transport, url)

    async def login(self, server: str, credentials: Credentials) -> str:
        host = server.rpartition("://")[2].partition("/")[0]
        domain = DEFAULT_DOMAIN if host in HUB_LOGIN_SERVERS else host
        trouble: PortError | None = None
        for endpoint in endpoints(self._policy, domain):
            if endpoint.mirror:
                continue
            try:
                return await self._login(endpoint, credentials)
            except httpx.TransportError as error:
                trouble = trouble or unreachable(error, f"{endpoint.base}/v2/", "login")
                if not is_tls_failure(error):
                    trouble = unreachable(error, f"{endpoint.base}/v2/", "login")
        raise trouble or PortError("login", f"no endpoint for {server}")

    async def _login(self, endpoint: Endpoint, credentials: Credentials) -> str:
        url = f"{endpoint.base}/v2/"
        response, _ = await self._door.transport.send("GET", url, headers={}, verify=endpoint.verify)
        offered = challenges(response)
        bearer = next((challenge for challenge in offered if challenge.scheme == "bearer"), None)
        identity = ""
        if bearer is not None and not credentials.registry_token:
            identity = await self._door.tokens.identity_token(bearer, credentials)
        authorization = await self._door.tokens.authorization(offered, "", credentials, url)
        if authorization is not None:
            headers = {"Authorization": authorization}
            response, _ = await self._door.transport.send("GET", url, headers=headers, verify=endpoint.verify)
        if response.status_code != 200:
            words = f"login attempt to {url} failed with status: {response.status_code} {response.reason_phrase}"
            fault = Fault.UNAUTHORIZED if response.status_code in (401, 403) else Fault.SYSTEM
            raise PortError("login", words, fault=fault)
        return identity

    async def has_blob(self, reference: Reference, descriptor: Descriptor, credentials: Credentials | None) -> bool:
        return await self._uploads.has_blob(reference, descriptor, credentials)

    async def mount_blob(
        self, reference: Reference, descriptor: Descriptor, source_path: str, credentials: Credentials | None
    ) -> bool:
        return await self._uploads.mount_blob(reference, descriptor, source_path, credentials)

    async def push_blob(
        self,
        reference: Reference,
        descriptor: Descriptor,
        source: Callable[[int], AsyncIterator[bytes]],
        credentials: Credentials | None,
    ) -> None:
        await self._uploads.push_blob(reference, descriptor, source, credentials)

    async def push_manifest(
        self, reference: Reference, descriptor: Descriptor, body: bytes, credentials: Credentials | None
    ) -> None:
        await self._uploads.push_manifest(reference, descriptor, body, credentials)

    async def _read(self, ask: Ask, limit: int) -> tuple[httpx.Response, bytes]:
        """A small answer whole, with retries. A connection that was never made is not tried again: the user waits."""
        for attempt in range(ATTEMPTS):
            try:
                async with AsyncExitStack() as stack:
                    response = await self._door.open(stack, ask)
                    return response, await bounded(response, limit)
            except (httpx.TransportError, PortError) as error:
                final = attempt == ATTEMPTS - 1 or isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                if final or (isinstance(error, PortError) and not error.retriable):
                    raise self._door.translated(error, ask) from error
            await trio.sleep(self._backoff_s[attempt])
        raise AssertionError("the last attempt returns or raises")
