"""Reading tar archives, fast and distrustful.

Owns the formats: ustar, PAX (paths, sizes, times, owners, xattrs), GNU (long names and links, base-256 numbers), GNU
and PAX sparse files. Refuses to know: what is done with the entries; names come out as they were written, as bytes.
Sources: POSIX pax; GNU tar manual, "Basic Tar Format", "Storing Sparse Files"; Go's archive/tar for what the
ecosystem accepts. Stdlib only: workers import it. Several times as fast as `tarfile`, because it makes no object tree
and never seeks.

Global PAX headers are read and not applied, as in moby.
"""

from __future__ import annotations

import functools
import struct
import zlib
from collections.abc import Callable, Iterator

BLOCK = 512
EXTENDED_BYTES_MAX = 1 << 20
"""Of one extended header, long name or sparse map: Go's limit too."""

REGULAR, LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = (ord(c) for c in "0123456")
_CONTIGUOUS, _OLD_REGULAR = ord("7"), 0
_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL, _GNU_SPARSE, _SOLARIS_PAX = (ord(c) for c in "LKxgSX")
_HEADER_ONLY = frozenset({LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO})
_KNOWN = _HEADER_ONLY | {REGULAR, _GNU_SPARSE}

_HEADER = struct.Struct("100s8s8s8s12s12s8sB100s8s32s32s8s8s155s12x")
_ZERO_BLOCK = bytes(BLOCK)
_XATTR = b"SCHILY.xattr."
_INT64_MAX = (1 << 63) - 1


class TarError(ValueError):
    """The archive is damaged, truncated or of a kind this reader does not know."""


class Entry:
    """One member. times in ns; data_size: bytes in the archive; size: of the file, larger where it is sparse."""

    __slots__ = (
        *("data_size", "gid", "kind", "link", "major", "minor", "mode"),
        *("mtime_ns", "name", "size", "sparse", "uid", "xattrs"),
    )

    name: bytes
    kind: int
    mode: int
    uid: int
    gid: int
    size: int
    data_size: int
    mtime_ns: int
    link: bytes
    major: int
    minor: int
    xattrs: dict[bytes, bytes] | None
    sparse: list[tuple[int, int]] | None


