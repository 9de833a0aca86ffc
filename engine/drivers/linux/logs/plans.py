"""From a log's options to the writer's plan: the table of drivers on the engine's side.

To add a driver: a file with `plan`, a line here, one in runtime/supervisor/logs, one in aggregates/container/
log_options.py. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from engine.drivers.linux.logs import fluentd, gelf, journald, json_file, local, syslog
from engine.drivers.ports.runtime import LogSpec

PLANS: Mapping[str, Callable[[LogSpec], dict[str, Any]]] = {
    "fluentd": fluentd.plan,
    "gelf": gelf.plan,
    "journald": journald.plan,
    "json-file": json_file.plan,
    "local": local.plan,
    "syslog": syslog.plan,
}


def log_plan(log: LogSpec) -> dict[str, Any]:
    """Raises ValueError (a tag that can not be filled in) with the words of moby's driver."""
    if log.driver == "none":
        return {"driver": "none"}
    return {"cache": local.cache_plan(log), **PLANS[log.driver](log)}
