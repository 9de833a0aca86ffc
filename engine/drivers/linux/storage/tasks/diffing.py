"""Worker tasks over a container's read-write layer: what changed (`docker diff`), and its archive (commit).

`changes` follows moby: a directory is modified when something in it was added, changed or deleted, or when its own
attributes are other than below. An opaque directory that hides a lower one counts as modified, and what it hides as
deleted.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from typing import Any

from engine.drivers.linux.storage.overlay_view import (
    is_opaque,
    is_redirected,
    is_whiteout,
    lower_entry,
    names_below,
)
from engine.drivers.linux.storage.tar_writer import TreeWriter, header
from engine.drivers.linux.storage.tree_comparison import ADDED, DELETED, MODIFIED, archive_compared, compared
from engine.drivers.linux.storage.unpack import OPAQUE_MARKER, WHITEOUT_PREFIX
from engine.drivers.linux.storage.worker import TaskError


def changes(fields: dict[str, Any]) -> list[tuple[str, int]]:
    """fields: upper, lowers (topmost first), whole: whether upper is a whole tree and no overlay's layer. Returns
    (path, kind) sorted by path."""
    if fields.get("whole"):
        return [(os.fsdecode(path), kind) for path, kind in compared(fields)]
    found: list[tuple[bytes, int]] = []
    _walk(os.fsencode(fields["upper"]), [os.fsencode(lower) for lower in fields["lowers"]], b"", found)
    return [(os.fsdecode(path), kind) for path, kind in sorted(found)]


def diff_archive(fields: dict[str, Any]) -> dict[str, Any]:
    """fields: as of `changes`, and destination. Returns {digest, size}; the file is synced, because it becomes a blob
    by a rename."""
    with open(fields["destination"], "xb+") as file:
        writer = TreeWriter(file.fileno())
        if fields.get("whole"):
            archive_compared(writer, fields)
        else:
            _archive(writer, os.fsencode(fields["upper"]), b"")
        writer.finish()
        os.fchmod(file.fileno(), 0o644)
        os.fsync(file.fileno())
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"digest": f"sha256:{digest}", "size": os.fstat(file.fileno()).st_size}


def _walk(upper: bytes, lowers: list[bytes], path: bytes, found: list[tuple[bytes, int]]) -> None:
    """Append the changes below one directory of the upper layer."""
    names = sorted(os.listdir(upper))
    for name in names:
        here, place = upper + b"/" + name, path + b"/" + name
        attributes = os.lstat(here)
        below, merged = lower_entry(lowers, name)
        if is_whiteout(attributes):
            if below is not None:
                found.append((place, DELETED))
            continue
        before = len(found)
        if stat.S_ISDIR(attributes.st_mode):
            _refuse_redirect(here)
            opaque = is_opaque(here)
            if opaque and merged:
                kept = set(os.listdir(here))
                found += [(place + b"/" + hidden, DELETED) for hidden in names_below(merged) if hidden not in kept]
            _walk(here, [] if opaque else merged, place, found)
        if below is None:
            found.append((place, ADDED))
        elif len(found) > before or not merged or not _same_directory(attributes, below):
            found.append((place, MODIFIED))


def _same_directory(upper: os.stat_result, lower: os.stat_result) -> bool:
    return (
        stat.S_ISDIR(upper.st_mode)
        and (upper.st_mode, upper.st_uid, upper.st_gid) == (lower.st_mode, lower.st_uid, lower.st_gid)
        and upper.st_mtime_ns == lower.st_mtime_ns
    )


def _archive(writer: TreeWriter, directory: bytes, name: bytes) -> None:
    """Everything below a directory, sorted; whiteouts come as .wh. files, as layers have them. What vanishes meanwhile
    (the container was not frozen) is left out."""
    try:
        children = sorted(os.listdir(directory))
    except FileNotFoundError:
        return
    for child in children:
        with contextlib.suppress(FileNotFoundError):
            _archive_child(writer, directory + b"/" + child, name, child)


def _archive_child(writer: TreeWriter, here: bytes, name: bytes, child: bytes) -> None:
    found = os.lstat(here)
    if is_whiteout(found):
        mtime_s = found.st_mtime_ns // 1_000_000_000
        writer.raw(header(name + WHITEOUT_PREFIX + child, mode=0o600, mtime_s=mtime_s))
        return
    place = name + child
    writer.entry(here, place, found)
    if stat.S_ISDIR(found.st_mode):
        _refuse_redirect(here)
        if is_opaque(here):
            mode, mtime_s = stat.S_IMODE(found.st_mode) & 0o777, found.st_mtime_ns // 1_000_000_000
            writer.raw(header(place + b"/" + OPAQUE_MARKER, mode=mode, mtime_s=mtime_s))
        _archive(writer, here, place + b"/")


def _refuse_redirect(directory: bytes) -> None:
    if is_redirected(directory):
        raise TaskError(
            "system", f"{os.fsdecode(directory)} was renamed by an overlay with redirect_dir: not supported"
        )
