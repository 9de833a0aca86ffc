"""Decompression by magic number: gzip (isal, all members), zstd, or none.

Owns one function that turns a file of compressed bytes into a source of plain chunks. The media type is not asked: what
the bytes are is what they are, and moby does the same (pkg/archive, DetectCompression). xz and bzip2, which moby reads
for `docker load` and `import`, come from the standard library.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, BinaryIO, cast

CHUNK = 1 << 20
_BUFFER_BYTES = 256 << 10

GZIP, ZSTD, XZ, BZIP2 = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\x00", b"BZh"
MAGIC_BYTES = 6


class CompressionError(ValueError):
    """The compressed stream is damaged or truncated."""


def plain_source(raw: io.RawIOBase) -> Callable[[], bytes]:
    """A function that returns the next plain bytes of `raw`, b"" at the end. Raises CompressionError."""
    magic = b""
    while len(magic) < MAGIC_BYTES and (part := raw.read(MAGIC_BYTES - len(magic))):
        magic += part
    file = io.BufferedReader(_Rejoined(magic, raw), _BUFFER_BYTES)
    if magic.startswith(GZIP):
        return _guarded(_gzip(file))
    if magic.startswith(ZSTD):
        return _guarded(_zstd(file))
    if magic.startswith(XZ):
        import lzma  # imported where it is needed: most layers are gzip, and a worker starts for each.

        return _guarded(cast("BinaryIO", lzma.LZMAFile(file)))
    if magic.startswith(BZIP2):
        import bz2

        return _guarded(cast("BinaryIO", bz2.BZ2File(file)))
    return lambda: file.read1(CHUNK)


class _Rejoined(io.RawIOBase):
    """A stream with its first bytes put back: a pipe can not be rewound."""

    def __init__(self, first: bytes, rest: io.RawIOBase) -> None:
        self._first = first
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if not self._first:
            return self._rest.readinto(buffer)
        size = min(len(buffer), len(self._first))
        buffer[:size], self._first = self._first[:size], self._first[size:]
        return size


def _gzip(file: BinaryIO) -> BinaryIO:
    from isal import igzip

    return cast("BinaryIO", igzip.IGzipFile(fileobj=file, mode="rb"))  # type: ignore[no-untyped-call] # no types


def _zstd(file: BinaryIO) -> BinaryIO:
    import zstandard

    return cast("BinaryIO", zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True))


def _guarded(stream: BinaryIO) -> Callable[[], bytes]:
    """Each library has its own words for damage; they become one."""

    def read() -> bytes:
        try:
            return stream.read(CHUNK)
        except OSError as error:
            if error.errno:
                raise  # the disk, not the data.
            raise CompressionError(str(error)) from error
        except MemoryError:
            raise
        except Exception as error:  # EOFError, zlib.error, IsalError, ZstdError, LZMAError
            raise CompressionError(str(error) or "unexpected EOF") from error

    return read
