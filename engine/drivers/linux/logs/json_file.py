"""The driver json-file: what its options mean to the writer, and how its entries are found in bytes and decoded.

The encoding is the writer's (runtime/supervisor/logs/json_file.py).
"""

from __future__ import annotations

import json
import os
from typing import IO, Any

import msgspec

from engine.aggregates.values import go_values as go
from engine.aggregates.values.log_subject import file_attributes
from engine.drivers.ports.logs import LogEntry
from engine.drivers.ports.runtime import LogSpec

BLOCK_BYTES = 1 << 16
FIRST_LINE_BYTES_MAX = 1 << 18
"""A line of 16 KiB, every byte of it escaped, with its attributes."""


def plan(log: LogSpec) -> dict[str, Any]:
    """attrs: encoded as Go does, keys sorted. Raises ValueError with Go's words."""
    options = log.subject.config
    attributes = file_attributes(log.subject)
    return {
        "driver": "json-file",
        "path": log.path,
        "max_size": -1 if options.get("max-size", "-1") == "-1" else go.decimal_bytes(options["max-size"]),
        "max_files": int(options.get("max-file") or 1),
        "compress": go.boolean(options.get("compress") or "false"),
        "attrs": go_json(attributes) if attributes else b"",
    }


def go_json(value: Any) -> bytes:
    """As Go's encoding/json: sorted keys, no spaces, HTML characters escaped."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode(errors="replace")


class _Timed(msgspec.Struct):
    time: str = ""


class JsonFileFormat:
    """One reader's decoding; what it is given are a file's bytes in order."""

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(LogEntry)
        self._rest = b""

    def begin(self) -> None:
        """Another file: the unfinished end of the last one stays unfinished."""
        self._rest = b""

    def entries(self, data: bytes) -> list[LogEntry]:
        data = self._rest + data if self._rest else data
        cut = data.rfind(b"\n") + 1
        self._rest = data[cut:]
        try:
            return self._decoder.decode_lines(data[:cut])
        except msgspec.MsgspecError:
            return self._salvage(data[:cut])

    def _salvage(self, data: bytes) -> list[LogEntry]:
        """Line by line, leaving out what a crash or a full disk garbled. A torn line runs into the next one: what
        begins like an entry inside it is tried, too."""
        entries = []
        for line in data.split(b"\n"):
            for piece in (line, line[max(line.rfind(b'{"log":"'), 0) :]):
                try:
                    entries.append(self._decoder.decode(piece))
                    break
                except msgspec.MsgspecError:
                    continue
        return entries

    @staticmethod
    def seek_last(file: IO[bytes], lines: int) -> int:
        """Go to where the last `lines` complete lines begin; how many there are, at most `lines`."""
        end = position = file.seek(0, os.SEEK_END)
        found = -1  # the newline that ends the last line is not one between two
        while position > 0:
            size = min(BLOCK_BYTES, position)
            position -= size
            file.seek(position)
            block = file.read(size)
            count = block.count(b"\n")
            if found + count >= lines:
                cut = len(block)
                for _ in range(lines - found):
                    cut = block.rindex(b"\n", 0, cut)
                file.seek(position + cut + 1)
                return lines
            found += count
        file.seek(end if lines == 0 else 0)
        return max(found + 1, 0)

    @staticmethod
    def first_time(head: bytes) -> str:
        """When the first entry was written, as it says; "" when that can not be told."""
        try:
            return msgspec.json.decode(head.partition(b"\n")[0], type=_Timed).time
        except msgspec.DecodeError:
            return ""
