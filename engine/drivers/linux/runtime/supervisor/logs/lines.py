"""Lines out of chunks, for log drivers that send or store one message a line.

A line longer than 16 KiB comes in parts, told by an id, a number from 1 and whether it is the last (moby daemon/logger/
copier.go). What no newline ended comes as a part that is not the last.
"""

from __future__ import annotations

import os

PARTIAL_SIZE = 16 * 1024

TYPE_CHECKING = False
if TYPE_CHECKING:
    Part = tuple[str, int, bool]
    Line = tuple[bytes, Part | None]


class Lines:
    """One stream."""

    __slots__ = ("_ident", "_ordinal", "_rest")

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._ident = ""
        self._ordinal = 0

    def feed(self, data: bytes) -> list[Line]:
        """What is complete; the rest waits, at most 16 KiB of it."""
        whole = data.split(b"\n")
        rest = whole.pop()
        found: list[Line] = []
        if whole:
            if self._rest:
                whole[0] = b"".join([*self._rest, whole[0]])
                self._rest = []
            if self._ident or max(map(len, whole)) > PARTIAL_SIZE:
                for line in whole:
                    self._long(line, found)
            else:
                found = [(line, None) for line in whole]
        if rest:
            self._rest.append(rest)
            if sum(map(len, self._rest)) >= PARTIAL_SIZE:
                self._begin(found)
        return found

    def finish(self) -> list[Line]:
        rest, self._rest = b"".join(self._rest), []
        return [(rest, self._part(last=False))] if rest else []

    def _long(self, line: bytes, found: list[Line]) -> None:
        while len(line) > PARTIAL_SIZE:
            size = character_boundary(line, PARTIAL_SIZE)
            found.append((line[:size], self._part(last=False)))
            line = line[size:]
        found.append((line, self._part(last=True) if self._ident else None))

    def _begin(self, found: list[Line]) -> None:
        rest = b"".join(self._rest)
        while len(rest) >= PARTIAL_SIZE:
            size = character_boundary(rest, PARTIAL_SIZE)
            found.append((rest[:size], self._part(last=False)))
            rest = rest[size:]
        self._rest = [rest] if rest else []

    def _part(self, *, last: bool) -> Part:
        self._ident = self._ident or os.urandom(32).hex()
        self._ordinal += 1
        part = self._ident, self._ordinal, last
        if last:
            self._ident, self._ordinal = "", 0
        return part


class ByLine:
    """A writer for which output is lines: `take` gets them as they become complete."""

    def __init__(self) -> None:
        self._lines: dict[str, Lines] = {}

    def feed(self, stream: str, data: bytes, now_ns: int) -> None:
        lines = self._lines.get(stream)
        if lines is None:
            lines = self._lines[stream] = Lines()
        found = lines.feed(data)
        if found:
            self.take(stream, found, now_ns)

    def finish(self, stream: str, now_ns: int) -> None:
        lines = self._lines.pop(stream, None)
        found = lines.finish() if lines is not None else []
        if found:
            self.take(stream, found, now_ns)

    def take(self, stream: str, lines: list[Line], now_ns: int) -> None:
        raise NotImplementedError


def character_boundary(data: bytes, size: int) -> int:
    """The largest cut <= size that splits no UTF-8 character (moby cuts blindly and loses the character)."""
    if size >= len(data):
        return len(data)
    for cut in range(size, size - 4, -1):
        if data[cut] & 0xC0 != 0x80:
            return cut
    return size
