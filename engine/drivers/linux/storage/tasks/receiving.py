"""Worker tasks that take an archive from stdin and turn it into files ready to be blobs.

`receive_archive` splits an image archive (docker load) into its members; `receive_layer` makes a plain layer tar of a
root file system in whatever compression (docker import); `compress_layer` makes a gzip of a plain layer (docker push).
"""

from __future__ import annotations

import hashlib
import io
import os
import queue
import threading
from collections.abc import Callable
from typing import Any

from engine.drivers.linux.storage.decompress import MAGIC_BYTES, CompressionError, plain_source
from engine.drivers.linux.storage.tar_reader import LINK, REGULAR, SYMLINK, TarError, TarReader
from engine.drivers.linux.storage.worker import TaskError, report

_MEMBERS_MAX = 100_000
_CHUNK = 1 << 20
_GZIP_LEVEL = 1
_GZIP_WINDOW_BITS = 31
"""With gzip's header, in which isal leaves time and name out: the same layer gives the same bytes."""
_BLOB_PREFIX = "blobs/sha256/"


def receive_archive(fields: dict[str, Any]) -> list[dict[str, Any]]:
    """fields: directory (exists, empty). Each regular member becomes a file there, named by its number. Returns a
    list of {name, file, digest, size, magic} and, for links, {name, link}."""
    members: list[dict[str, Any]] = []
    reader = TarReader(_stdin())
    syncing = _Syncing()
    try:
        for entry in reader:
            name = os.fsdecode(entry.name)
            if len(members) >= _MEMBERS_MAX:
                raise TaskError("invalid", "too many members in the archive")
            if entry.kind == REGULAR and entry.sparse is None:
                members.append({"name": name, **_member(reader, f"{fields['directory']}/{len(members)}", syncing)})
                _verify_name(members[-1])
                report(progress=sum(member.get("size", 0) for member in members[-1:]))
            elif entry.kind in (LINK, SYMLINK):
                members.append({"name": name, "link": os.fsdecode(entry.link), "hard": entry.kind == LINK})
        reader.drain()
    except (TarError, CompressionError) as error:
        raise TaskError("invalid", str(error)) from error
    syncing.finish()
    return members


def receive_layer(fields: dict[str, Any]) -> dict[str, Any]:
    """fields: file (to be made). Writes stdin decompressed. Returns {digest, size, magic}."""
    source = _stdin()

    def chunks() -> Any:
        while chunk := source():
            yield memoryview(chunk)
            report(progress=len(chunk))

    try:
        return _write(chunks(), fields["file"])
    except CompressionError as error:
        raise TaskError("invalid", str(error)) from error


def compress_layer(fields: dict[str, Any]) -> dict[str, Any]:
    """fields: file (to be made). Writes stdin as gzip. Returns {digest, size, magic}; progress counts plain bytes."""
    from isal import isal_zlib  # imported where it is needed: a worker starts for each layer that comes, too.

    compressor = isal_zlib.compressobj(_GZIP_LEVEL, wbits=_GZIP_WINDOW_BITS)

    def chunks() -> Any:
        while plain := os.read(0, _CHUNK):
            yield memoryview(compressor.compress(plain))
            report(progress=len(plain))
        yield memoryview(compressor.flush())

    return _write(chunks(), fields["file"])


def _stdin() -> Callable[[], bytes]:
    return plain_source(io.BufferedReader(io.FileIO(0, closefd=False), 1 << 18))


def _member(reader: TarReader, path: str, syncing: _Syncing) -> dict[str, Any]:
    return {"file": path, **_write(reader.chunks(), path, syncing.add)}


class _Syncing:
    """Syncs files while the next ones come."""

    def __init__(self) -> None:
        self._files: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._trouble: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="sync", daemon=True)
        self._thread.start()

    def add(self, fd: int) -> None:
        self._files.put(os.dup(fd))

    def finish(self) -> None:
        """Wait for the last one. Raises what the first failure was."""
        self._files.put(-1)
        self._thread.join()
        if self._trouble is not None:
            raise self._trouble

    def _run(self) -> None:
        while (fd := self._files.get()) >= 0:
            try:
                os.fsync(fd)
            except OSError as error:
                self._trouble = self._trouble or error
            finally:
                os.close(fd)


def _write(chunks: Any, path: str, sync: Callable[[int], None] = os.fsync) -> dict[str, Any]:
    """Write and hash at once; synced, because these files become blobs by a rename alone."""
    content_hash, size, magic = hashlib.sha256(), 0, b""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        for chunk in chunks:
            content_hash.update(chunk)
            size += len(chunk)
            if len(magic) < MAGIC_BYTES:
                magic += bytes(chunk[:MAGIC_BYTES])
            while chunk:
                chunk = chunk[os.write(fd, chunk) :]
        sync(fd)
    finally:
        os.close(fd)
    return {"digest": "sha256:" + content_hash.hexdigest(), "size": size, "magic": magic[:MAGIC_BYTES].hex()}


def _verify_name(member: dict[str, Any]) -> None:
    """A member that is named by a digest must have it."""
    _, found, hexadecimal = member["name"].rpartition(_BLOB_PREFIX)
    if found and member["digest"] != f"sha256:{hexadecimal}":
        raise TaskError("invalid", f"{member['name']} has the digest {member['digest']}")