class TarReader:
    """Iterate entries; read the current one's data with `chunks()` before the next. What is not read is skipped.

    source: returns the next bytes of the archive, b"" at its end.
    """

    def __init__(self, source: Callable[[], bytes]) -> None:
        self._source = source
        self._buffer = memoryview(b"")
        self._position = 0
        self._data_left = 0
        self._padding = 0

    def __iter__(self) -> Iterator[Entry]:
        pax: dict[bytes, bytes] = {}
        long_name = long_link = b""
        while True:
            self._skip(self._data_left + self._padding)
            header = self._block()
            if header is None or header == _ZERO_BLOCK:
                self._end(header)
                return
            entry = self._parse(header)
            kind = entry.kind
            if kind in (_PAX, _SOLARIS_PAX):
                pax = _pax_records(self._extended(entry.size))
            elif kind == _PAX_GLOBAL:
                _pax_records(self._extended(entry.size))
            elif kind == _LONG_NAME:
                long_name = self._extended(entry.size).partition(b"\0")[0]
            elif kind == _LONG_LINK:
                long_link = self._extended(entry.size).partition(b"\0")[0]
            else:
                if long_name:
                    entry.name = long_name
                if long_link:
                    entry.link = long_link
                self._prepare(entry, header, pax)
                yield entry
                pax, long_name, long_link = {}, b"", b""

    def chunks(self) -> Iterator[memoryview]:
        """The data of the current entry (of a sparse one: its data segments, one after the other)."""
        while self._data_left:
            if self._position == len(self._buffer):
                self._refill()
            part = self._buffer[self._position : self._position + self._data_left]
            self._position += len(part)
            self._data_left -= len(part)
            yield part

    def rest_at_hand(self) -> memoryview | None:
        """The data of the current entry, as far as it has not been read, if all of it has come already: most files are
        small. Else None, and `chunks` has it."""
        part = self._buffer[self._position : self._position + self._data_left]
        if len(part) < self._data_left:
            return None
        self._position += self._data_left
        self._data_left = 0
        return part

    def drain(self) -> None:
        """Read the source to its end: what follows the archive belongs to the layer's digest."""
        self._buffer, self._position = memoryview(b""), 0
        while self._source():
            pass

    def _end(self, header: bytes | None) -> None:
        """Two zero blocks end an archive; like Go's reader, accept an end without them."""
        if header is None:
            return
        second = self._block()
        if second is not None and second != _ZERO_BLOCK:
            raise TarError("archive/tar: invalid tar header")

    def _parse(self, header: bytes) -> Entry:
        (name, mode, uid, gid, size, mtime, checksum, kind, link, magic, _, _, major, minor, prefix) = _HEADER.unpack(
            header
        )
        _verify_checksum(header, checksum)
        entry = Entry()
        entry.name = name.partition(b"\0")[0]
        if magic == b"ustar\x0000" and prefix[:1] != b"\0":
            entry.name = prefix.partition(b"\0")[0] + b"/" + entry.name
        entry.kind = REGULAR if kind in (_OLD_REGULAR, _CONTIGUOUS) else kind
        entry.mode = _number(mode) & 0o7777
        entry.uid = _number(uid)
        entry.gid = _number(gid)
        entry.size = _number(size)
        entry.mtime_ns = _number(mtime) * 1_000_000_000
        entry.link = link.partition(b"\0")[0]
        entry.major = entry.minor = 0
        if entry.kind in (CHARACTER, BLOCK_DEVICE):
            entry.major, entry.minor = _number(major), _number(minor)
        entry.xattrs = entry.sparse = None
        if entry.size < 0:
            raise TarError("archive/tar: negative size")
        return entry

    def _prepare(self, entry: Entry, header: bytes, pax: dict[bytes, bytes]) -> None:
        """Apply extended records and find out where the data is."""
        if pax:
            _apply_pax(entry, pax)
        if entry.kind not in _KNOWN:
            raise TarError(f"unhandled tar header type {entry.kind}")
        if entry.kind == REGULAR and entry.name.endswith(b"/"):
            entry.kind = DIRECTORY  # the V7 convention, which Go keeps.
        stored = 0 if entry.kind in _HEADER_ONLY else entry.size
        entry.data_size = stored
        self._data_left, self._padding = stored, -stored % BLOCK
        if entry.kind == _GNU_SPARSE:
            self._old_gnu_sparse(entry, header)
        elif pax and entry.kind == REGULAR:
            self._pax_sparse(entry, pax)

    def _old_gnu_sparse(self, entry: Entry, header: bytes) -> None:
        """The map lies in the header and in extension blocks before the data, which the size does not count."""
        entry.kind = REGULAR
        segments: list[tuple[int, int]] = []
        more = _sparse_fields(header[386:482], segments)
        extended = header[482] != 0
        entry.size = _number(header[483:495])
        while extended:
            block = self._block()
            if block is None or len(segments) * 24 > EXTENDED_BYTES_MAX:
                raise TarError("archive/tar: damaged sparse map")
            more = more and _sparse_fields(block[:504], segments)
            extended = block[504] != 0
        entry.sparse = _checked_sparse(segments, entry)

    def _pax_sparse(self, entry: Entry, pax: dict[bytes, bytes]) -> None:
        if pax.get(b"GNU.sparse.major") == b"1" and pax.get(b"GNU.sparse.minor") == b"0":
            segments = self._sparse_1_0()
        elif b"GNU.sparse.map" in pax:
            numbers = [_decimal(text) for text in pax[b"GNU.sparse.map"].split(b",") if text]
            if len(numbers) % 2:
                raise TarError("archive/tar: damaged sparse map")
            segments = list(zip(numbers[::2], numbers[1::2], strict=True))
        else:
            return
        entry.size = _decimal(pax.get(b"GNU.sparse.realsize", pax.get(b"GNU.sparse.size", b"0")))
        entry.name = pax.get(b"GNU.sparse.name", entry.name)
        entry.data_size = self._data_left
        entry.sparse = _checked_sparse(segments, entry)

    def _sparse_1_0(self) -> list[tuple[int, int]]:
        """The map is the start of the data: decimal numbers, one a line, padded to a block."""
        numbers: list[int] = []
        text, wanted = b"", -1
        while wanted < 0 or len(numbers) < wanted:
            if self._data_left < BLOCK or len(text) > EXTENDED_BYTES_MAX:
                raise TarError("archive/tar: damaged sparse map")
            text += self._block() or b""
            self._data_left -= BLOCK
            *lines, text = text.split(b"\n")
            numbers += [_decimal(line) for line in lines]
            if wanted < 0 and numbers:
                wanted = 2 * numbers.pop(0)
        return list(zip(numbers[0:wanted:2], numbers[1:wanted:2], strict=True))

    def _extended(self, size: int) -> bytes:
        if size > EXTENDED_BYTES_MAX:
            raise TarError("archive/tar: header field too long")
        self._data_left, self._padding = size, -size % BLOCK
        return b"".join(self.chunks())

    def _block(self) -> bytes | None:
        """The next 512 bytes; None at the end of the archive."""
        position = self._position
        if len(self._buffer) - position >= BLOCK:
            self._position = position + BLOCK
            return bytes(self._buffer[position : position + BLOCK])
        rest = bytes(self._buffer[position:])
        while len(rest) < BLOCK:
            more = self._source()
            if not more:
                if rest:
                    raise TarError("unexpected EOF")
                self._buffer, self._position = memoryview(b""), 0
                return None
            rest += more
        self._buffer, self._position = memoryview(rest), BLOCK
        return rest[:BLOCK]

    def _skip(self, size: int) -> None:
        self._data_left = self._padding = 0
        while size:
            if self._position == len(self._buffer):
                self._refill()
            step = min(size, len(self._buffer) - self._position)
            self._position += step
            size -= step

    def _refill(self) -> None:
        chunk = self._source()
        if not chunk:
            raise TarError("unexpected EOF")
        self._buffer, self._position = memoryview(chunk), 0


