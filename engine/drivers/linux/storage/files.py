"""Port Files: files inside a container, by workers that enter its tree (tasks/inside.py).

Owns the engine's side: streaming between a worker's pipes and the caller, with back-pressure both ways.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any

from engine.aggregates.values.id_map import IdMap
from engine.drivers.linux.storage.errors import as_port_error
from engine.drivers.linux.storage.places import Places
from engine.drivers.linux.storage.workers import Workers, id_map_fields
from engine.drivers.ports.storage import FilesRoot, PathStat

_CHUNK = 256 << 10


class LinuxFiles:
    """See engine/drivers/ports/storage.py, Files."""

    def __init__(self, places: Places, workers: Workers, id_map: IdMap | None = None) -> None:
        self._places = places
        self._workers = workers
        self._id_map = id_map

    async def stat(self, root: FilesRoot, path: str) -> PathStat:
        with self._tree(root) as tree:
            return PathStat(**await self._workers.run("stat", {**tree, "path": path}))

    def archive(self, root: FilesRoot, path: str) -> AsyncGenerator[bytes, None]:
        return self._stream("archive", root, {"path": path})

    def export(self, root: FilesRoot) -> AsyncGenerator[bytes, None]:
        return self._stream("export", root, {})

    async def extract(
        self,
        root: FilesRoot,
        path: str,
        archive: AsyncIterator[bytes],
        *,
        no_overwrite_dir_non_dir: bool,
        copy_uid_gid: bool,
    ) -> None:
        wishes = {"path": path, "keep_directories": no_overwrite_dir_non_dir, "copy_uid_gid": copy_uid_gid}
        with self._tree(root) as tree:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL}
            async with self._workers.start("extract", {**tree, **wishes, "user": root.user}, **pipes) as worker:
                await worker.ready()
                await worker.feed(archive)
                await worker.outcome()

    async def _stream(self, task: str, root: FilesRoot, fields: dict[str, Any]) -> AsyncGenerator[bytes, None]:
        with self._tree(root) as tree:
            pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE}
            async with self._workers.start(task, {**tree, **fields}, **pipes) as worker:
                await worker.ready()
                stdout = worker.process.stdout
                assert stdout is not None
                while chunk := await stdout.receive_some(_CHUNK):
                    yield bytes(chunk)
                await worker.outcome()

    @contextlib.contextmanager
    def _tree(self, root: FilesRoot) -> Iterator[dict[str, Any]]:
        """The fields that tell a worker where the tree is, and for a stopped container a directory to mount it on."""
        place = ""
        if not root.pid:
            with as_port_error("mount rootfs"):
                place = self._places.new_temporary("mount")
                os.mkdir(place, 0o700)
        try:
            yield {
                "container": root.called or root.container_id,
                "pid": root.pid,
                "lowers": root.rootfs.lowers,
                "upper": root.rootfs.upper,
                "work": root.rootfs.work,
                "mounts": [
                    [mount.source, mount.destination, mount.rw, mount.subpath, mount.lowers] for mount in root.mounts
                ],
                "readonly": root.readonly,
                "place": place,
                "id_map": id_map_fields(self._id_map if root.remapped else None),
            }
        finally:
            if place:
                with contextlib.suppress(OSError):
                    os.rmdir(place)  # the mount died with the worker's namespace.
