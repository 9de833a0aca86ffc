"""The driver syslog: RFC 3164, RFC 5424 and the old local form, as moby's writes them (daemon/logger/syslog).

Every message ends with a newline; over TLS those of RFC 5424 have their length before them (RFC 5425). Empty lines are
not sent.
"""

from __future__ import annotations

import os
import time

from .outlet import Outlet
from .remote import Remote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..loop import Loop
    from .lines import Line

ERROR, INFO = 3, 6
MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()


def open_syslog(spec: dict[str, Any], fd: int, loop: Loop, on_room: Callable[[], None]) -> Remote:
    return Remote(Syslog(spec), Outlet(spec, fd, loop, on_room))


class Syslog:
    """spec: `format`, `facility` (number), `tag`, `hostname`."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._format, self._facility = spec["format"], spec["facility"]
        self._tag, self._hostname = spec["tag"], spec["hostname"]
        self._framed = self._format.startswith("rfc5424") and spec["server"]["network"] == "tls"

    def __call__(self, stream: str, lines: list[Line], now_ns: int) -> list[bytes]:
        before = self._before(ERROR if stream == "stderr" else INFO, now_ns).encode()
        messages = [before + line + b"\n" for line, _ in lines if line]
        return [b"%d %s" % (len(message), message) for message in messages] if self._framed else messages

    def _before(self, severity: int, now_ns: int) -> str:
        priority, pid, tag, host = self._facility << 3 | severity, os.getpid(), self._tag, self._hostname
        if self._format.startswith("rfc5424"):
            when = rfc3339(now_ns, micro=self._format.endswith("micro"))
            return f"<{priority}>1 {when} {host} {tag} {pid} {tag} - "
        now = time.localtime(now_ns // 1_000_000_000)
        when = f"{MONTHS[now.tm_mon - 1]} {now.tm_mday:2d} {now.tm_hour:02d}:{now.tm_min:02d}:{now.tm_sec:02d}"
        if self._format == "rfc3164":
            return f"<{priority}>{when} {host} {tag}[{pid}]: "
        return f"<{priority}>{when} {tag}[{pid}]: "


def rfc3339(now_ns: int, *, micro: bool) -> str:
    """In local time, with its offset."""
    seconds, fraction = divmod(now_ns, 1_000_000_000)
    now = time.localtime(seconds)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", now)
    if micro:
        text += f".{fraction // 1000:06d}"
    offset = now.tm_gmtoff // 60
    return text + (f"{'-' if offset < 0 else '+'}{abs(offset) // 60:02d}:{abs(offset) % 60:02d}" if offset else "Z")
