"""Pulls over a network that drops, delays, cuts and corrupts, by seed: each ends whole or in words, and the next one,
over a network that works, brings the image.

`ISHMAEL_FAULT_SEEDS` says how many seeds (200 at length), `ISHMAEL_SEED` repeats one.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from engine.drivers.registry.client import RegistryClient
from engine.drivers.registry.policy import RegistryPolicy
from tests.reactors.images.test_pull import pull
from tests.support.faulty_proxy import faulty_proxy
from tests.support.images import TestImage, image_of, layer_of
from tests.support.registry import TestRegistry, running_registry
from tests.support.served_engine import TestEngine, running_engine

pytestmark = [pytest.mark.root, pytest.mark.timeout(3600)]

SEEDS = int(os.environ.get("ISHMAEL_FAULT_SEEDS", "12"))
PULLS = 2


def images() -> list[TestImage]:
    """Two that share a layer; with large layers and small ones."""
    noise = random.Random(4)
    shared = layer_of({"shared": noise.randbytes(1_500_000)})
    small = [layer_of({f"small{number}": noise.randbytes(3000)}) for number in range(3)]
    return [image_of(shared, *small, layer_of({"own": noise.randbytes(900_000)})), image_of(shared, small[1])]


IMAGES = images()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestRegistry]:
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        for number, image in enumerate(IMAGES):
            running.push("app", str(number), image)
        yield running


def seeds() -> list[str]:
    if chosen := os.environ.get("ISHMAEL_SEED"):
        return [chosen]
    return [str(number) for number in range(SEEDS)]


@pytest.mark.parametrize("seed", seeds())
async def test_a_pull_ends_whole_or_in_words_and_the_next_one_succeeds(
    registry: TestRegistry, tmp_path: Path, seed: str
) -> None:
    """IMG-05, IMG-30."""
    told: list[str] = []
    with faulty_proxy(registry.address, seed, rate=0.6) as proxy:
        async with RegistryClient(RegistryPolicy(), backoff_s=(0.0,) * 4, silence_s=1.5) as client:
            async with running_engine(tmp_path, registry_port=client) as engine:

                async def one(number: int) -> None:
                    told.append(await outcome_of(engine, f"{proxy.address}/app", number))

                with trio.fail_after(120):
                    async with trio.open_nursery() as nursery:
                        for number in range(PULLS):
                            nursery.start_soon(one, number)
                await check_store(engine)
                proxy.rate = 0
                proxy.cut()
                for number in range(PULLS):
                    assert not (last := await outcome_of(engine, f"{proxy.address}/app", number)), (seed, told, last)
                await check_store(engine)
                for number, image in enumerate(IMAGES):
                    status, shown = await engine.ask("GET", f"/images/{proxy.address}/app:{number}/json")
                    assert (status, shown["Id"]) == (200, image.image_id)
                assert engine.hands.application.live("transfer") == (), "no lease is left of what is whole"
                assert (await engine.storage.layers.inventory()).partial == ()


async def outcome_of(engine: TestEngine, name: str, number: int) -> str:
    """Empty for a pull that brought the image, else what it said."""
    status, answer = await engine.ask("POST", pull(name, str(number)))
    if status != 200:
        assert answer["message"], status
        return str(answer["message"])
    last = answer if isinstance(answer, dict) else json.loads(answer.splitlines()[-1])
    assert "error" in last or last["status"].startswith("Status: "), last
    return str(last.get("error", ""))


async def check_store(engine: TestEngine) -> None:
    """Every blob is whole; every image has its blobs and layers."""
    inventory = await engine.storage.layers.inventory()
    for name in inventory.blobs:
        with open(engine.storage.blobs.path(name), "rb") as file:
            assert "sha256:" + hashlib.file_digest(file, "sha256").hexdigest() == name
    for state in engine.hands.views.images:
        assert state.blobs <= set(inventory.blobs)
        assert set(state.chain) <= set(inventory.layers)
    assert not list(Path(engine.storage.places.temporary).glob("*"))
