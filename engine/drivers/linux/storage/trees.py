"""Layer blobs unpacked into trees of their own, in `tmp/`: what layers are made of.

Owns the directory until a tree is there, and the worker that makes it. Refuses to know where a tree comes to lie, and
what lies below it.
"""

from __future__ import annotations

import os
from typing import Any

import msgspec
import trio

from engine.drivers.linux.storage.errors import as_port_error
from engine.drivers.linux.storage.places import DIRECTORY_MODE, Places
from engine.drivers.linux.storage.spreading import Spreading
from engine.drivers.linux.storage.workers import Workers
from engine.drivers.ports.storage import Progress

LAYER_ROOT_MODE = 0o755


class Tree(msgspec.Struct, frozen=True, kw_only=True):
    """directory: its owner's to rename or discard, with the files in `diff`. implied: directories without an entry of
    their own. diff_id: "" where nobody asked."""

    directory: str
    size: int
    entries: int
    implied: tuple[str, ...]
    diff_id: str


class Trees:
    def __init__(
        self, places: Places, workers: Workers, spreading: Spreading, limiter: trio.CapacityLimiter
    ) -> None:
        self._limiter = limiter
        self._places = places
        self._workers = workers
        self._spreading = spreading

    async def make(
        self,
        blob: int,
        *,
        expects: str = "",
        hashed: bool,
        below: str | None = None,
        progress: Progress | None = None,
    ) -> Tree:
        """The tree of a layer. blob: an fd at its start; at most so many are read at once as `Workers` has it. expects:
        the DiffID it must have, if hashed. below: a tree (or "" for none) on a copy of which it is applied. Raises
        PortError(INVALID) for a corrupt or hostile archive, leaving nothing."""
        with as_port_error("unpack"):
            directory = self._places.new_temporary("layer")
            await trio.to_thread.run_sync(self._spreading.make, directory, DIRECTORY_MODE, limiter=self._limiter)
        try:
            with as_port_error("unpack"):
                os.mkdir(f"{directory}/diff", LAYER_ROOT_MODE)
                os.chmod(f"{directory}/diff", LAYER_ROOT_MODE)
                size = os.fstat(blob).st_size
            fields = {"directory": f"{directory}/diff", "expects": expects, "hashed": hashed, "below": below}
            async with self._workers.limiter:
                outcome: dict[str, Any] = await self._workers.run_next(
                    "unpack", fields, data=blob,
                    on_progress=None if progress is None else lambda done: progress(done, size),
                )  # fmt: skip
        except BaseException:
            self._places.discard(directory)
            raise
        return Tree(directory=directory, **{**outcome, "implied": tuple(outcome["implied"])})
