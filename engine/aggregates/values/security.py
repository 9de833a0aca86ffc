"""Security options as the API writes them: `name=value`, or `name:value` as it once was."""

from __future__ import annotations

from engine.aggregates.values.config import HostConfig

APPARMOR_DEFAULT = "docker-default"
APPARMOR_UNCONFINED = "unconfined"


def security_option(host: HostConfig, name: str) -> str:
    """The value of `name=value` among the security options, or ""."""
    for option in host.security_opt or ():
        for separator in ("=", ":"):
            if option.startswith(name + separator):
                return option[len(name) + 1 :]
    return ""


def apparmor_profile(host: HostConfig) -> str:
    """The profile that applies where the host has AppArmor (SEC-04): the option's, none for the privileged, else
    Docker's own. Execs have it too, the privileged ones as well. Source: moby daemon/oci_linux.go, exec_linux.go."""
    option = security_option(host, "apparmor")
    return option or (APPARMOR_UNCONFINED if host.privileged else APPARMOR_DEFAULT)
