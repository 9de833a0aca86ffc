"""Worker tasks that take an archive in and turn it into files ready to be blobs.

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

from engine.drivers.linux.storage.decompress import GZIP, MAGIC_BYTES, ZSTD, CompressionError, plain_source
from engine.drivers.linux.storage.tar_reader import LINK, REGULAR, SYMLINK, TarError, TarReader
from engine.drivers.linux.storage.tasks.uploads import behind, incoming
from engine.drivers.linux.storage.worker import TaskError, report

_TAR_MAGIC, _TAR_MAGIC_AT = b"ustar", 257
_HEAD_BYTES = _TAR_MAGIC_AT + len(_TAR_MAGIC)
_MEMBERS_MAX = 100_000
_CHUNK = 1 << 20
_GZIP_LEVEL = 1
_GZIP_WINDOW_BITS = 31
"""With gzip's header, in which isal leaves time and name out: the same layer gives the same bytes."""
_BLOB_PREFIX = "blobs/sha256/"


def receive_archive(fields: dict[str, Any]) -> dict[str, Any]:
    """fields: directory (exists, empty), upload (uploads.py). Each regular member becomes a file there, named by its
    number. Returns members, a list of {name, file, digest, size, magic, tar} and, for links, {name, link}, and behind
    (uploads.py). What looks like a layer is reported as soon as it is whole: found {file, digest, plain}."""
    members: list[dict[str, Any]] = []
    raw = incoming(fields)
    reader = TarReader(plain_source(raw))
    syncing = _Syncing()
    try:
        for entry in reader:
            name = os.fsdecode(entry.name)
            if len(members) >= _MEMBERS_MAX:
                raise TaskError("invalid", "too many members in the archive")
            if entry.kind == REGULAR and entry.sparse is None:
                members.append({"name": name, **_member(reader, f"{fields['directory']}/{len(members)}", syncing)})
                _verify_name(members[-1])
                _tell_layer(members[-1])
                report(progress=members[-1]["size"])
            elif entry.kind in (LINK, SYMLINK):
                members.append({"name": name, "link": os.fsdecode(entry.link), "hard": entry.kind == LINK})
        reader.drain()
    except (TarError, CompressionError) as error:
        raise TaskError("invalid", str(error)) from error
    syncing.finish()
    return {"members": members, "behind": behind(raw)}


def receive_layer(fields: dict[str, Any]) -> dict[str, Any]:
    """fields: file (to be made). Writes stdin decompressed. Returns {digest, size, magic, tar}."""
    source = plain_source(io.FileIO(0, closefd=False))

    def chunks() -> Any:
        while chunk := source():
            yield memoryview(chunk)
            report(progress=len(chunk))

    try:
        return _write(chunks(), fields["file"])
    except CompressionError as error:
        raise TaskError("invalid", str(error)) from error


def compress_layer(fields: dict[str, Any]) -> dict[str, Any]:
    """fields: file (to be made). Writes stdin as gzip. Returns {digest, size, magic, tar}; progress counts plain
    bytes."""
    from isal import isal_zlib  # imported where it is needed: a worker starts for each layer that comes, too.

    compressor = isal_zlib.compressobj(_GZIP_LEVEL, wbits=_GZIP_WINDOW_BITS)

    def chunks() -> Any:
        while plain := os.read(0, _CHUNK):
            yield memoryview(compressor.compress(plain))
            report(progress=len(plain))
        yield memoryview(compressor.flush())

    return _write(chunks(), fields["file"])


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
    content_hash, size, head = hashlib.sha256(), 0, b""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        for chunk in chunks:
            content_hash.update(chunk)
            size += len(chunk)
            if len(head) < _HEAD_BYTES:
                head += bytes(chunk[: _HEAD_BYTES - len(head)])
            while chunk:
                chunk = chunk[os.write(fd, chunk) :]
        sync(fd)
    finally:
        os.close(fd)
    return {
        "digest": "sha256:" + content_hash.hexdigest(),
        "size": size,
        "magic": head[:MAGIC_BYTES].hex(),
        "tar": head[_TAR_MAGIC_AT:] == _TAR_MAGIC,
    }


def _tell_layer(member: dict[str, Any]) -> None:
    if member["tar"] or bytes.fromhex(member["magic"]).startswith((GZIP, ZSTD)):
        report(found={"file": member["file"], "digest": member["digest"], "plain": member["tar"]})


def _verify_name(member: dict[str, Any]) -> None:
    """A member that is named by a digest must have it."""
    _, found, hexadecimal = member["name"].rpartition(_BLOB_PREFIX)
    if found and member["digest"] != f"sha256:{hexadecimal}":
        raise TaskError("invalid", f"{member['name']} has the digest {member['digest']}")
