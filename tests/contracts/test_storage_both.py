"""Blobs, read-write layers, container folders and volumes as engines use them: what the kernel's drivers and the
simulated ones promise alike.

What is in the files is the kernel's, and in test_storage_*.py and test_volume_local.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio

from engine.aggregates.values.ids import ContainerID, Digest, VolumeName
from engine.drivers.linux.storage.folders import LinuxContainerFolders
from engine.drivers.linux.storage.store import LinuxStorage
from engine.drivers.linux.volume.local import LocalVolumes
from engine.drivers.ports.storage import BlobStore, ContainerFolders, LayerStore, RootFilesystems, StorageInventory
from engine.drivers.ports.volume import Volumes
from engine.errors import Fault, PortError
from tests.simulation.drivers.storage import (
    SimulatedBlobs,
    SimulatedFolders,
    SimulatedLayers,
    SimulatedRootFilesystems,
    SimulatedVolumes,
)
from tests.simulation.faults import Faults, Gate
from tests.simulation.machine import Machine
from tests.support.images import digest

ONE, TWO = ContainerID("c" * 64), ContainerID("d" * 64)
CONFIG = b'{"config": {}}'
BLOB, MISSING = Digest(digest(CONFIG)), Digest(digest(b"missing"))
SEA = VolumeName("sea")


class Place:
    """The ports that hold what is on disk, with one blob there."""

    def __init__(self, blobs: Any, layers: Any, rootfs: Any, folders: ContainerFolders, volumes: Volumes) -> None:
        self.blobs: BlobStore = blobs
        self.layers: LayerStore = layers
        self.rootfs: RootFilesystems = rootfs
        self.folders = folders
        self.volumes = volumes


async def only(data: bytes) -> AsyncIterator[bytes]:
    yield data


@pytest.fixture(params=[pytest.param("native", marks=pytest.mark.root), "simulated"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    if request.param == "native":
        storage = LinuxStorage(str(tmp_path))
        await storage.blobs.ingest(only(CONFIG), BLOB)
        folders, volumes = LinuxContainerFolders(storage.places), LocalVolumes(storage.places, storage.workers)
        yield Place(storage.blobs, storage.layers, storage.rootfs, folders, volumes)
        return
    async with trio.open_nursery() as nursery:
        machine = Machine(Random(1), nursery, lambda: 1)
        machine.blobs[BLOB] = CONFIG
        given = (machine, Gate(), Faults(Random(1)))
        parts = (SimulatedBlobs, SimulatedLayers, SimulatedRootFilesystems)
        yield Place(*(part(*given) for part in parts), SimulatedFolders(*given), SimulatedVolumes(*given))
        machine.close()
        nursery.cancel_scope.cancel()


async def test_a_blob_is_read_until_it_is_discarded(place: Place) -> None:
    assert await place.blobs.has(BLOB)
    assert await place.blobs.read(BLOB) == CONFIG
    assert (await place.layers.inventory()).blobs == (BLOB,)
    for _ in range(2):
        await place.blobs.discard(BLOB)
    assert not await place.blobs.has(BLOB)
    assert await place.layers.inventory() == StorageInventory()


async def test_a_blob_that_is_not_there_is_not_found(place: Place) -> None:
    assert not await place.blobs.has(MISSING)
    with pytest.raises(PortError) as refused:
        await place.blobs.read(MISSING)
    assert refused.value.fault is Fault.NOT_FOUND


async def test_a_read_write_layer_is_there_until_it_is_discarded(place: Place) -> None:
    first = await place.rootfs.prepare(ONE, (), volatile=False)
    assert await place.rootfs.prepare(ONE, (), volatile=False) == first
    second = await place.rootfs.prepare(TWO, (), volatile=False)
    assert len({first.upper, first.work, second.upper, second.work}) == 4
    assert (await place.layers.inventory()).containers == (ONE, TWO)
    for _ in range(2):
        await place.rootfs.discard_rootfs(ONE)
    assert (await place.layers.inventory()).containers == (TWO,)


async def test_an_empty_layer_has_no_changes_and_takes_no_room(place: Place) -> None:
    await place.rootfs.prepare(ONE, (), volatile=False)
    assert await place.rootfs.changes(ONE) == ()
    assert await place.rootfs.usages([ONE]) == {ONE: 0}


async def test_files_of_a_folder_are_written_changed_and_discarded(place: Place) -> None:
    path = await place.folders.write(ONE, {"hosts": "one\n", "hostname": "web\n"})
    assert path == place.folders.path(ONE) == await place.folders.write(ONE, {"hosts": "two\n"})
    seen: list[str] = []

    def longer(text: str) -> str:
        seen.append(text)
        return text + "more\n"

    for name in ("hosts", "hosts", "hostname"):
        await place.folders.edit(ONE, name, longer)
    assert seen == ["two\n", "two\nmore\n", "web\n"]
    assert await place.folders.list_folders() == (ONE,)
    for _ in range(2):
        await place.folders.discard(ONE)
    assert await place.folders.list_folders() == ()


async def test_a_file_that_is_not_there_is_not_changed(place: Place) -> None:
    """A container that has never run has no files yet: nobody who tells it something is to fail for that."""

    def unasked(text: str) -> str:
        raise AssertionError(text)

    await place.folders.edit(ONE, "hosts", unasked)
    await place.folders.write(ONE, {"hostname": "web\n"})
    await place.folders.edit(ONE, "hosts", unasked)


async def test_a_volume_is_there_until_it_is_removed(place: Place) -> None:
    path = await place.volumes.create(SEA, {})
    assert await place.volumes.create(SEA, {}) == path
    for _ in range(2):
        assert await place.volumes.mount(SEA, {}) == path
    assert await place.volumes.usages([SEA]) == {SEA: 0}
    assert await place.volumes.list() == (SEA,)
    for _ in range(2):
        await place.volumes.unmount(SEA, {})
    for _ in range(2):
        await place.volumes.remove(SEA)
    assert await place.volumes.list() == ()
