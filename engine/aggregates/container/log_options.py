"""Which options a log driver takes (LOG-01, 03), in moby's words; and which this engine has not got, said as such."""

from __future__ import annotations

import re

from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.values.config import LogConfig

KNOWN = {
    "json-file": frozenset(
        {"max-file", "max-size", "compress", "labels", "labels-regex", "env", "env-regex", "tag"}
        | {"mode", "max-buffer-size"}
    ),
    "none": frozenset[str](),
}
ABSENT = frozenset({"compress", "labels-regex", "env", "env-regex", "tag", "max-buffer-size"})
_SIZE = re.compile(r"\d+(\.\d+)?\s?([kKmMgGtT][iI]?[bB]?|[bB])?|-1")


def check_log_options(log: LogConfig) -> None:
    """Raises Rejected: INVALID for unknown options and bad values, NOT_IMPLEMENTED for those of moby's not here yet."""
    known = KNOWN.get(log.type)
    if known is None:
        raise Rejected(Reason.INVALID, f"logger: no log driver named '{log.type}' is registered")
    options = log.config or {}
    for name, value in options.items():
        if name not in known:
            raise Rejected(Reason.INVALID, f"unknown log opt '{name}' for {log.type} log driver")
        if name in ABSENT and value not in ("", "false"):
            raise Rejected(Reason.NOT_IMPLEMENTED, f"log opt '{name}' is not implemented")
    mode = options.get("mode", "blocking")
    if mode == "non-blocking":
        raise Rejected(Reason.NOT_IMPLEMENTED, "log opt 'mode=non-blocking' is not implemented")
    if mode not in ("", "blocking"):
        raise Rejected(Reason.INVALID, f"logger: logging mode not supported: {mode}")
    if "max-size" in options and not _SIZE.fullmatch(options["max-size"]):
        raise Rejected(Reason.INVALID, f"invalid size: '{options['max-size']}'")
    if "max-file" in options:
        count = options["max-file"]
        if not count.isdecimal() or int(count) < 1:
            raise Rejected(Reason.INVALID, "max-file cannot be less than 1")
        if int(count) > 1 and "max-size" not in options:
            raise Rejected(Reason.INVALID, 'cannot use "max-file" without "max-size"')
