"""Writing tar archives of trees: for `docker cp`, export, commit and save.

Owns the encoding: ustar headers, PAX records only where a field does not fit, so that the same tree gives the same
bytes. Like moby's archives: no user or group names, times cut to seconds, sockets left out, hard links after their
first name. Kept xattrs are security.capability and user.*. Stdlib only: workers import it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Mapping

BLOCK = 512
RECORD_END = bytes(2 * BLOCK)
_FLUSH_BYTES = 256 << 10
_SMALL_FILE_BYTES = 128 << 10
_OCTAL_ID_MAX = 0o7777777
_OCTAL_SIZE_MAX = 0o77777777777
_KINDS = {
    stat.S_IFREG: b"0",
    stat.S_IFLNK: b"2",
    stat.S_IFCHR: b"3",
    stat.S_IFBLK: b"4",
    stat.S_IFDIR: b"5",
    stat.S_IFIFO: b"6",
}


def header(
    name: bytes,
    *,
    kind: bytes = b"0",
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    size: int = 0,
    mtime_s: int = 0,
    link: bytes = b"",
    device: tuple[int, int] = (0, 0),
    xattrs: Mapping[bytes, bytes] | None = None,
) -> bytes:
    """The header block of one entry, after a PAX header where one is needed."""
    records: dict[bytes, bytes] = {}
    if len(name) > 100 or not name.isascii():
        records[b"path"] = name
    if len(link) > 100 or not link.isascii():
        records[b"linkpath"] = link
    limits = ((b"uid", uid, _OCTAL_ID_MAX), (b"gid", gid, _OCTAL_ID_MAX), (b"size", size, _OCTAL_SIZE_MAX))
    for key, number, limit in limits:
        if number > limit:
            records[key] = b"%d" % number
    if not 0 <= mtime_s <= _OCTAL_SIZE_MAX:
        records[b"mtime"] = b"%d" % mtime_s
    for key, value in sorted((xattrs or {}).items()):
        records[b"SCHILY.xattr." + key] = value
    block = _block(
        name, kind, mode, uid if uid <= _OCTAL_ID_MAX else 0, gid if gid <= _OCTAL_ID_MAX else 0,
        size if size <= _OCTAL_SIZE_MAX else 0, mtime_s if 0 <= mtime_s <= _OCTAL_SIZE_MAX else 0, link, device,
    )  # fmt: skip
    return _pax(name, records) + block if records else block


def padding(size: int) -> bytes:
    return bytes(-size % BLOCK)


class TreeWriter:
    """Writes entries to a file descriptor (a pipe or a file), in the order they are added; `finish` ends the
    archive."""

    def __init__(self, fd: int, *, hidden: Collection[bytes] = ()) -> None:
        """hidden: directories that are kept as such, but with nothing of what is below them."""
        self._fd = fd
        self._hidden = frozenset(hidden)
        self._waiting = bytearray()
        self._links: dict[tuple[int, int], bytes] = {}

    def tree(self, source: bytes, name: bytes, *, skip_root: bool = False) -> None:
        """Add what is at `source`, under `name`, and everything below, sorted by name. What vanishes meanwhile is left
        out."""
        found = os.lstat(source)
        if not skip_root:
            self.entry(source, name, found)
        if not stat.S_ISDIR(found.st_mode) or source in self._hidden:
            return
        for child in sorted(os.listdir(source)):
            path = source.rstrip(b"/") + b"/" + child
            below = name.rstrip(b"/") + b"/" + child if name.strip(b"/") or name == b"/" else child
            try:
                self.tree(path, below)
            except FileNotFoundError:
                continue

    def entry(
        self, source: bytes, name: bytes, found: os.stat_result, *, keep_xattr: Callable[[bytes], bool] | None = None
    ) -> None:
        """Add one thing without what is below it."""
        kind = _KINDS.get(stat.S_IFMT(found.st_mode))
        if kind is None:
            return  # a socket: no archive can hold it.
        if kind == b"5":
            name = name.rstrip(b"/") + b"/"
        first = self._links.get((found.st_dev, found.st_ino)) if found.st_nlink > 1 and kind != b"5" else None
        size = found.st_size if kind == b"0" and first is None else 0
        fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC) if size else -1
        try:
            self._put(
                header(
                    name,
                    kind=b"1" if first is not None else kind,
                    mode=stat.S_IMODE(found.st_mode),
                    uid=found.st_uid,
                    gid=found.st_gid,
                    size=size,
                    mtime_s=found.st_mtime_ns // 1_000_000_000,
                    link=first if first is not None else os.readlink(source) if kind == b"2" else b"",
                    device=(os.major(found.st_rdev), os.minor(found.st_rdev)) if kind in b"34" else (0, 0),
                    xattrs=_xattrs(source, keep_xattr or _portable) if first is None else None,
                )
            )
            if first is None and found.st_nlink > 1 and kind != b"5":
                self._links[found.st_dev, found.st_ino] = name
            if size:
                self._content(fd, size)
        finally:
            if fd >= 0:
                os.close(fd)

    def raw(self, block: bytes) -> None:
        """Add bytes that are an entry already."""
        self._put(block)

    def finish(self) -> None:
        self._put(RECORD_END)
        self.flush()

    def flush(self) -> None:
        data = memoryview(bytes(self._waiting))
        self._waiting.clear()
        while data:
            data = data[os.write(self._fd, data) :]

    def _put(self, data: bytes) -> None:
        self._waiting += data
        if len(self._waiting) >= _FLUSH_BYTES:
            self.flush()

    def _content(self, fd: int, size: int) -> None:
        """Exactly `size` bytes: a file that shrank meanwhile ends in zeros, one that grew is cut."""
        left = size
        if size <= _SMALL_FILE_BYTES:
            data = os.read(fd, size)
            self._waiting += data
            left -= len(data)
        else:
            self.flush()
            while left:
                sent = os.sendfile(self._fd, fd, None, min(left, 1 << 24))  # the kernel moves it, we do not see it.
                if not sent:
                    break
                left -= sent
        while left:
            part = os.read(fd, min(left, 1 << 20)) or bytes(min(left, 1 << 20))
            self._put(part)
            left -= len(part)
        self._put(padding(size))


def _portable(name: bytes) -> bool:
    return name == b"security.capability" or name.startswith(b"user.")


def _xattrs(source: bytes, keep: Callable[[bytes], bool]) -> dict[bytes, bytes] | None:
    try:
        names = os.listxattr(source, follow_symlinks=False)
    except OSError:
        return None  # a file system without them.
    return {
        os.fsencode(name): os.getxattr(source, name, follow_symlinks=False) for name in names if keep(os.fsencode(name))
    } or None


def _block(
    name: bytes,
    kind: bytes,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    mtime_s: int,
    link: bytes,
    device: tuple[int, int],
) -> bytes:
    head = b"%s%07o\0%07o\0%07o\0%011o\0%011o\0" % (name[:100].ljust(100, b"\0"), mode, uid, gid, size, mtime_s)
    numbers = b"%07o\0%07o\0" % device if kind in (b"3", b"4") else bytes(16)
    tail = b"%s%sustar\x0000%s%s%s" % (kind, link[:100].ljust(100, b"\0"), bytes(64), numbers, bytes(167))
    checksum = sum(head) + sum(tail) + 8 * 32
    return head + b"%06o\0 " % checksum + tail


def _pax(name: bytes, records: Mapping[bytes, bytes]) -> bytes:
    data = b"".join(_record(key, value) for key, value in sorted(records.items()))
    directory, _, base = name.rstrip(b"/").rpartition(b"/")
    place = (directory + b"/" if directory else b"") + b"PaxHeaders.0/" + base
    ascii_place = bytes(byte for byte in place if byte < 128)[:100]
    return _block(ascii_place, b"x", 0, 0, 0, len(data), 0, b"", (0, 0)) + data + padding(len(data))


def _record(key: bytes, value: bytes) -> bytes:
    """`<length> <key>=<value>\\n`; the length counts its own digits."""
    rest = b" %s=%s\n" % (key, value)
    length = len(rest) + 1
    while length != len(rest) + len(b"%d" % length):
        length = len(rest) + len(b"%d" % length)
    return b"%d%s" % (length, rest)
