"""SIGHUP: which parts of the configuration a running engine takes up, and how they are told.

Pure. A reload makes of the reloadable keys what a restart would make of them: flags and the file as they are now.
Everything else stays as it is until the restart.
Source: moby daemon/reload.go, which keeps the old value of most keys that are taken out of the file.
"""

from __future__ import annotations

import json
import logging

from msgspec.structs import replace

from engine.config import DaemonConfig

RELOADABLE = (
    "debug",
    "labels",
    "live_restore",
    "shutdown_timeout_s",
    "registry_mirrors",
    "insecure_registries",
    "max_concurrent_downloads",
    "max_concurrent_uploads",
    "max_download_attempts",
    "default_runtime",
    "runtimes",
)
LEVELS = {
    "panic": logging.CRITICAL,
    "fatal": logging.CRITICAL,
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": logging.DEBUG,
}


def reloaded(current: DaemonConfig, read: DaemonConfig) -> DaemonConfig:
    """The configuration that is in force after a reload of what was read."""
    return replace(current, **{name: getattr(read, name) for name in RELOADABLE})


def left_alone(first: DaemonConfig, read: DaemonConfig) -> tuple[str, ...]:
    """What has changed and waits for a restart. first: as it was read when the engine started."""
    names = DaemonConfig.__struct_fields__
    return tuple(n for n in names if n not in RELOADABLE and getattr(first, n) != getattr(read, n))


def attributes(config: DaemonConfig) -> dict[str, str]:
    """Those of the event `daemon/reload`."""
    return {
        "debug": _word(config.debug),
        "default-runtime": config.default_runtime,
        "insecure-registries": json.dumps(config.insecure_registries, separators=(",", ":")),
        "labels": json.dumps(config.labels, separators=(",", ":")),
        "live-restore": _word(config.live_restore),
        "max-concurrent-downloads": str(config.max_concurrent_downloads),
        "max-concurrent-uploads": str(config.max_concurrent_uploads),
        "max-download-attempts": str(config.max_download_attempts),
        "registry-mirrors": json.dumps(config.registry_mirrors, separators=(",", ":")),
        "runtimes": " ".join(f"{name}:{runtime.path}" for name, runtime in config.runtimes.items()),
        "shutdown-timeout": str(config.shutdown_timeout_s),
    }


def log_level(config: DaemonConfig) -> int:
    return logging.DEBUG if config.debug else LEVELS[config.log_level.lower()]


def _word(value: bool) -> str:
    return "true" if value else "false"
