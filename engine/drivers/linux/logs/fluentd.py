"""The driver fluentd: what its options mean to the writer (runtime/supervisor/logs/fluentd.py)."""

from __future__ import annotations

from typing import Any

from engine.aggregates.values import go_values as go
from engine.aggregates.values.log_servers import fluentd_server
from engine.aggregates.values.log_subject import attributes, tag
from engine.drivers.linux.logs.servers import queue, server
from engine.drivers.ports.runtime import LogSpec

ASYNC_LIMIT = "1m"
"""Bytes here; moby counts entries."""


def plan(log: LogSpec) -> dict[str, Any]:
    subject, options = log.subject, log.subject.config

    def flag(name: str) -> bool:
        return go.boolean(options.get(name) or "false")

    def seconds(name: str, default_s: float = 0.0) -> float:
        return go.duration_ns(options[name]) / 1e9 if options.get(name) else default_s

    behind = flag("fluentd-async")
    limit = go.binary_bytes(options.get("fluentd-buffer-limit") or ASYNC_LIMIT)
    rules = queue(
        options,
        # moby's default is 2^31 - 1 attempts.
        patience=int(options.get("fluentd-max-retries") or 0),
        wait_s=seconds("fluentd-retry-wait", 1.0),
        wait_factor=1.5,
        wait_max_s=60.0,
        write_s=seconds("fluentd-write-timeout"),
        ack_s=seconds("fluentd-read-timeout"),
        renew_s=seconds("fluentd-async-reconnect-interval") if behind else 0.0,
        acks=flag("fluentd-request-ack"),
    )
    return {
        "driver": "fluentd",
        "server": server(fluentd_server(options.get("fluentd-address", "")), tls={"verify": True}),
        "queue": {**rules, "lossy": True, "limit": limit} if behind else rules,
        "awaited": not behind,
        "tag": tag(subject),
        "record": {
            "container_id": subject.container_id,
            "container_name": f"/{subject.name}",
            **attributes(subject),
        },
        "precise": flag("fluentd-sub-second-precision"),
    }
