"""The driver journald: what it tells the journal of a container (runtime/supervisor/logs/journald.py)."""

from __future__ import annotations

import re
from typing import Any

from engine.aggregates.values.log_subject import SHORT, attributes, tag
from engine.drivers.linux.logs.servers import queue, server
from engine.drivers.ports.runtime import LogSpec

SOCKET = "/run/systemd/journal/socket"


def plan(log: LogSpec) -> dict[str, Any]:
    subject = log.subject
    tagged = tag(subject)
    return {
        "driver": "journald",
        "server": server(paths=(("unixgram", SOCKET),)),
        "queue": queue(subject.config, patience=2),
        "absent": "journald is not enabled on this host",
        "fields": {
            "CONTAINER_ID": subject.container_id[:SHORT],
            "CONTAINER_ID_FULL": subject.container_id,
            "CONTAINER_NAME": subject.name,
            "CONTAINER_TAG": tagged,
            "IMAGE_NAME": subject.image_name,
            "SYSLOG_IDENTIFIER": tagged,
            **{name: value for name, value in attributes(subject, field_name).items() if name},
        },
    }


def field_name(text: str) -> str:
    """The journal takes capitals, digits and underscores, the latter not in front."""
    return re.sub(r"[^A-Z0-9]", "_", "".join(c.upper() if "a" <= c <= "z" else c for c in text)).lstrip("_")
