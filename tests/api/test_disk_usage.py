"""`/system/df`: who shares what, and how often anything is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from engine.aggregates.container.commands import StartContainer
from engine.aggregates.values.ids import ContainerID, VolumeName
from engine.api.sizes import Sizes
from tests.api.test_images import container, pulled
from tests.support.images import image_of, layer_of
from tests.support.served_engine import TestEngine, running_engine

pytestmark = pytest.mark.root

BASE = layer_of({"base": bytes(10_000)})


class CountingTrees:
    """Measures as the port it stands for, and tells how often; a closed gate keeps it waiting."""

    def __init__(self, port: Any) -> None:
        self._port = port
        self.asked: list[tuple[str, ...]] = []
        self.gate = trio.Event()
        self.gate.set()

    async def usages(self, names: Sequence[Any]) -> Mapping[Any, int]:
        self.asked.append(tuple(names))
        await self.gate.wait()
        return dict(await self._port.usages(names))


async def images_of(engine: TestEngine, version: str = "v1.53") -> dict[str, Any]:
    _, told = await engine.ask("GET", f"/{version}/system/df?type=image&verbose=1")
    return dict(told["ImageUsage"])


async def test_layers_that_images_share_count_once(tmp_path: Path) -> None:
    """SYS-17, IMG-08: in the total once, in each image as shared; an image nobody else shares with has none."""
    async with running_engine(tmp_path) as engine:
        await pulled(engine, "web:1", image_of(BASE, layer_of({"web": bytes(2_000)})))
        await pulled(engine, "db:1", image_of(BASE, layer_of({"db": bytes(300)})))
        await pulled(engine, "lone:1", image_of(layer_of({"lone": bytes(40)})))
        told = await images_of(engine)
        sizes = {row["RepoTags"][0]: (row["Size"], row["SharedSize"]) for row in told["Items"]}
        assert sizes == {"web:1": (12_000, 10_000), "db:1": (10_300, 10_000), "lone:1": (40, 0)}
        assert (told["TotalCount"], told["ActiveCount"]) == (3, 0)
        assert told["TotalSize"] == told["Reclaimable"] == 12_340
        _, old = await engine.ask("GET", "/v1.44/system/df")
        assert old["LayersSize"] == 12_340
        assert not any("VirtualSize" in row for row in old["Images"])
        _, older = await engine.ask("GET", "/v1.43/system/df")  # whose CLI computes what is an image's own from it
        assert all(row["VirtualSize"] == row["Size"] > 0 for row in older["Images"])


async def test_what_containers_stand_on_is_not_reclaimable(tmp_path: Path) -> None:
    """SYS-17: also when the image is gone and only its layers are left."""
    async with running_engine(tmp_path) as engine:
        await pulled(engine, "web:1", image_of(BASE, layer_of({"web": bytes(2_000)})))
        await pulled(engine, "db:1", image_of(BASE, layer_of({"db": bytes(300)})))
        await container(engine, "web:1")
        told = await images_of(engine)
        assert (told["TotalSize"], told["Reclaimable"], told["ActiveCount"]) == (12_300, 300, 1)
        await engine.ask("DELETE", "/images/web:1?force=1")
        told = await images_of(engine)
        assert (told["TotalSize"], told["Reclaimable"], told["TotalCount"]) == (12_300, 300, 1)
        _, told = await engine.ask("GET", "/v1.53/system/df?type=container&verbose=1")
        (row,) = told["ContainerUsage"]["Items"]
        assert (row["SizeRw"], row["SizeRootFs"]) == (0, 12_000)


async def test_requests_that_come_together_share_one_measurement(tmp_path: Path) -> None:
    """SYS-18: nobody fails, and nobody walks the disk for himself."""
    async with running_engine(tmp_path) as engine, trio.open_nursery() as nursery:
        trees = CountingTrees(engine.volumes)
        views = engine.hands.views
        sizes = Sizes(engine.storage.rootfs, trees, engine.storage.layers, views, nursery)  # type: ignore[arg-type]
        await engine.ask("POST", "/volumes/create", {"Name": "data"})
        Path(engine.volumes.root, "data", "_data", "file").write_bytes(bytes(700))
        trees.gate = trio.Event()
        found: list[int] = []

        async def ask() -> None:
            found.append((await sizes.volumes())[0][1])

        async with trio.open_nursery() as askers:
            for _ in range(10):
                askers.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            trees.gate.set()
        assert found == [700] * 10
        assert trees.asked == [(VolumeName("data"),)]
        assert (await sizes.volumes())[0][1] == 700
        assert len(trees.asked) == 2


async def test_a_container_at_rest_is_measured_again_only_when_something_wrote_to_it(tmp_path: Path) -> None:
    """SYS-18: by `docker cp`, or by its start."""
    async with running_engine(tmp_path) as engine, trio.open_nursery() as nursery:
        await pulled(engine, "web:1", image_of(BASE))
        container_id = await container(engine, "web:1")
        trees = CountingTrees(engine.storage.rootfs)
        views = engine.hands.views
        sizes = Sizes(trees, engine.volumes, engine.storage.layers, views, nursery)  # type: ignore[arg-type]

        async def measured() -> tuple[int, list[tuple[ContainerID, ...]]]:
            trees.asked.clear()
            return (await sizes.containers())[0][1], [names for names in trees.asked if names]

        layers = views.containers.find(container_id).layers
        root = await engine.storage.rootfs.prepare(container_id, layers, volatile=False)
        assert await measured() == (0, [(container_id,)])
        assert await measured() == (0, [])
        Path(root.upper, "copied").write_bytes(bytes(50))
        sizes.written_to(container_id)
        assert await measured() == (50, [(container_id,)])
        assert await measured() == (50, [])
        await engine.execute(StartContainer(container_id=container_id, at=2))
        Path(root.upper, "written").write_bytes(bytes(5))
        assert await measured() == (55, [(container_id,)])
        assert await measured() == (55, [(container_id,)])
