"""What the plans of drivers that send to a server share: where it is, and how much may wait for it.

Both are for the writer's outlet (runtime/supervisor/logs/outlet.py), which knows the keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.aggregates.values import go_values as go
from engine.aggregates.values.log_servers import LogServer

LIMIT_BYTES = 256 << 10
"""What may wait in mode blocking before the container's output is not read on."""
RING_BYTES = 1_000_000
"""moby's default for max-buffer-size, in mode non-blocking."""
NO_TLS = {"verify": True, "ca": "", "cert": "", "key": ""}


def server(
    found: LogServer | None = None, *, paths: tuple[tuple[str, str], ...] = (), tls: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """paths: (unix or unixgram, path), tried in order."""
    found = found or LogServer(network=paths[0][0])
    if found.path:
        paths = ((found.network, found.path),)
    secure = {**NO_TLS, **(tls or {}), "name": found.host} if found.network == "tls" else None
    return {
        "network": found.network,
        "host": found.host,
        "port": found.port,
        "paths": list(paths),
        "tls": secure,
    }


def queue(
    options: Mapping[str, str],
    *,
    patience: int,
    wait_s: float = 0.25,
    wait_factor: float = 2.0,
    wait_max_s: float = 10.0,
    write_s: float = 0.0,
    ack_s: float = 0.0,
    renew_s: float = 0.0,
    acks: bool = False,
) -> dict[str, Any]:
    lossy = options.get("mode") == "non-blocking"
    ring = go.binary_bytes(options["max-buffer-size"]) if "max-buffer-size" in options else RING_BYTES
    return {
        "limit": ring if lossy else LIMIT_BYTES,
        "lossy": lossy,
        "patience": patience,
        "wait_s": wait_s,
        "wait_factor": wait_factor,
        "wait_max_s": wait_max_s,
        "write_s": write_s,
        "ack_s": ack_s,
        "renew_s": renew_s,
        "acks": acks,
    }
