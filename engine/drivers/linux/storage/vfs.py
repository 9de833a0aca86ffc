"""Port RootFilesystems where the kernel mounts no overlay on the data root (`--storage-driver vfs`): copies.

Owns a whole tree for each container, copied from its topmost layer, which is a whole tree itself (layers.py). What the
container has changed is found by comparing the two. It costs disk and time and works anywhere, also on an overlay.
Source of the idea: moby daemon/graphdriver/vfs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from engine.aggregates.values.ids import ChainID, ContainerID
from engine.drivers.linux.storage.errors import as_port_error
from engine.drivers.linux.storage.measuring import changed_sizes
from engine.drivers.linux.storage.places import DIRECTORY_MODE, Places
from engine.drivers.linux.storage.rootfs import Roots, archived_diff, changes_of, make_init_layer
from engine.drivers.ports.runtime import RootFilesystem
from engine.drivers.ports.storage import Change, Claim, ImportedLayer
from engine.errors import Fault, PortError


class VfsRootFilesystems(Roots):
    """See engine/drivers/ports/storage.py, RootFilesystems."""

    async def prepare(
        self, container_id: ContainerID, chain: Sequence[ChainID], *, volatile: bool, limit_bytes: int = 0
    ) -> RootFilesystem:
        assert not limit_bytes, "the rules refuse it: what a copy holds is the image's, too"
        directory = self._places.container(container_id)
        if not os.path.isdir(directory):
            await self._copy(chain, directory)
        return RootFilesystem(lowers=(), upper=f"{directory}/upper", work="", volatile=volatile)

    def describe(self, container_id: ContainerID, chain: Sequence[ChainID]) -> Mapping[str, str]:
        return {}

    async def usages(self, container_ids: Sequence[ContainerID]) -> Mapping[ContainerID, int]:
        there = [each for each in container_ids if os.path.isdir(self._places.container(each))]
        measured = await changed_sizes(self._workers, {each: self._fields(each) for each in there})
        return {**dict.fromkeys(set(container_ids) - set(there), 0), **measured}

    async def changes(self, container_id: ContainerID) -> tuple[Change, ...]:
        return await changes_of(self._workers, self._fields(container_id))

    async def diff_layer(self, container_id: ContainerID, claim: Claim) -> ImportedLayer:
        return await archived_diff(self._places, self._workers, self._limiter, self._fields(container_id), claim)

    async def _copy(self, chain: Sequence[ChainID], directory: str) -> None:
        with as_port_error("prepare rootfs"):
            make_init_layer(self._places)
            lowers = (*self._layers.lowers(chain), f"{self._places.layers}/init/diff")
            if not os.path.isdir(lowers[0]):
                raise PortError("prepare rootfs", f"layer {chain[-1]} does not exist", fault=Fault.NOT_FOUND)
            temporary = _begun(self._places, lowers)
        try:
            async with self._workers.limiter:
                await self._workers.run("copy_root", {"lowers": lowers, "target": f"{temporary}/upper"})
            with as_port_error("prepare rootfs"):
                os.makedirs(self._places.rootfs, DIRECTORY_MODE, exist_ok=True)
                if not os.path.isdir(directory):  # somebody else may have been quicker.
                    os.rename(temporary, directory)
        finally:
            self._places.discard(temporary)

    def _fields(self, container_id: ContainerID) -> dict[str, object]:
        directory = self._places.container(container_id)
        with as_port_error("read rootfs"), open(f"{directory}/lowers") as file:
            return {"upper": f"{directory}/upper", "lowers": file.read().split("\n"), "whole": True}


def _begun(places: Places, lowers: Sequence[str]) -> str:
    """A directory for a root to be; `lowers` is kept beside it for those who are given an id alone."""
    temporary = places.new_temporary("rootfs")
    os.makedirs(f"{temporary}/upper", DIRECTORY_MODE)
    with open(f"{temporary}/lowers", "w") as file:
        file.write("\n".join(lowers))
    return temporary
