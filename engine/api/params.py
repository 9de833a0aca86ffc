"""What a request says beside its body: query parameters, who asks, and registry credentials.

Source: moby daemon/server/httputils/form.go, api/pkg/authconfig.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import cast

import msgspec
from msgspec.structs import replace

from engine.aggregates.decider import Cause, Reason, Rejected
from engine.api import filters, moments
from engine.api.peer import Peer
from engine.api.request import Request
from engine.drivers.ports.registry import Credentials

_FALSE_WORDS = frozenset({"", "0", "no", "false", "none"})


class Query:
    """The query string, read by Docker's rules. Unknown keys are ignored, as dockerd does (API-08)."""

    def __init__(self, values: Mapping[str, Sequence[str]]) -> None:
        self._values = values

    @classmethod
    def of(cls, request: Request) -> Query:
        return cls(request.query)

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def text(self, key: str, default: str = "") -> str:
        """The first value."""
        values = self._values.get(key)
        return values[0] if values else default

    def all(self, key: str) -> tuple[str, ...]:
        """Every value of a repeated key, in order."""
        return tuple(self._values.get(key, ()))

    def flag(self, key: str, *, default: bool = False) -> bool:
        """False for "", 0, no, false and none in any case, true for everything else; the default when absent."""
        if key not in self._values:
            return default
        return self.text(key).strip().lower() not in _FALSE_WORDS

    def integer(self, key: str, default: int | None = None) -> int | None:
        """A decimal number; the default when absent or empty. Raises Rejected(INVALID) in strconv's words."""
        text = self.text(key)
        if not text:
            return default
        if not re.fullmatch(r"[+-]?[0-9]+", text):
            raise Rejected(Reason.INVALID, f'strconv.ParseInt: parsing "{text}": invalid syntax')
        number = int(text) if len(text) <= 20 else 2**64
        if not -(2**63) <= number < 2**63:
            raise Rejected(Reason.INVALID, f'strconv.ParseInt: parsing "{text}": value out of range')
        return number

    def moment(self, key: str, *, now_ns: int) -> int | None:
        """A time in UTC nanoseconds (API-18); None when absent or empty."""
        text = self.text(key)
        return moments.moment_ns(text, now_ns=now_ns) if text else None

    def filters(self) -> filters.Filters:
        return filters.parse(self.text("filters"))


def cause_of(request: Request) -> Cause:
    """Who and why, for the events this request leads to."""
    peer = cast("Peer | None", request.state.get("peer"))
    return Cause(
        actor=peer.actor if peer else "api",
        correlation=cast(str, request.state["correlation"]),
        causation=f"{request.method} {request.path}",
    )


def credentials_of(request: Request) -> Credentials | None:
    """X-Registry-Auth, base64url of Docker's AuthConfig JSON; None when absent or empty. Raises Rejected(INVALID)."""
    return decode_credentials(request.headers.get("X-Registry-Auth", ""))


def forgiven_credentials(request: Request) -> Credentials | None:
    """For what may be asked without any, bad credentials are none (moby ignores them, too). With them come the headers
    that the client wants the registry to get (API-20)."""
    try:
        credentials = credentials_of(request)
    except Rejected:
        credentials = None
    meta = {name.title(): value for name, value in request.headers.items() if name.startswith("x-meta-")}
    return replace(credentials or Credentials(), meta=meta) if meta else credentials


def decode_credentials(encoded: str) -> Credentials | None:
    """Standard base64 is read too, and missing padding forgiven: old clients send both."""
    if not encoded:
        return None
    urlsafe = encoded.replace("+", "-").replace("/", "_").rstrip("=")
    try:
        plain = base64.b64decode(urlsafe + "=" * (-len(urlsafe) % 4), altchars=b"-_", validate=True)
        auth = msgspec.json.decode(plain, type=_AuthConfig | None) or _AuthConfig()
        credentials = auth.credentials()
    except (binascii.Error, msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Rejected(Reason.INVALID, "invalid X-Registry-Auth header: not base64url of JSON") from error
    # `{}` is how the CLI says: anonymous
    return None if auth == _AuthConfig(serveraddress=auth.serveraddress) else credentials


class _AuthConfig(msgspec.Struct, frozen=True, kw_only=True):
    username: str | None = None
    password: str | None = None
    auth: str | None = None
    serveraddress: str | None = None
    identitytoken: str | None = None
    registrytoken: str | None = None

    def __repr__(self) -> str:
        return "AuthConfig(***)"

    def credentials(self) -> Credentials:
        username, password = self.username or "", self.password or ""
        if self.auth and not username:
            username, _, password = base64.b64decode(self.auth).decode().partition(":")
        return Credentials(
            username=username,
            password=password,
            identity_token=self.identitytoken or "",
            registry_token=self.registrytoken or "",
        )
