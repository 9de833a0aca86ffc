"""kill -9 of the engine in the middle of pulls, pushes, loads, removals and prunes: the store is whole afterwards, what
was acknowledged is there, and an interrupted pull goes on from what it had.

`ISHMAEL_IMAGE_CRASHES` says how often (100 at length), `ISHMAEL_SEED` repeats a run's choices.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import threading
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from replay.world import World
from tests.crash.clients import Client, Thing, agree, at_work, one_life
from tests.drivers.registry.test_client import answer, serving
from tests.support.audit import settled_without_leaks
from tests.support.engine import Engine, running_engine
from tests.support.images import TestImage, image_of, layer_of
from tests.support.outside import standing_in
from tests.support.registry import TestRegistry, running_registry

pytestmark = [pytest.mark.root, pytest.mark.timeout(3600)]

CRASHES = int(os.environ.get("ISHMAEL_IMAGE_CRASHES", "6"))
CLIENTS = 3
KINDS = 4
"""Images of each client: they share a layer with those of all others, and have one of their own."""
NOISE = random.Random(5)
SHARED = layer_of({"shared": NOISE.randbytes(3_000_000)})


def image_number(client: int, number: int) -> TestImage:
    chance = random.Random(f"{client}/{number}")
    files: dict[str, bytes | None] = {f"d{client}-{number}": None}
    files |= {f"d{client}-{number}/{each}": chance.randbytes(3000) for each in range(300)}
    return image_of(SHARED, layer_of(files), layer_of({"big": chance.randbytes(1_500_000)}))


class ImageClient(Client):
    """Does with images whatever there is to do."""

    def __init__(self, engine: Engine, number: int, seed: str, registry: TestRegistry) -> None:
        super().__init__(engine, number, seed, registry)
        self.archives = [image_number(number, each).docker_archive(self.loaded(each)) for each in range(KINDS)]

    def loaded(self, number: int) -> str:
        return f"loaded-{self.number}-{number}:latest"

    def once(self) -> None:
        self.random.choices([self.bring, self.send, self.take_in, self.drop, self.tidy], [5, 2, 3, 5, 1])[0]()

    def thing(self, name: str) -> Thing:
        return self.images.setdefault(name, Thing(name))

    def bring(self) -> None:
        repository, tag = f"{self.registry}/app-{self.number}", str(self.random.randrange(KINDS))
        thing = self.thing(f"{repository}:{tag}")
        thing.exists = thing.exists or None
        self.ask("POST", f"/images/create?fromImage={repository}&tag={tag}", fine=(200,))
        assert b'"error"' not in self.answer, self.answer
        thing.exists = True

    def send(self) -> None:
        thing = self.pick(self.images, lambda thing: thing.name.startswith(self.registry))
        if thing is None:
            return
        repository, _, tag = thing.name.rpartition(":")
        self.ask("POST", f"/images/{repository}/push?tag={tag}", fine=(200,))
        assert b'"error"' not in self.answer, self.answer

    def take_in(self) -> None:
        number = self.random.randrange(KINDS)
        thing = self.thing(self.loaded(number))
        thing.exists = thing.exists or None
        self.ask("POST", "/images/load", self.archives[number], fine=(200,))
        assert b'"error"' not in self.answer, self.answer
        thing.exists = True

    def drop(self) -> None:
        thing = self.pick(self.images)
        if thing is None:
            return
        thing.exists = None
        self.ask("DELETE", f"/images/{thing.name}", fine=(200,))
        thing.exists = False

    def tidy(self) -> None:
        self.ask("POST", "/images/prune", fine=(200, 409))


@pytest.mark.parametrize("driver", ["overlay2", "vfs"])
def test_the_store_is_whole_whenever_the_engine_is_killed(tmp_path: Path, driver: str) -> None:
    """IMG-26."""
    seed = os.environ.get("ISHMAEL_SEED") or str(random.SystemRandom().randrange(10**6))
    chance = random.Random(seed)
    engine_of_kind = running_engine("--storage-driver", driver)
    with engine_of_kind as engine, standing_in(engine.name), running_registry(tmp_path) as registry:
        clients = [ImageClient(engine, number, seed, registry) for number in range(CLIENTS)]
        for client in clients:
            for number in range(KINDS):
                registry.push(f"app-{client.number}", str(number), image_number(client.number, number))
        with at_work(engine, clients, seed):
            for crash in range(CRASHES):
                one_life(clients, chance.uniform(0.05, 1.5), partial(restart, engine))
                check(engine, clients)
                print(f"crash {crash + 1}: {sum(len(client.done) for client in clients)} requests", flush=True)
            for client in clients:
                for thing in [each for each in client.images.values() if each.exists]:
                    status, told = engine.request("DELETE", f"/images/{thing.name}")
                    assert status == 200, told
            assert engine.request("POST", "/images/prune")[0] == 200
            settled_without_leaks(engine)
            used = {each.name for each in (engine.data_root / "layers").iterdir() if each.name != "init"}
            assert len(used) == 1, "busybox alone"


def restart(engine: Engine) -> None:
    engine.kill()
    engine.start()


def check(engine: Engine, clients: list[ImageClient]) -> None:
    world = settled_without_leaks(engine)
    check_content(engine, world)
    present = {name for state in world.living("image") for name in state.references}
    for client in clients:
        for thing in client.images.values():
            agree(thing, bool({thing.name, f"docker.io/library/{thing.name}"} & present))


def check_content(engine: Engine, world: World) -> None:
    """Every blob has the digest that it is called by, every layer of an image the bytes that it had."""
    for path in (engine.data_root / "content" / "sha256").iterdir():
        with path.open("rb") as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() == path.name
    below = (engine.data_root / "storage-driver").read_text().strip() == "vfs"
    expected: dict[str, int] = {}
    for state in world.living("image"):
        sizes = [layer.size for layer in state.layers]
        whole = accumulate(sizes) if below else sizes  # no layer of these images hides anything of another.
        expected |= {layer.chain_id: size for layer, size in zip(state.layers, whole, strict=True)}
    for chain_id, size in expected.items():
        tree = engine.data_root / "layers" / chain_id[7:] / "diff"
        found = sum(each.stat().st_size for each in tree.rglob("*") if each.is_file() and not each.is_symlink())
        assert found == size, f"{chain_id} has {found} bytes instead of {size}"


def test_a_pull_that_a_kill_cut_off_goes_on_from_what_it_had() -> None:
    """IMG-05, IMG-26: of a blob in part, and of the whole ones."""
    image = image_of(SHARED, layer_of({"big": NOISE.randbytes(6_000_000)}))
    first, second = (each["digest"] for each in json.loads(image.manifest)["layers"])
    stall, stalled = threading.Event(), threading.Event()
    begun: list[tuple[str, int]] = []

    def handle(request: Any) -> None:
        name = request.path.rpartition("/")[2]
        if "/manifests/" in request.path:
            return answer(request, 200, image.manifest, Content_Type=image.media_type)
        start = int((request.headers.get("Range") or "bytes=0-")[6:-1])
        begun.append((name, start))
        body = image.blobs[name][start:]
        if name == second and not stall.is_set():
            answer(request, 200, body[: 4 << 20], Content_Length=str(len(body)))
            stalled.set()
            stall.wait(60)
            request.close_connection = True
            return None
        return answer(request, 206 if start else 200, body)

    with running_engine() as engine, standing_in(engine.name), serving(handle) as server:
        name = f"{server.address}/app"
        pulling = threading.Thread(target=pull_in_vain, args=(engine, name))
        pulling.start()
        assert stalled.wait(60)
        partial = engine.data_root / "content" / "partial" / second[7:]
        engine.wait_for(lambda: partial.exists() and partial.stat().st_size >= 3 << 20)
        engine.wait_for(lambda: (engine.data_root / "content" / "sha256" / first[7:]).exists())
        engine.kill()
        stall.set()
        pulling.join()
        begun.clear()
        engine.start()
        assert "Downloaded newer image" in engine.out("pull", f"{name}:1")
        ((again, start),) = begun
        assert (again, start >= 3 << 20) == (second, True)
        assert not partial.exists()
        told = engine.replay("why", f"sha256:{second[7:]}").stdout
        assert "interrupted by a restart of the engine" in told
        assert "It is kept by image" in told


def pull_in_vain(engine: Engine, name: str) -> None:
    engine.cli("pull", f"{name}:1", check=False)
