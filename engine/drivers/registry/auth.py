"""Authentication to registries: basic, and bearer tokens by the distribution token specification.

Owns challenges, token requests and the cache of tokens (per realm, service, scope and user; until shortly before they
expire). Credentials come with each call and are kept nowhere; cached are tokens alone, under a hash of who asked.
Sources: distribution/spec/auth/{token,oauth}.md; RFC 9110 section 11.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping

import httpx
import msgspec
import trio

from engine.drivers.ports.registry import Credentials
from engine.errors import Fault, PortError

CLIENT_ID = "docker"
_EXPIRES_S_DEFAULT = 60
_EXPIRES_EARLY_S = 10
_PARAMETER = re.compile(r'([a-zA-Z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,]+))')

Send = Callable[..., Awaitable[tuple[httpx.Response, bytes]]]
"""send(method, url, *, headers, data): the answer and its body (bounded)."""


class Challenge(msgspec.Struct, frozen=True, kw_only=True):
    """One WWW-Authenticate: scheme in lower case."""

    scheme: str
    parameters: Mapping[str, str] = {}


class TokenAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a token server answers. Times in s."""

    token: str = ""
    access_token: str = ""
    refresh_token: str = ""
    expires_in: int = 0

    def __repr__(self) -> str:
        return "TokenAnswer(***)"


def challenges(response: httpx.Response) -> tuple[Challenge, ...]:
    """Every challenge of an answer, each in a header of its own as registries send them."""
    found = []
    for header in response.headers.get_list("www-authenticate"):
        scheme, _, rest = header.strip().partition(" ")
        parameters = {match[1].lower(): match[2] or match[3] or "" for match in _PARAMETER.finditer(rest)}
        found.append(Challenge(scheme=scheme.lower(), parameters=parameters))
    return tuple(found)


def basic(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


class Tokens:
    """Bearer tokens, cached."""

    def __init__(self, send: Send, may_send_credentials: Callable[[httpx.URL], bool]) -> None:
        self._send = send
        self._may_send_credentials = may_send_credentials
        self._cache: dict[str, tuple[str, float]] = {}

    async def authorization(
        self, offered: tuple[Challenge, ...], scope: str, credentials: Credentials | None, url: str
    ) -> str | None:
        """The Authorization header that answers a challenge; None when there is nothing to answer with. Raises
        PortError(UNAUTHORIZED) when the token server refuses."""
        schemes = {challenge.scheme: challenge for challenge in reversed(offered)}
        if credentials is not None and credentials.registry_token:
            return f"Bearer {credentials.registry_token}"
        if "bearer" in schemes:
            return f"Bearer {await self._token(schemes['bearer'], scope, credentials)}"
        if "basic" in schemes:
            if credentials is None or not credentials.username:
                raise PortError("registry", f'Get "{url}": no basic auth credentials', fault=Fault.UNAUTHORIZED)
            return basic(credentials.username, credentials.password)
        return None

    async def identity_token(self, challenge: Challenge, credentials: Credentials) -> str:
        """At login: check credentials with the token server; a refresh token, or "" where it gives none."""
        return (await self._ask(challenge, "", credentials, offline=True)).refresh_token

    def forget(self) -> None:
        """A token was refused before its time: ask anew."""
        self._cache.clear()

    async def _token(self, challenge: Challenge, scope: str, credentials: Credentials | None) -> str:
        who = (credentials.username, credentials.password, credentials.identity_token) if credentials else ("", "", "")
        parts = (challenge.parameters.get("realm", ""), challenge.parameters.get("service", ""), scope, *who)
        key = hashlib.sha256("\0".join(parts).encode()).hexdigest()
        token, expires_at = self._cache.get(key, ("", 0.0))
        if token and trio.current_time() < expires_at:
            return token
        answer = await self._ask(challenge, scope, credentials, offline=False)
        token = answer.token or answer.access_token
        if not token:
            raise PortError("registry", "authorization server did not include a token in the response")
        lifetime = max(answer.expires_in, _EXPIRES_S_DEFAULT) - _EXPIRES_EARLY_S
        self._cache[key] = (token, trio.current_time() + lifetime)
        return token

    async def _ask(
        self, challenge: Challenge, scope: str, credentials: Credentials | None, *, offline: bool
    ) -> TokenAnswer:
        try:
            realm = httpx.URL(challenge.parameters.get("realm", ""))
        except httpx.InvalidURL:
            realm = httpx.URL()
        if realm.scheme not in ("http", "https") or not realm.host:
            raise PortError("registry", f"invalid realm {challenge.parameters.get('realm', '')!r} in a challenge")
        if credentials is not None and not self._may_send_credentials(realm):
            raise PortError(
                "registry", f"refusing to send credentials to {realm.host} in the clear", fault=Fault.FORBIDDEN
            )
        query = {"service": challenge.parameters.get("service", ""), "scope": scope}
        query = {name: value for name, value in query.items() if value}
        if credentials is not None and credentials.identity_token:
            form = {**query, "grant_type": "refresh_token", "refresh_token": credentials.identity_token}
            form["client_id"] = CLIENT_ID
            response, body = await self._send("POST", str(realm), headers={}, data=form)
        else:
            response, body = await self._get(realm, query, credentials, offline=offline)
        if response.status_code != 200:
            raise _token_refused(response, body, realm)
        try:
            return msgspec.json.decode(body, type=TokenAnswer)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise PortError("registry", "unable to decode token response") from error

    async def _get(
        self, realm: httpx.URL, query: dict[str, str], credentials: Credentials | None, *, offline: bool
    ) -> tuple[httpx.Response, bytes]:
        headers = {}
        if offline:
            query = {**query, "offline_token": "true", "client_id": CLIENT_ID}
        if credentials is not None and credentials.username:
            query = {**query, "account": credentials.username}
            headers["Authorization"] = basic(credentials.username, credentials.password)
        return await self._send("GET", str(realm.copy_merge_params(query)), headers=headers, data=None)


def _token_refused(response: httpx.Response, body: bytes, realm: httpx.URL) -> PortError:
    from engine.drivers.registry.errors import refusal

    error = refusal(response, body, None, "registry")
    if response.status_code in (401, 403):
        return PortError("registry", f'Get "{realm.copy_with(query=None)}": {error.message}', fault=Fault.UNAUTHORIZED)
    return error
