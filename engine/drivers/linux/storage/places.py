"""Where things lie under the data root, and how they leave it.

Owns paths (docs/design/storage.md) and the trash: whatever is discarded is renamed into it at once, and deleted later
by the sweeper (store.py), away from anybody's critical path. Nothing here is made by the constructor.
"""

from __future__ import annotations

import contextlib
import os
import secrets

import msgspec

from engine.aggregates.values.ids import SHA256_DIGEST, ChainID, ContainerID, Digest
from engine.drivers.linux.storage import kernel
from engine.errors import Fault, PortError

DIRECTORY_MODE = 0o710
"""Of everything under the data root: moby's, so that only root and its group may pass through."""


class Places(msgspec.Struct, frozen=True):
    """Paths under one data root. run: a word of this process's own, so that it never abandons its own temporaries."""

    data_root: str
    run: str = ""

    @property
    def content(self) -> str:
        return f"{self.data_root}/content/sha256"

    @property
    def partial(self) -> str:
        return f"{self.data_root}/content/partial"

    @property
    def layers(self) -> str:
        return f"{self.data_root}/layers"

    @property
    def rootfs(self) -> str:
        return f"{self.data_root}/rootfs"

    @property
    def temporary(self) -> str:
        return f"{self.data_root}/tmp"

    @property
    def grounds(self) -> str:
        return f"{self.data_root}/grounds"

    @property
    def trash(self) -> str:
        return f"{self.data_root}/trash"

    def blob(self, digest: Digest) -> str:
        return f"{self.content}/{hex_of(digest)}"

    def partial_blob(self, digest: Digest) -> str:
        return f"{self.partial}/{hex_of(digest)}"

    def layer(self, chain_id: ChainID) -> str:
        return f"{self.layers}/{hex_of(chain_id)}"

    def container(self, container_id: ContainerID) -> str:
        if len(container_id) < 2 or not container_id.isalnum():
            raise PortError("storage", f"invalid container id {container_id!r}", fault=Fault.INVALID)
        return f"{self.rootfs}/{container_id}"

    def new_temporary(self, what: str) -> str:
        """A path for a new file or directory on the same file system; its parent exists afterwards."""
        return f"{_spread(self.temporary)}/{what}-{self.run}-{secrets.token_hex(8)}"

    def new_ground(self) -> str:
        """A path for a directory in which trees are born (spreading.py)."""
        return f"{_spread(self.grounds)}/{self.run}-{secrets.token_hex(8)}"

    def discard(self, path: str) -> None:
        """Rename into the trash. Nothing happens when it is not there."""
        os.makedirs(self.trash, DIRECTORY_MODE, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            # Of a long name the beginning: with what is added it has to be a name, too.
            os.rename(path, f"{self.trash}/{os.path.basename(path)[:200]}-{secrets.token_hex(8)}")

    def trash_is_empty(self) -> bool:
        return not _children(self.trash)

    def abandon_temporaries(self) -> None:
        """At start: nobody works on what an earlier run left unfinished."""
        for path in [*_children(self.temporary), *_children(self.grounds)]:
            if not self.run or f"{self.run}-" not in os.path.basename(path):
                self.discard(path)


def hex_of(digest: str) -> str:
    """The hexadecimal part, checked: it becomes a file name."""
    if not SHA256_DIGEST.fullmatch(digest):
        raise PortError("storage", f"invalid digest {digest!r}", fault=Fault.INVALID)
    return digest[len("sha256:") :]


def sync_directory(path: str) -> None:
    """Make a rename or link in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _spread(path: str) -> str:
    """Make a directory whose children go each to a place of its own on the disk, if it is not there."""
    if not os.path.isdir(path):
        os.makedirs(path, DIRECTORY_MODE, exist_ok=True)
        kernel.mark_top_directory(path)
    return path


def _children(path: str) -> list[str]:
    try:
        return [entry.path for entry in os.scandir(path)]
    except FileNotFoundError:
        return []
