"""What changed between a container's whole tree and its image's (vfs): found by looking at both.

A file is the same when type, mode, owner, size and time are. Stdlib only: workers import it.
Source: moby daemon/graphdriver/fsdiff.go, pkg/archive changes.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import Any

from engine.drivers.linux.storage.overlay_view import lower_entry, names_below
from engine.drivers.linux.storage.tar_writer import TreeWriter, header
from engine.drivers.linux.storage.unpack import WHITEOUT_PREFIX

MODIFIED, ADDED, DELETED = 0, 1, 2


def compared(fields: dict[str, Any]) -> list[tuple[bytes, int]]:
    """fields: upper (the container's tree), lowers (the image's, merged, topmost first). (path, kind), sorted."""
    found: list[tuple[bytes, int]] = []
    _walk(os.fsencode(fields["upper"]), [os.fsencode(lower) for lower in fields["lowers"]], b"", found)
    return sorted(found)


def changed_size(fields: dict[str, Any]) -> int:
    """Bytes of the files that were added or modified, hard links once."""
    total = 0
    seen: set[tuple[int, int]] = set()
    for path, kind in compared(fields):
        with contextlib.suppress(FileNotFoundError):
            if kind != DELETED:
                found = os.lstat(os.fsencode(fields["upper"]) + path)
                if not stat.S_ISDIR(found.st_mode) and (found.st_dev, found.st_ino) not in seen:
                    seen.add((found.st_dev, found.st_ino))
                    total += found.st_size
    return total


def archive_compared(writer: TreeWriter, fields: dict[str, Any]) -> None:
    """The changes as a layer. What vanishes meanwhile (the container was not frozen) is left out."""
    upper = os.fsencode(fields["upper"])
    for path, kind in compared(fields):
        if kind == DELETED:
            directory, _, name = path[1:].rpartition(b"/")
            place = directory + b"/" + WHITEOUT_PREFIX + name if directory else WHITEOUT_PREFIX + name
            writer.raw(header(place, mode=0o600))
            continue
        with contextlib.suppress(FileNotFoundError):
            writer.entry(upper + path, path[1:], os.lstat(upper + path))


def _walk(upper: bytes, lowers: list[bytes], path: bytes, found: list[tuple[bytes, int]]) -> None:
    """Append the changes below one directory."""
    names = os.listdir(upper)
    found += [(path + b"/" + name, DELETED) for name in set(names_below(lowers)) - set(names)]
    for name in names:
        here, place = upper + b"/" + name, path + b"/" + name
        with contextlib.suppress(FileNotFoundError):
            attributes = os.lstat(here)
            below, merged = lower_entry(lowers, name)
            before = len(found)
            if stat.S_ISDIR(attributes.st_mode):
                _walk(here, merged, place, found)
            if below is None:
                found.append((place, ADDED))
            elif len(found) > before or not _same(attributes, below):
                found.append((place, MODIFIED))


def _same(attributes: os.stat_result, below: os.stat_result) -> bool:
    """A copy has the times of what it was made from; the size of a directory means nothing."""
    a, b = attributes, below
    size = stat.S_ISDIR(a.st_mode) or a.st_size == b.st_size
    kind = (a.st_mode, a.st_uid, a.st_gid, a.st_rdev) == (b.st_mode, b.st_uid, b.st_gid, b.st_rdev)
    return kind and size and a.st_mtime_ns == b.st_mtime_ns