@functools.lru_cache(4096)
def _number(field: bytes) -> int:
    """Octal text, or GNU's base 256 when the first bit is set. Modes, owners and times repeat: remembered."""
    first = field[0]
    if first & 0x80:
        number = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
        if first & 0x40:
            number -= 1 << (8 * len(field) - 1)
        if not -_INT64_MAX <= number <= _INT64_MAX:
            raise TarError("archive/tar: number out of range")
        return number
    try:
        return int(field.partition(b"\0")[0].strip() or b"0", 8)
    except ValueError as error:
        raise TarError("archive/tar: invalid tar header") from error


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 20:
        raise TarError("archive/tar: invalid number in an extended header")
    return int(text)


def _verify_checksum(header: bytes, field: bytes) -> None:
    """The sum of all bytes with the field itself as spaces. Adler-32's low half is that sum plus one (modulo 65,521),
    computed in C; only when it differs the exact sums, unsigned and signed, are made."""
    said = _number(field)
    others = sum(field)
    if (zlib.adler32(header) - 1 - others + 256 - said) & 0xFFFF == 0:
        return
    unsigned = sum(header) - others + 256
    signed = unsigned - 256 * sum(byte > 127 for byte in header[:148] + header[156:])
    if said not in (unsigned, signed):
        raise TarError("archive/tar: invalid tar header")


def _pax_records(data: bytes) -> dict[bytes, bytes]:
    """`<length> <key>=<value>\\n`, where the length counts itself. The sparse format 0.0 repeats two keys; they are
    gathered into 0.1's map."""
    records: dict[bytes, bytes] = {}
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 20)
        if space < 0:
            raise TarError("archive/tar: damaged extended header")
        end = position + _decimal(data[position:space])
        record = data[space + 1 : end - 1]
        key, equals, value = record.partition(b"=")
        if end > len(data) or end <= space + 1 or data[end - 1 : end] != b"\n" or not equals or not key:
            raise TarError("archive/tar: damaged extended header")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            records[b"GNU.sparse.map"] = records.get(b"GNU.sparse.map", b"") + value + b","
        else:
            records[key] = value
        position = end
    return records


def _apply_pax(entry: Entry, pax: dict[bytes, bytes]) -> None:
    for key, value in pax.items():
        if key.startswith(_XATTR):
            if entry.xattrs is None:
                entry.xattrs = {}
            entry.xattrs[key[len(_XATTR) :]] = value
        elif not value:
            continue  # POSIX: an empty value deletes the record.
        elif key == b"path":
            entry.name = value
        elif key == b"linkpath":
            entry.link = value
        elif key == b"size":
            entry.size = _decimal(value)
        elif key == b"uid":
            entry.uid = _decimal(value)
        elif key == b"gid":
            entry.gid = _decimal(value)
        elif key == b"mtime":
            entry.mtime_ns = _pax_time(value)
    if b"\0" in entry.name or b"\0" in entry.link:
        raise TarError("archive/tar: a name with a NUL byte")


def _pax_time(text: bytes) -> int:
    """Decimal seconds with a fraction, perhaps negative, to ns; digits beyond are cut."""
    seconds, _, fraction = text.partition(b".")
    negative = seconds.startswith(b"-")
    fraction = (fraction + b"000000000")[:9]
    nanoseconds = _decimal(seconds.lstrip(b"-")) * 1_000_000_000 + _decimal(fraction)
    if nanoseconds > _INT64_MAX:
        raise TarError("archive/tar: time out of range")
    return -nanoseconds if negative else nanoseconds


def _sparse_fields(fields: bytes, segments: list[tuple[int, int]]) -> bool:
    """Append (offset, size) pairs of 24 bytes; False once an empty one ended the map."""
    for start in range(0, len(fields), 24):
        if fields[start] == 0:
            return False
        segments.append((_number(fields[start : start + 12]), _number(fields[start + 12 : start + 24])))
    return True


def _checked_sparse(segments: list[tuple[int, int]], entry: Entry) -> list[tuple[int, int]]:
    """Segments must be ordered, disjoint and inside the file, and must hold exactly the data that is there."""
    end = 0
    for offset, size in segments:
        if size < 0 or offset < end or offset + size > entry.size:
            raise TarError("archive/tar: damaged sparse map")
        end = offset + size
    if end > _INT64_MAX or entry.size > _INT64_MAX or sum(size for _, size in segments) > entry.data_size:
        raise TarError("archive/tar: damaged sparse map")
    return segments
