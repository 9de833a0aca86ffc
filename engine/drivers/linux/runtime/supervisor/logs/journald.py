"""The driver journald: the journal's native protocol, with Docker's fields.

`NAME=value` a line, or `NAME`, the value's length in 8 bytes and the value where it has a newline. A message too big
for a datagram is sealed in a memory file. Source: moby daemon/logger/journald, systemd's JOURNAL_NATIVE_PROTOCOL.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct

from .. import wire
from .json_file import timestamp
from .outlet import Outlet
from .remote import Remote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..loop import Loop
    from .lines import Line

ERROR, INFO = b"3", b"6"
NOT_LAST = b"CONTAINER_PARTIAL_LAST=false\nCONTAINER_PARTIAL_MESSAGE=true\n"
ALL_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def open_journald(spec: dict[str, Any], fd: int, loop: Loop, on_room: Callable[[], None]) -> Remote:
    return Remote(Journald(spec), Outlet(spec, fd, loop, on_room, send_as_file))


class Journald:
    """spec: `fields` of every entry. Entries are numbered, and the numbers belong to one writer's life (an epoch)."""

    def __init__(self, spec: dict[str, Any]) -> None:
        epoch = {"CONTAINER_LOG_EPOCH": os.urandom(32).hex()}
        self._fields = b"".join(field(k.encode(), v.encode()) for k, v in {**epoch, **spec["fields"]}.items())
        self._ordinal = 0

    def __call__(self, stream: str, lines: list[Line], now_ns: int) -> list[bytes]:
        before = field(b"PRIORITY", ERROR if stream == "stderr" else INFO)
        after = self._fields + field(b"SYSLOG_TIMESTAMP", timestamp(now_ns))
        messages = []
        for line, part in lines:
            self._ordinal += 1
            message = before + field(b"MESSAGE", line) + after + b"CONTAINER_LOG_ORDINAL=%d\n" % self._ordinal
            if part is not None:
                ident, ordinal, last = part
                message += b"CONTAINER_PARTIAL_ID=%s\nCONTAINER_PARTIAL_ORDINAL=%d\n" % (ident.encode(), ordinal)
                message += b"CONTAINER_PARTIAL_LAST=true\n" if last else NOT_LAST
            messages.append(message)
        return messages


def field(name: bytes, value: bytes) -> bytes:
    if b"\n" in value:
        return name + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
    return name + b"=" + value + b"\n"


def send_as_file(sock: socket.socket, message: bytes) -> None:
    memory = os.memfd_create("journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(message)
        while view:
            view = view[os.write(memory, view) :]
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, ALL_SEALS)
        sock.sendmsg([b""], wire.ancillary((memory,)))
    finally:
        os.close(memory)
