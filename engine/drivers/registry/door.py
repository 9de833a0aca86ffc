"""Asking one registry: endpoints in order, challenges answered, failures translated.

Owns what reading and writing share: which endpoint works, which challenge it gives, tokens, and the one place where
credentials meet a request.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing

import httpx
import msgspec

from engine.aggregates.values.reference import Reference
from engine.drivers.ports.registry import Credentials
from engine.drivers.registry.auth import Challenge, Tokens, challenges
from engine.drivers.registry.errors import is_tls_failure, refusal, unreachable
from engine.drivers.registry.http import ERROR_BYTES_MAX, SILENCE_S, Transport, bounded, url_of
from engine.drivers.registry.policy import Endpoint, RegistryPolicy, endpoints, is_insecure
from engine.errors import PortError

READ, WRITE = "pull", "pull,push"


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """One request of a repository. path: below the endpoint, or a whole URL. actions: of the token's scope. content:
    makes the body, anew for each try. also: scopes of other repositories (a mount reads there). to_pull: whether
    refusals are told in the words for those who pull."""

    reference: Reference
    path: str
    operation: str
    credentials: Credentials | None
    method: str = "GET"
    headers: Mapping[str, str] = {}
    actions: str = READ
    content: Callable[[], AsyncIterator[bytes]] | bytes | None = None
    also: tuple[str, ...] = ()
    to_pull: bool = True
    expected: frozenset[int] = frozenset({200, 201, 202, 206})


class Door:
    """See the module. Close with `aclose`."""

    def __init__(self, policy: RegistryPolicy, silence_s: float = SILENCE_S) -> None:
        self.policy = policy
        self.transport = Transport(policy, silence_s)
        self.tokens = Tokens(self.transport.send, self._may_send_credentials)
        self._challenges: dict[str, tuple[Challenge, ...]] = {}
        self._working: dict[str, Endpoint] = {}

    def configure(self, policy: RegistryPolicy) -> None:
        """Another policy, from the next request on."""
        self.policy = self.transport.policy = policy
        self._working.clear()

    async def aclose(self) -> None:
        await self.transport.aclose()

    async def open(self, stack: AsyncExitStack, ask: Ask) -> httpx.Response:
        """The answer of the first endpoint that has the thing, body unread. Raises what the registry itself said
        (PortError); else the trouble with the last endpoint, as moby does: httpx.TransportError where it could not be
        reached. So what a mirror said never outweighs the registry."""
        trouble: PortError | httpx.TransportError | None = None
        domain = ask.reference.domain
        candidates = self._candidates(domain, writing=ask.actions != READ)
        if "://" in ask.path:  # who was sent to a place is sent to no other, however many doors there are.
            candidates = tuple(one for one in candidates if _same_origin(ask.path, one.base))[:1] or candidates[:1]
        for endpoint in candidates:
            try:
                response = await self._ask(stack, endpoint, ask)
            except (httpx.TransportError, PortError) as error:
                if isinstance(error, PortError) and not endpoint.mirror:
                    raise
                trouble = error
                continue
            if not endpoint.mirror:
                self._working[domain] = endpoint
            return response
        assert trouble is not None
        raise trouble

    def translated(self, error: httpx.TransportError | PortError, ask: Ask) -> PortError:
        """The PortError of whatever `open` or reading a body raised."""
        if isinstance(error, PortError):
            return error
        base = endpoints(self.policy, ask.reference.domain)[-1].base
        if is_tls_failure(error):
            base = f"https://{base.rpartition('://')[2]}"
        return unreachable(error, f"{base}/v2/", ask.operation)

    def _candidates(self, domain: str, *, writing: bool) -> tuple[Endpoint, ...]:
        """Endpoints in order; where https and http are both allowed, the one that worked last comes first. Mirrors are
        for reading."""
        found = endpoints(self.policy, domain)
        mirrors = tuple(endpoint for endpoint in found if endpoint.mirror and not writing)
        own = tuple(endpoint for endpoint in found if not endpoint.mirror)
        working = self._working.get(domain)
        if working in own:
            own = (working, *(endpoint for endpoint in own if endpoint != working))
        return (*mirrors, *own)

    async def _ask(self, stack: AsyncExitStack, endpoint: Endpoint, ask: Ask) -> httpx.Response:
        """One endpoint: ask, answer its challenge once, ask again."""
        url = str(url_of(ask.path)) if "://" in ask.path else endpoint.base + ask.path
        given = ask.credentials or Credentials()
        own = None if endpoint.mirror else given.secret  # the registry's password is not its mirror's business.
        headers = {**given.meta, **ask.headers}
        scope = " ".join((f"repository:{ask.reference.path}:{ask.actions}", *ask.also))
        offered = self._challenges.get(endpoint.base, ())
        for final in (False, True):
            authorization = await self.tokens.authorization(offered, scope, own, url) if offered else None
            if authorization is not None and not _same_origin(url, endpoint.base):
                authorization = None  # an upload may lead to another host, which has its own way to know us.
            content = ask.content() if callable(ask.content) else ask.content
            if isinstance(content, AsyncGenerator):
                await stack.enter_async_context(aclosing(content))  # who breaks off leaves a file open behind it.
            response = await stack.enter_async_context(
                self.transport.stream(
                    ask.method,
                    url,
                    headers={**headers, "Authorization": authorization} if authorization else headers,
                    content=content,
                    verify=endpoint.verify,
                )
            )
            if response.status_code in ask.expected:
                return response
            body = await bounded(response, ERROR_BYTES_MAX)
            if response.status_code != 401 or final:
                break
            if offered:
                self.tokens.forget()
            offered = self._challenges[endpoint.base] = challenges(response)
            if not offered:
                break
        pulling = ask.to_pull and ask.actions == READ
        raise refusal(response, body, ask.reference if pulling else None, ask.operation)

    def _may_send_credentials(self, realm: httpx.URL) -> bool:
        return realm.scheme == "https" or is_insecure(self.policy, realm.netloc.decode())


def _same_origin(one: str, other: str) -> bool:
    first, second = httpx.URL(one), httpx.URL(other)
    return (first.scheme, first.netloc) == (second.scheme, second.netloc)
