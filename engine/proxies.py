"""The proxies that the engine's HTTP clients go through: the environment's, over which the configuration has its say.

Source: moby daemon/command/daemon.go (setProxies, overrideProxyEnv), daemon/info.go (getConfigOrEnv).
"""

from __future__ import annotations

import logging
from collections.abc import MutableMapping

from engine.config import DaemonConfig

logger = logging.getLogger(__name__)


def take_over(config: DaemonConfig, environment: MutableMapping[str, str]) -> None:
    """Make an environment say what is in force. Some of those who read it look for capitals first, others do not: both
    names get the value, as the capitals have it."""
    for name, given in (
        ("HTTP_PROXY", config.http_proxy),
        ("HTTPS_PROXY", config.https_proxy),
        ("NO_PROXY", config.no_proxy),
    ):
        old = environment.get(name) or environment.get(name.lower()) or ""
        if given and old and given != old:
            logger.warning(
                "overriding existing proxy variable with value from configuration: %s, %s instead of %s",
                name, masked(given), masked(old),
            )  # fmt: skip
        if given or old:
            environment[name] = environment[name.lower()] = given or old


def masked(url: str) -> str:
    """A URL whose user and password are `xxxxx`."""
    scheme, separator, rest = url.partition("://")
    if not separator or "@" not in rest:
        return url
    return f"{scheme}://xxxxx:xxxxx@{rest.rpartition('@')[2]}"
