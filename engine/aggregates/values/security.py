"""Security options as the API writes them: `name=value`, or `name:value` as it once was."""

from __future__ import annotations

from engine.aggregates.values.config import HostConfig

APPARMOR_DEFAULT = "docker-default"
APPARMOR_UNCONFINED = "unconfined"
MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
"""What a container cannot look into, and what it cannot write to, unless told otherwise (SEC-03)."""


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


def masked_paths(host: HostConfig) -> tuple[str, ...]:
    """Hidden from the container."""
    if host.masked_paths is not None:
        return host.masked_paths
    return () if _is_open(host) else MASKED_PATHS


def readonly_paths(host: HostConfig) -> tuple[str, ...]:
    """Read-only in the container."""
    if host.readonly_paths is not None:
        return host.readonly_paths
    return () if _is_open(host) else READONLY_PATHS


def _is_open(host: HostConfig) -> bool:
    return host.privileged or security_option(host, "systempaths") == "unconfined"
