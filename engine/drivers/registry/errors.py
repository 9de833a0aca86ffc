"""What a registry refused, in Docker's words.

Owns the translation of HTTP answers and broken connections into PortError. Sources: distribution spec, "Error codes";
moby daemon/internal/distribution/errors.go for the words; Go's net errors for those of a failed dial.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl

import httpx
import msgspec

from engine.aggregates.values.reference import Reference
from engine.drivers.registry.auth import challenges
from engine.errors import Fault, PortError

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What reading somebody else's JSON may raise."""
RETRIABLE_STATUS = frozenset({408, 429, 500, 502, 503, 504})


def refusal(response: httpx.Response, body: bytes, reference: Reference | None, operation: str) -> PortError:
    """A PortError for an answer that is not a success. body: at most its first 64 KiB."""
    code, words = _bearer_error(response) or _first_error(body)
    status = response.status_code
    cause = f"{code.lower().replace('_', ' ')}: {words}" if code else _status_words(response)
    retriable = status in RETRIABLE_STATUS
    if code == "TOOMANYREQUESTS" or status == 429:
        return PortError(operation, cause, fault=Fault.UNAVAILABLE, retriable=True)
    if reference is not None:
        if code == "DENIED" or (not code and status == 403):
            words = f"pull access denied for {reference.familiar_name}, repository does not exist or may require "
            words += "'docker login'"
            return PortError(operation, f"{words}: {cause}", fault=Fault.NOT_FOUND)
        if code == "MANIFEST_UNKNOWN" or (not code and status == 404):
            cause = cause if code else "manifest unknown: manifest unknown"
            return PortError(operation, f"manifest for {reference.familiar} not found: {cause}", fault=Fault.NOT_FOUND)
        if code == "NAME_UNKNOWN":
            return PortError(
                operation, f"repository {reference.familiar_name} not found: {cause}", fault=Fault.NOT_FOUND
            )
    if code == "UNAUTHORIZED" or status == 401:
        cause = cause if code else "unauthorized: authentication required"
        return PortError(operation, cause, fault=Fault.UNAUTHORIZED)
    if code == "DENIED":
        return PortError(operation, cause, fault=Fault.FORBIDDEN)
    fault = {403: Fault.FORBIDDEN, 404: Fault.NOT_FOUND}.get(status, Fault.UNAVAILABLE if retriable else Fault.SYSTEM)
    return PortError(operation, cause, fault=fault, retriable=retriable)


def unreachable(error: httpx.HTTPError, url: str, operation: str, method: str = "Get") -> PortError:
    """A PortError for a connection that was not made or broke. The words are Go's, which scripts look for."""
    words = _connection_words(error, httpx.URL(url))
    return PortError(operation, f'{method} "{url}": {words}', fault=Fault.UNAVAILABLE, retriable=True)


def is_tls_failure(error: BaseException) -> bool:
    """Whether the peer's certificate or its TLS was the trouble, not the network."""
    return any(isinstance(cause, ssl.SSLError) for cause in _causes(error))


def _connection_words(error: httpx.HTTPError, url: httpx.URL) -> str:
    port = url.port or (443 if url.scheme == "https" else 80)
    address = f"{url.host}:{port}"
    if isinstance(error, httpx.TimeoutException):
        dialing = isinstance(error, httpx.ConnectTimeout)
        return f"dial tcp {address}: i/o timeout" if dialing else "context deadline exceeded"
    for cause in _causes(error):
        if isinstance(cause, socket.gaierror):
            return f"dial tcp: lookup {url.host}: no such host"
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"tls: failed to verify certificate: x509: {_certificate_words(cause)}"
        if isinstance(cause, ssl.SSLError):
            if "WRONG_VERSION_NUMBER" in str(cause) or "HTTP_REQUEST" in str(cause):
                return "http: server gave HTTP response to HTTPS client"
            return f"tls: {cause.reason or cause}"
        if isinstance(cause, OSError) and cause.errno in (errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH):
            return f"dial tcp {address}: connect: {os.strerror(cause.errno).lower()}"
    return "EOF" if isinstance(error, httpx.RemoteProtocolError) else str(error) or type(error).__name__


def _certificate_words(error: ssl.SSLCertVerificationError) -> str:
    if "self-signed" in error.verify_message or "unable to get" in error.verify_message:
        return "certificate signed by unknown authority"
    return error.verify_message


def _causes(error: BaseException | None) -> list[BaseException]:
    """The error, what caused it, and the parts of groups, innermost last."""
    found: list[BaseException] = []
    waiting = [error]
    while waiting:
        one = waiting.pop(0)
        if one is None or any(one is other for other in found):
            continue
        found.append(one)
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
        waiting += [one.__cause__, one.__context__]
    return found


def _bearer_error(response: httpx.Response) -> tuple[str, str] | None:
    """What a challenge says of a token that did not do (RFC 6750, 3.1): it outweighs the body, as in moby."""
    codes = {
        "insufficient_scope": ("DENIED", "requested access to the resource is denied"),
        "invalid_token": ("UNAUTHORIZED", "authentication required"),
    }
    for challenge in challenges(response) if 400 <= response.status_code < 500 else ():
        code = codes.get(challenge.parameters.get("error", ""))
        if challenge.scheme == "bearer" and code is not None:
            return code[0], challenge.parameters.get("error_description") or code[1]
    return None


def _first_error(body: bytes) -> tuple[str, str]:
    """code and message of the first error in a distribution error body; a token server's `details` serves too."""
    try:
        document = msgspec.json.decode(body)
        first = document["errors"][0]
        return str(first.get("code") or ""), str(first.get("message") or "")
    except (*UNREADABLE, KeyError, IndexError, TypeError, AttributeError):
        pass
    try:
        words = msgspec.json.decode(body).get("details")
    except (*UNREADABLE, AttributeError):
        return "", ""
    return ("UNAUTHORIZED", str(words)) if words else ("", "")


def _status_words(response: httpx.Response) -> str:
    return f"received unexpected HTTP status: {response.status_code} {response.reason_phrase}".rstrip()
