"""The driver fluentd: the forward protocol's Message mode, `[tag, time, record, option]` in msgpack.

Source: moby daemon/logger/fluentd, fluent-logger-golang; Forward Protocol Specification v1. With `acks` the option is
`{"chunk": id}`, the id being the message's last 24 bytes, which is how the outlet knows it.
"""

from __future__ import annotations

import binascii
import os
import struct

from .outlet import Outlet
from .remote import Remote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..loop import Loop
    from .lines import Line, Part


def open_fluentd(spec: dict[str, Any], fd: int, loop: Loop, on_room: Callable[[], None]) -> Remote:
    return Remote(Fluentd(spec), Outlet(spec, fd, loop, on_room))


class Fluentd:
    """spec: `tag`, `record` (fields of every entry), `precise` (times with nanoseconds), `queue`."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._tag, self._record = spec["tag"], spec["record"]
        self._precise, self._acks = spec["precise"], spec["queue"]["acks"]

    def __call__(self, stream: str, lines: list[Line], now_ns: int) -> list[bytes]:
        seconds, nanoseconds = divmod(now_ns, 1_000_000_000)
        when = struct.pack(">BI", 0xCE, seconds)
        if self._precise:
            when = struct.pack(">BBII", 0xD7, 0, seconds, nanoseconds)
        fields = {**self._record, "source": stream}
        fields.pop("log", None)
        inside = b"".join(string(k.encode()) + string(v.encode()) for k, v in fields.items()) + string(b"log")
        before = b"\x94" + string(self._tag.encode()) + when
        whole = before + map_of(len(fields) + 1) + inside
        messages = []
        for line, part in lines:
            begun = whole if part is None else before + map_of(len(fields) + 5) + _partial(part) + inside
            messages.append(begun + string(line) + self._option(seconds))
        return messages

    def _option(self, seconds: int) -> bytes:
        if not self._acks:
            return b"\x80"
        ident = binascii.b2a_base64(struct.pack("<q", seconds) + os.urandom(8), newline=False)
        return b"\x81" + string(b"chunk") + string(ident)


def _partial(part: Part) -> bytes:
    ident, ordinal, last = part
    fields = (
        ("partial_message", "true"),
        ("partial_id", ident),
        ("partial_ordinal", str(ordinal)),
        ("partial_last", "true" if last else "false"),
    )
    return b"".join(string(key.encode()) + string(value.encode()) for key, value in fields)


def string(data: bytes) -> bytes:
    size = len(data)
    if size < 32:
        return bytes((0xA0 | size,)) + data
    if size < 256:
        return bytes((0xD9, size)) + data
    if size < 65536:
        return struct.pack(">BH", 0xDA, size) + data
    return struct.pack(">BI", 0xDB, size) + data


def map_of(count: int) -> bytes:
    return bytes((0x80 | count,)) if count < 16 else struct.pack(">BH", 0xDE, count)
