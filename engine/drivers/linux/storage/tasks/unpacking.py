"""Worker task: decompress a layer blob, verify its DiffID, make its files.

The blob is stdin. Progress is reported in compressed bytes consumed, at most one line a chunk.
"""

from __future__ import annotations

import hashlib
import io
import os
import queue
import threading
from collections.abc import Callable
from typing import Any

from engine.drivers.linux.storage.copying import copy_tree
from engine.drivers.linux.storage.decompress import CompressionError, plain_source
from engine.drivers.linux.storage.tar_reader import TarError, TarReader
from engine.drivers.linux.storage.unpack import Rules, Unpacker, UnpackError
from engine.drivers.linux.storage.worker import TaskError, report

_CHUNKS_AHEAD = 4


def unpack_layer(fields: dict[str, Any]) -> dict[str, Any]:
    """fields: directory (exists, empty), hashed: whether the DiffID is wanted, expects: which it must be then ("":
    any), below: None, or a directory (or "" for nothing) on a copy of which the layer is to be applied. Returns size,
    entries, implied, diff_id ("" unless hashed)."""
    directory, hashed, below = fields["directory"], fields["hashed"], fields["below"]
    if below:
        copy_tree(below, directory)
    plain = plain_source(io.FileIO(0, closefd=False))
    source = _Ahead(plain, hashed=hashed)
    root_fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    unpacker = Unpacker(root_fd, Rules(layer=True, merged=below is not None))
    reader = TarReader(source.read)
    try:
        unpacker.apply(reader)
        reader.drain()
    except (TarError, UnpackError, CompressionError) as error:
        raise TaskError("invalid", f"failed to register layer: {error}") from error
    finally:
        os.close(root_fd)
    found, expected = source.digest(), fields["expects"]
    if hashed and expected and found != expected:
        raise TaskError("invalid", f"layers from manifest don't match image configuration: {found} is not {expected}")
    return {
        "size": unpacker.size,
        "entries": unpacker.entries,
        "implied": [os.fsdecode(path) for path in unpacker.implied],
        "diff_id": found if hashed else "",
    }


class _Ahead:
    """Reads ahead in a thread, which decompresses and hashes while the main one makes files: all of it outside the
    GIL."""

    def __init__(self, source: Callable[[], bytes], *, hashed: bool) -> None:
        self._source = source
        self._hash = hashlib.sha256()
        self._hashed = hashed
        self._chunks: queue.Queue[bytes | BaseException] = queue.Queue(_CHUNKS_AHEAD)
        self._ended = False
        self._thread = threading.Thread(target=self._produce, name="decompress", daemon=True)
        self._thread.start()

    def read(self) -> bytes:
        if self._ended:
            return b""
        chunk = self._chunks.get()
        if isinstance(chunk, BaseException):
            self._ended = True
            raise chunk
        self._ended = not chunk
        return chunk

    def digest(self) -> str:
        """Of everything; call after `read` returned b""."""
        self._thread.join()
        return "sha256:" + self._hash.hexdigest()

    def _produce(self) -> None:
        try:
            while chunk := self._source():
                if self._hashed:
                    self._hash.update(chunk)
                self._chunks.put(chunk)
                report(progress=_consumed())
        except BaseException as error:
            self._chunks.put(error)  # the reader raises it.
        else:
            self._chunks.put(b"")


def _consumed() -> int:
    """How far the blob has been read; 0 for what cannot tell (a pipe)."""
    try:
        return os.lseek(0, 0, os.SEEK_CUR)
    except OSError:
        return 0
