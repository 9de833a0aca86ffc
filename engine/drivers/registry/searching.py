"""Searching a registry: the one thing that Docker still asks of its version 1 protocol (`GET /v1/search`).

Owns the request and its refusals. Docker Hub is asked at its index; others at https, and at http where that is allowed.
Credentials are sent when the registry demands them. Source: moby daemon/pkg/registry/search.go.
"""

from __future__ import annotations

import httpx
import msgspec

from engine.aggregates.values.reference import DEFAULT_DOMAIN, LEGACY_DEFAULT_DOMAIN
from engine.drivers.ports.registry import Credentials, SearchResult
from engine.drivers.registry.auth import challenges
from engine.drivers.registry.door import Door
from engine.drivers.registry.errors import UNREADABLE, unreachable
from engine.drivers.registry.policy import Endpoint, endpoints
from engine.errors import Fault, PortError

_HUB_INDEX = Endpoint(base=f"https://{LEGACY_DEFAULT_DOMAIN}", host=LEGACY_DEFAULT_DOMAIN)
_ANSWER_BYTES_MAX = 4 << 20
_SCOPE = "registry:catalog:search"


class _Answer(msgspec.Struct, frozen=True):
    results: tuple[SearchResult, ...] | None = None


async def search(
    door: Door, domain: str, term: str, limit: int, credentials: Credentials | None
) -> tuple[SearchResult, ...]:
    """See engine/drivers/ports/registry.py, Registry.search."""
    places = (_HUB_INDEX,) if domain == DEFAULT_DOMAIN else endpoints(door.policy, domain)
    failures: list[PortError] = []
    for endpoint in places:
        url = str(httpx.URL(f"{endpoint.base}/v1/search", params={"q": term, "n": limit}))
        try:
            return await _ask(door, endpoint, url, credentials)
        except httpx.TransportError as error:
            failures.append(unreachable(error, url, "search"))
    if domain == DEFAULT_DOMAIN:
        raise failures[0]
    where = f"{places[-1].base}/v1/"
    if len(failures) == 1:
        hint = (
            f". If this private registry supports only HTTP or HTTPS with an unknown CA certificate, add "
            f"`--insecure-registry {domain}` to the daemon's arguments. In the case of HTTPS, if you have access to "
            f"the registry's CA certificate, no need for the flag; place the CA certificate at "
            f"{door.policy.certs_dir}/{domain}/ca.crt"
        )
        words = f"invalid registry endpoint {where}: {failures[0].message}{hint}"
        raise PortError("search", words, fault=Fault.INVALID)
    words = f'invalid registry endpoint "{where}". HTTPS attempt: {failures[0].message}. '
    raise PortError("search", words + f"HTTP attempt: {failures[1].message}", fault=Fault.INVALID)


async def _ask(door: Door, endpoint: Endpoint, url: str, credentials: Credentials | None) -> tuple[SearchResult, ...]:
    async def sent(headers: dict[str, str]) -> tuple[httpx.Response, bytes]:
        return await door.transport.send("GET", url, headers=headers, limit=_ANSWER_BYTES_MAX, verify=endpoint.verify)

    given = credentials or Credentials()
    response, body = await sent({**given.meta})
    if response.status_code == 401 and given.secret is not None and (offered := challenges(response)):
        authorization = await door.tokens.authorization(offered, _SCOPE, given.secret, url)
        if authorization is not None:
            response, body = await sent({**given.meta, "Authorization": authorization})
    if response.status_code != 200:
        raise PortError("search", f"unexpected status code {response.status_code}")
    try:
        return msgspec.json.decode(body, type=_Answer).results or ()
    except UNREADABLE as error:
        raise PortError("search", f"error decoding registry search results: {error}") from error
