"""The driver syslog: what its options mean to the writer (runtime/supervisor/logs/syslog.py)."""

from __future__ import annotations

from typing import Any

from engine.aggregates.values.log_servers import facility, syslog_server
from engine.aggregates.values.log_subject import tag
from engine.drivers.linux.logs.servers import queue, server
from engine.drivers.ports.runtime import LogSpec

LOCAL_PATHS = tuple(
    (kind, path) for kind in ("unixgram", "unix") for path in ("/dev/log", "/var/run/syslog", "/var/run/log")
)
"""Where srslog looks for the host's own."""


def plan(log: LogSpec) -> dict[str, Any]:
    options = log.subject.config
    found = syslog_server(options.get("syslog-address", ""))
    security = {
        "verify": "syslog-tls-skip-verify" not in options,
        "ca": options.get("syslog-tls-ca-cert", ""),
        "cert": options.get("syslog-tls-cert", ""),
        "key": options.get("syslog-tls-key", ""),
    }
    return {
        "driver": "syslog",
        "server": server(found, tls=security) if found is not None else server(paths=LOCAL_PATHS),
        # moby tries once more and then gives the message up.
        "queue": queue(options, patience=2),
        "format": options.get("syslog-format", ""),
        "facility": facility(options.get("syslog-facility", "")),
        "tag": tag(log.subject),
        "hostname": log.subject.hostname,
    }
