"""Port Registry: reading from an OCI distribution registry.

Owns the walk over endpoints (mirrors, https, plain http where allowed), authentication by challenge, retries, and the
resuming of broken blobs. Refuses to know: what is done with manifests and blobs; it verifies a manifest's digest, the
blob store verifies blobs'. Source: OCI distribution-spec v1.1.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack
from typing import TypeVar

import httpx
import msgspec
import trio

from engine.aggregates.values.descriptor import INDEXES, MANIFESTS, SCHEMA1, Descriptor
from engine.aggregates.values.ids import Digest
from engine.aggregates.values.manifest import MANIFEST_BYTES_MAX
from engine.aggregates.values.reference import DEFAULT_DOMAIN, Reference
from engine.drivers.ports.registry import Credentials, RemoteManifest
from engine.drivers.registry.auth import Challenge, Tokens, challenges
from engine.drivers.registry.errors import is_tls_failure, refusal, unreachable
from engine.drivers.registry.http import ERROR_BYTES_MAX, Transport, bounded
from engine.drivers.registry.policy import HUB_LOGIN_SERVERS, Endpoint, RegistryPolicy, endpoints, is_insecure
from engine.errors import Fault, PortError

ATTEMPTS = 5
BACKOFF_S = (0.2, 0.5, 1.0, 2.0)
_ACCEPT = ", ".join([*sorted(MANIFESTS | INDEXES), *sorted(SCHEMA1)])
_TAGS_BYTES_MAX = 16 << 20
_TAG_PAGES_MAX = 1000

T = TypeVar("T")


class RegistryClient:
    """See engine/drivers/ports/registry.py, Registry. Use `async with`, or `aclose`."""

    def __init__(self, policy: RegistryPolicy) -> None:
        self._policy = policy
        self._transport = Transport(policy)
        self._tokens = Tokens(self._transport.send, self._may_send_credentials)
        self._challenges: dict[str, tuple[Challenge, ...]] = {}
        self._working: dict[str, Endpoint] = {}

    async def __aenter__(self) -> RegistryClient:
        return self

    async def __aexit__(self, *unused: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._transport.aclose()

    async def manifest(self, reference: Reference, credentials: Credentials | None) -> RemoteManifest:
        wanted = reference.digest or reference.tag or "latest"
        headers = {"Accept": _ACCEPT}
        path = f"/v2/{reference.path}/manifests/{wanted}"
        response, body = await self._read(reference, path, headers, credentials, MANIFEST_BYTES_MAX, "pull manifest")
        digest = Digest("sha256:" + hashlib.sha256(body).hexdigest())
        promised = reference.digest or response.headers.get("docker-content-digest", "")
        if (promised.startswith("sha256:") and promised != digest) or (reference.digest and promised != digest):
            raise PortError("pull manifest", f"manifest verification failed for digest {promised}", fault=Fault.INVALID)
        media_type = response.headers.get("content-type", "").partition(";")[0].strip()
        return RemoteManifest(descriptor=Descriptor(media_type=media_type, digest=digest, size=len(body)), body=body)

    async def blob(
        self, reference: Reference, digest: Digest, credentials: Credentials | None, offset: int = 0
    ) -> AsyncGenerator[bytes, None]:
        """A connection that breaks is made again from the byte it broke at; the reader notices nothing. Five breaks
        without a byte in between are given up."""
        path = f"/v2/{reference.path}/blobs/{digest}"
        failures = 0
        while True:
            received = 0
            try:
                async with AsyncExitStack() as stack:
                    headers = {"Range": f"bytes={offset}-"} if offset else {}
                    response = await self._open(stack, reference, path, headers, credentials, "pull blob")
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
                    raise self._translated(error, reference, "pull blob") from error
            await trio.sleep(BACKOFF_S[failures - 1])

    async def tags(self, reference: Reference, credentials: Credentials | None) -> tuple[str, ...]:
        found: list[str] = []
        path = f"/v2/{reference.path}/tags/list"
        for _ in range(_TAG_PAGES_MAX):
            response, body = await self._read(reference, path, {}, credentials, _TAGS_BYTES_MAX, "list tags")
            try:
                found += msgspec.convert(msgspec.json.decode(body).get("tags") or [], type=list[str])
            except (msgspec.MsgspecError, AttributeError) as error:
                raise PortError("list tags", f"the registry's list of tags makes no sense: {error}") from error
            following = response.links.get("next", {}).get("url")
            if not following:
                break
            target = httpx.URL("http://registry" + path).join(following)
            path = target.raw_path.decode()  # the path alone: a list is not continued on another host.
        return tuple(found)

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
        response, _ = await self._transport.send("GET", url, headers={}, verify=endpoint.verify)
        offered = challenges(response)
        bearer = next((challenge for challenge in offered if challenge.scheme == "bearer"), None)
        identity = ""
        if bearer is not None and not credentials.registry_token:
            identity = await self._tokens.identity_token(bearer, credentials)
        authorization = await self._tokens.authorization(offered, "", credentials, url)
        if authorization is not None:
            headers = {"Authorization": authorization}
            response, _ = await self._transport.send("GET", url, headers=headers, verify=endpoint.verify)
        if response.status_code != 200:
            words = f"login attempt to {url} failed with status: {response.status_code} {response.reason_phrase}"
            fault = Fault.UNAUTHORIZED if response.status_code in (401, 403) else Fault.SYSTEM
            raise PortError("login", words, fault=fault)
        return identity

    # --- one request --------------------------------------------------------------------------------------------------

    async def _read(
        self,
        reference: Reference,
        path: str,
        headers: Mapping[str, str],
        credentials: Credentials | None,
        limit: int,
        operation: str,
    ) -> tuple[httpx.Response, bytes]:
        """A small answer whole, with retries. A connection that was never made is not tried again: the user waits."""
        for attempt in range(ATTEMPTS):
            try:
                async with AsyncExitStack() as stack:
                    response = await self._open(stack, reference, path, headers, credentials, operation)
                    return response, await bounded(response, limit)
            except (httpx.TransportError, PortError) as error:
                final = attempt == ATTEMPTS - 1 or isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                if final or (isinstance(error, PortError) and not error.retriable):
                    raise self._translated(error, reference, operation) from error
            await trio.sleep(BACKOFF_S[attempt])
        raise AssertionError("the last attempt returns or raises")

    async def _open(
        self,
        stack: AsyncExitStack,
        reference: Reference,
        path: str,
        headers: Mapping[str, str],
        credentials: Credentials | None,
        operation: str,
    ) -> httpx.Response:
        """The answer of the first endpoint that has the thing, body unread. Raises PortError, httpx.TransportError of
        the last endpoint that could not be reached."""
        trouble: PortError | httpx.TransportError | None = None
        for endpoint in self._candidates(reference.domain):
            try:
                response = await self._ask(stack, endpoint, reference, path, headers, credentials, operation)
            except (httpx.TransportError, PortError) as error:
                # What the registry itself said outweighs that its other door is closed; of two closed doors the last
                # is named, as moby does, unless it is only the plain-text twin of one with a bad certificate.
                if trouble is None or not isinstance(trouble, PortError):
                    trouble = error
                if isinstance(error, PortError) and not endpoint.mirror:
                    break
                continue
            if not endpoint.mirror:
                self._working[reference.domain] = endpoint
            return response
        assert trouble is not None
        raise trouble

    def _candidates(self, domain: str) -> tuple[Endpoint, ...]:
        """Endpoints in order; where https and http are both allowed, the one that worked last comes first."""
        found = endpoints(self._policy, domain)
        working = self._working.get(domain)
        if working is None or working not in found:
            return found
        mirrors = tuple(endpoint for endpoint in found if endpoint.mirror)
        return (*mirrors, working, *(one for one in found if not one.mirror and one != working))

    async def _ask(
        self,
        stack: AsyncExitStack,
        endpoint: Endpoint,
        reference: Reference,
        path: str,
        headers: Mapping[str, str],
        credentials: Credentials | None,
        operation: str,
    ) -> httpx.Response:
        """One endpoint: ask, answer its challenge once, ask again."""
        url = endpoint.base + path
        own = None if endpoint.mirror else credentials  # the registry's password is not its mirror's business.
        scope = f"repository:{reference.path}:pull"
        offered = self._challenges.get(endpoint.base, ())
        for final in (False, True):
            authorization = await self._tokens.authorization(offered, scope, own, url) if offered else None
            sent = {**headers, "Authorization": authorization} if authorization else dict(headers)
            request = self._transport.stream("GET", url, headers=sent, verify=endpoint.verify)
            response = await stack.enter_async_context(request)
            if response.is_success:
                return response
            body = await bounded(response, ERROR_BYTES_MAX)
            if response.status_code != 401 or final:
                break
            if offered:
                self._tokens.forget()
            offered = self._challenges[endpoint.base] = challenges(response)
            if not offered:
                break
        raise refusal(response, body, reference, operation)

    def _translated(self, error: httpx.TransportError | PortError, reference: Reference, operation: str) -> PortError:
        if isinstance(error, PortError):
            return error
        base = next((one.base for one in self._candidates(reference.domain)[-1:]), "")
        if is_tls_failure(error):
            base = f"https://{base.rpartition('://')[2]}"
        return unreachable(error, f"{base}/v2/", operation)

    def _may_send_credentials(self, realm: httpx.URL) -> bool:
        return realm.scheme == "https" or is_insecure(self._policy, realm.netloc.decode())
