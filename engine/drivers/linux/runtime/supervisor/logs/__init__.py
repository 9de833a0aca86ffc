"""Writing logs, in the copier: one file a driver, behind one interface.

To add a driver: a file with a function that makes its writer, and a line in WRITERS. A writer has

- `feed(stream, data, now_ns)`: output as it was read; `stream` is stdout or stderr
- `finish(stream, now_ns)`: that stream has ended
- `full`: output should not be read on at the moment; `on_room` is called when that may have changed
- `hurry()`: the process has ended a while ago; be full no longer, but drop
- `leave(done)`: no more output comes; call when nothing is left to be written

and never waits for anything. The supervisor gives it the plan that `drivers/linux/logs` made of the options.
"""

from __future__ import annotations

from .cached import Cached
from .files import open_log
from .fluentd import open_fluentd
from .gelf import open_gelf
from .journald import open_journald
from .json_file import JsonFile
from .local import Local
from .syslog import open_syslog

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from ..loop import Loop
    from .remote import Remote

    class Writer(Protocol):
        @property
        def full(self) -> bool: ...
        def feed(self, stream: str, data: bytes, now_ns: int) -> None: ...
        def finish(self, stream: str, now_ns: int) -> None: ...
        def hurry(self) -> None: ...
        def leave(self, done: Callable[[], None]) -> None: ...

    Open = Callable[[dict[str, Any], int, Loop, Callable[[], None]], Writer]
    OpenRemote = Callable[[dict[str, Any], int, Loop, Callable[[], None]], Remote]


FILES: dict[str, Open] = {"json-file": JsonFile, "local": Local}
"""Drivers that write a file of their own."""
SERVERS: dict[str, OpenRemote] = {
    "fluentd": open_fluentd,
    "gelf": open_gelf,
    "journald": open_journald,
    "syslog": open_syslog,
}
"""Drivers that send everything away."""


def open_writer(spec: dict[str, Any], fd: int, loop: Loop, on_room: Callable[[], None]) -> Writer | None:
    """fd: the file, or a connected socket, or -1 for one to be connected. None for the driver none."""
    driver = spec["driver"]
    if driver in FILES:
        return FILES[driver](spec, fd, loop, on_room)
    if driver not in SERVERS:
        return None
    remote = SERVERS[driver](spec, fd, loop, on_room)
    cache = spec["cache"]
    if cache is None:
        return remote
    try:
        kept = open_log(cache["path"])
    except OSError:
        return remote  # a full disk must not keep the output from its server
    return Cached(remote, Local(cache, kept, loop, on_room))
