"""Port RootFilesystems: the read-write layer of each container.

Owns `<data-root>/rootfs` and the lowest layer of every root, `layers/init`: the mount points a container needs
(moby's init layer). It lies below the image, not above it as moby's, so it is made once for all images and the
image's own files win. Mounting is the runtime's, in the container's own mount namespace.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Mapping, Sequence

import trio

from engine.aggregates.values.descriptor import Descriptor
from engine.aggregates.values.ids import ChainID, ContainerID, DiffID, Digest
from engine.drivers.linux.storage import quota
from engine.drivers.linux.storage.blobs import LAYER_TAR, adopt
from engine.drivers.linux.storage.errors import as_port_error
from engine.drivers.linux.storage.layers import LinuxLayerStore
from engine.drivers.linux.storage.measuring import tree_sizes
from engine.drivers.linux.storage.places import DIRECTORY_MODE, Places
from engine.drivers.linux.storage.workers import Workers
from engine.drivers.ports.runtime import RootFilesystem
from engine.drivers.ports.storage import Change, Claim, ImportedLayer
from engine.errors import Fault, PortError

_INIT_DIRECTORIES = ("dev", "dev/pts", "dev/shm", "etc", "proc", "sys")
_INIT_FILES = (".dockerenv", "dev/console", "etc/hostname", "etc/hosts", "etc/resolv.conf")
_INIT_LINKS = (("etc/mtab", "/proc/mounts"),)


class Roots:
    """What overlays and copies (vfs.py) have in common: where roots lie, and on which layers."""

    def __init__(
        self, places: Places, layers: LinuxLayerStore, workers: Workers, limiter: trio.CapacityLimiter
    ) -> None:
        self._places = places
        self._layers = layers
        self._workers = workers
        self._limiter = limiter

    async def discard_rootfs(self, container_id: ContainerID) -> None:
        with as_port_error("discard rootfs"):
            self._places.discard(self._places.container(container_id))

    def lowers(self, chain: Sequence[ChainID]) -> tuple[str, ...]:
        return self._layers.lowers(chain)


class LinuxRootFilesystems(Roots):
    """See engine/drivers/ports/storage.py, RootFilesystems."""

    async def prepare(
        self, container_id: ContainerID, chain: Sequence[ChainID], *, volatile: bool, limit_bytes: int = 0
    ) -> RootFilesystem:
        with as_port_error("prepare rootfs"):
            directory = self._places.container(container_id)
            lowers = (*self._layers.lowers(chain), f"{self._places.layers}/init/diff")
            make_init_layer(self._places)
            for chain_id, lower in zip(reversed(chain), lowers, strict=False):
                if not os.path.isdir(lower):
                    raise PortError("prepare rootfs", f"layer {chain_id} does not exist", fault=Fault.NOT_FOUND)
            if not os.path.isdir(directory):
                _make_layer(self._places, directory, lowers, limit_bytes)
            # The kernel leaves this mark in a volatile overlay's work directory and refuses to mount it again.
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(f"{directory}/work/work/incompat")
        return RootFilesystem(lowers=lowers, upper=f"{directory}/upper", work=f"{directory}/work", volatile=volatile)

    def describe(self, container_id: ContainerID, chain: Sequence[ChainID]) -> Mapping[str, str]:
        directory = self._places.container(container_id)
        return {
            "LowerDir": ":".join((*self._layers.lowers(chain), f"{self._places.layers}/init/diff")),
            "UpperDir": f"{directory}/upper",
            "WorkDir": f"{directory}/work",
        }

    async def usages(self, container_ids: Sequence[ContainerID]) -> Mapping[ContainerID, int]:
        uppers = {each: f"{self._places.container(each)}/upper" for each in container_ids}
        return await tree_sizes(self._workers, uppers)

    async def changes(self, container_id: ContainerID) -> tuple[Change, ...]:
        return await changes_of(self._workers, self._layer_fields(container_id))

    async def diff_layer(self, container_id: ContainerID, claim: Claim) -> ImportedLayer:
        fields = self._layer_fields(container_id)
        return await archived_diff(self._places, self._workers, self._limiter, fields, claim)

    def _layer_fields(self, container_id: ContainerID) -> dict[str, object]:
        directory = self._places.container(container_id)
        with as_port_error("read rootfs"), open(f"{directory}/lowers") as file:
            return {"upper": f"{directory}/upper", "lowers": file.read().split("\n")}


async def changes_of(workers: Workers, fields: Mapping[str, object]) -> tuple[Change, ...]:
    """What was changed in a container's tree. fields: those of tasks/diffing.py."""
    found = await workers.run("changes", fields)
    return tuple(Change(path=path, kind=kind) for path, kind in found)


async def archived_diff(
    places: Places, workers: Workers, limiter: trio.CapacityLimiter, fields: Mapping[str, object], claim: Claim
) -> ImportedLayer:
    """The same as a layer, stored as a blob."""
    with as_port_error("commit"):
        destination = places.new_temporary("diff")
    try:
        async with workers.limiter:
            found = await workers.run("diff_archive", {**fields, "destination": destination})
        digest = Digest(found["digest"])
        await claim([digest])
        with as_port_error("commit"):
            await trio.to_thread.run_sync(adopt, places, destination, digest, limiter=limiter)
    finally:
        places.discard(destination)
    return ImportedLayer(
        diff_id=DiffID(digest), blob=Descriptor(media_type=LAYER_TAR, digest=digest, size=found["size"])
    )


def _make_layer(places: Places, directory: str, lowers: tuple[str, ...], limit_bytes: int) -> None:
    """upper takes the attributes of the root below: they are what the container's `/` shows. `lowers` is kept beside it
    for those who are given an id alone (`changes`)."""
    temporary = places.new_temporary("rootfs")
    os.mkdir(temporary, DIRECTORY_MODE)
    if limit_bytes:
        quota.limit(temporary, places.data_root, limit_bytes)
    os.mkdir(f"{temporary}/work", 0o700)
    os.mkdir(f"{temporary}/upper")
    found = os.stat(lowers[0])
    os.chown(f"{temporary}/upper", found.st_uid, found.st_gid)
    os.chmod(f"{temporary}/upper", stat.S_IMODE(found.st_mode))
    with open(f"{temporary}/lowers", "w") as file:
        file.write("\n".join(lowers))
    os.makedirs(places.rootfs, DIRECTORY_MODE, exist_ok=True)
    os.rename(temporary, directory)


def make_init_layer(places: Places) -> None:
    """The lowest layer of every root, once."""
    layer = f"{places.layers}/init"
    if os.path.isdir(layer):
        return
    os.makedirs(places.layers, DIRECTORY_MODE, exist_ok=True)
    temporary = places.new_temporary("init")
    root = f"{temporary}/diff"
    for path in ("", *_INIT_DIRECTORIES):
        os.makedirs(f"{root}/{path}")
        os.chmod(f"{root}/{path}", 0o755)
    for path in _INIT_FILES:
        os.close(os.open(f"{root}/{path}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o755))
        os.chmod(f"{root}/{path}", 0o755)
    for path, target in _INIT_LINKS:
        os.symlink(target, f"{root}/{path}")
    with contextlib.suppress(OSError):
        os.rename(temporary, layer)  # somebody else's equal one may have come first.
