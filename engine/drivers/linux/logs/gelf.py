"""The driver gelf: what its options mean to the writer (runtime/supervisor/logs/gelf.py)."""

from __future__ import annotations

from typing import Any

from engine.aggregates.values.log_servers import gelf_server
from engine.aggregates.values.log_subject import attributes, tag
from engine.drivers.linux.logs.json_file import go_json
from engine.drivers.linux.logs.servers import queue, server
from engine.drivers.ports.runtime import LogSpec

DEFAULT_RECONNECTS = 3
DEFAULT_DELAY_S = 1


def plan(log: LogSpec) -> dict[str, Any]:
    subject, options = log.subject, log.subject.config
    extra = {
        "_container_id": subject.container_id,
        "_container_name": subject.name,
        "_image_id": subject.image_id,
        "_image_name": subject.image_name,
        "_command": subject.command,
        "_tag": tag(subject),
        "_created": subject.created_at,
        **attributes(subject, lambda name: name if name.startswith("_") else f"_{name}"),
    }
    delay_s = float(options.get("gelf-tcp-reconnect-delay") or DEFAULT_DELAY_S)
    return {
        "driver": "gelf",
        "server": server(gelf_server(options["gelf-address"])),
        "queue": queue(
            options,
            patience=int(options.get("gelf-tcp-max-reconnect") or DEFAULT_RECONNECTS) + 1,
            wait_s=delay_s,
            wait_factor=1.0,
            wait_max_s=delay_s,
        ),
        "host": go_json(subject.hostname),
        "extra": go_json(extra)[1:-1],
        "compression": options.get("gelf-compression-type") or "gzip",
        "level": int(options.get("gelf-compression-level") or 1),
    }
