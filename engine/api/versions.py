"""API versions: the `/v1.NN` prefix, the range served, and the headers that tell clients of it.

Refuses to know: what a version changes; that is each shape's own business, by `request.api_version`.
"""

from __future__ import annotations

import re

from engine.aggregates.decider import Reason, Rejected

ENGINE_VERSION = "0.1.0"
API_VERSION_MAX = (1, 53)
API_VERSION_MIN = (1, 24)

ApiVersion = tuple[int, int]

_PREFIX = re.compile(r"/v(?P<version>[0-9.]+)(?P<path>/.*)", re.ASCII | re.DOTALL)


def render(version: ApiVersion) -> str:
    return f"{version[0]}.{version[1]}"


COMMON_HEADERS = {
    "Server": f"Docker/{ENGINE_VERSION} (linux)",
    "Api-Version": render(API_VERSION_MAX),
    "Ostype": "linux",
}
"""On every response (API-03); clients read the version from any of them, not only from `_ping`."""


def split(path: str) -> tuple[str, str]:
    """`/v1.53/info` as ("1.53", "/info"); a path without a version has "" in front."""
    match = _PREFIX.fullmatch(path)
    return (match["version"], match["path"]) if match else ("", path)


def check(text: str) -> ApiVersion:
    """The version of a prefix, or the newest for "". Raises Rejected(INVALID) outside the range, in moby's words
    (daemon/server/middleware/version.go), which the CLI shows as they are."""
    if not text:
        return API_VERSION_MAX
    match = re.fullmatch(r"([0-9]{1,9})\.([0-9]{1,9})", text, re.ASCII)
    if match is None:
        raise Rejected(Reason.NOT_FOUND, "page not found")
    version = (int(match[1]), int(match[2]))
    if version < API_VERSION_MIN:
        raise Rejected(
            Reason.INVALID,
            f"client version {text} is too old. Minimum supported API version is {render(API_VERSION_MIN)}, "
            "please upgrade your client to a newer version",
        )
    if version > API_VERSION_MAX:
        raise Rejected(
            Reason.INVALID,
            f"client version {text} is too new. Maximum supported API version is {render(API_VERSION_MAX)}",
        )
    return version
