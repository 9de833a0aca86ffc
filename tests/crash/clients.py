"""Clients that do everything at once, and remember what they were promised.

Each client is a thread with objects of its own, so what must be true of them follows from its own answers alone: an
acknowledged operation is there after a crash; one that a crash cut off may be there or not (`None`).
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.crash.workload import ENDLESS, Workload
from tests.support.engine import Engine
from tests.support.images import image_of, layer_of
from tests.support.registry import TestRegistry

STEADY_IMAGE = "busybox:latest"
PULLED = 3
"""Images that each client pulls. They share a layer."""


def push_images(registry: TestRegistry, clients: int) -> None:
    shared = layer_of({"shared": b"s" * 300_000})
    for client in range(clients):
        for number in range(PULLED):
            own = layer_of({"own": f"{client} {number}".encode() * 20_000})
            registry.push(f"of-{client}", str(number), image_of(shared, own))


@dataclass
class Thing:
    """exists, running, paused: True, False, or None when the crash kept the answer. networks: those it may be on."""

    name: str
    exists: bool | None = False
    running: bool | None = False
    paused: bool | None = False
    workload: Workload = Workload(lines=ENDLESS)  # noqa: RUF009 - a frozen value
    policy: str = ""
    networks: set[str] = field(default_factory=set)


class Cut(Exception):
    """The engine went away before it answered."""


class Client(threading.Thread):
    """One life lasts from a start of the engine to its death."""

    def __init__(self, engine: Engine, number: int, seed: str, registry: TestRegistry) -> None:
        super().__init__(name=f"client {number}", daemon=True)
        self.engine, self.number, self.registry = engine, number, registry.address
        self.random = random.Random(f"{seed}/{number}")
        self.containers: dict[str, Thing] = {}
        self.networks: dict[str, Thing] = {}
        self.volumes: dict[str, Thing] = {}
        self.images: dict[str, Thing] = {}
        self.failures: list[str] = []
        self.done: list[str] = []
        self.made = 0
        self.go, self.stopped = threading.Event(), threading.Event()
        self.quit = False
        self.answer = b""

    # -- the thread ----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        while True:
            self.go.wait()
            if self.quit:
                return
            try:
                while self.go.is_set():
                    self.once()
            except Cut:
                self.go.clear()
            except Exception as error:
                self.failures.append(f"{self.name}: {type(error).__name__}: {error}")
                self.go.clear()
            self.stopped.set()

    def begin(self) -> None:
        self.stopped.clear()
        self.go.set()

    def rest(self) -> None:
        """Wait until the last request has ended."""
        self.go.clear()
        assert self.stopped.wait(90), f"{self.name} hangs in {self.done[-1:]}"

    def once(self) -> None:
        verbs: list[tuple[int, Callable[[], None]]] = [
            (6, self.create), (8, self.start_), (3, self.stop), (3, self.kill), (4, self.remove), (3, self.exec),
            (2, self.pause), (2, self.restart), (2, self.create_network), (2, self.remove_network), (3, self.connect),
            (2, self.disconnect), (2, self.create_volume), (2, self.remove_volume), (1, self.load), (1, self.pull),
            (1, self.unload),
        ]  # fmt: skip
        self.random.choices([verb for _, verb in verbs], [weight for weight, _ in verbs])[0]()

    def ask(self, method: str, path: str, body: Any = None, *, fine: tuple[int, ...]) -> int:
        """The status; one that is not `fine` is a failure of the test. Raises Cut."""
        words = f"{method} {path}"
        self.done.append(words)
        try:
            status, answer = self.engine.request(method, path, body)
        except (OSError, http.client.HTTPException) as error:
            raise Cut(words) from error
        if status not in fine:
            self.failures.append(f"{self.name}: {words} {body if isinstance(body, dict) else ''}: {status} {answer!r}")
        self.answer = answer
        return status

    def pick(self, things: dict[str, Thing], condition: Callable[[Thing], bool] = lambda thing: True) -> Thing | None:
        some = [thing for thing in things.values() if thing.exists and condition(thing)]
        return self.random.choice(some) if some else None

    def new_name(self, what: str) -> str:
        self.made += 1
        return f"{what}{self.number}-{self.made}"

    # -- containers ----------------------------------------------------------------------------------------------------

    def create(self) -> None:
        if sum(bool(thing.exists) for thing in self.containers.values()) >= 6:
            return
        lines = self.random.choice((ENDLESS, ENDLESS, 5, 40))
        policy = self.random.choice(("", "", "", "always"))
        thing = Thing(
            self.new_name("c"), workload=Workload(lines=lines, code=self.random.randrange(100)), policy=policy
        )
        network, volume = self.pick(self.networks), self.pick(self.volumes)
        host: dict[str, Any] = {"RestartPolicy": {"Name": policy}}
        if network is not None and self.random.random() < 0.5:
            host["NetworkMode"] = network.name
            thing.networks = {network.name}
        if volume is not None and self.random.random() < 0.5:
            host["Binds"] = [f"{volume.name}:/data"]
        if self.random.random() < 0.4:
            # Below the ephemeral range: there a connection of the registry's may sit on the port that was chosen.
            host["PortBindings"] = {"80/tcp": [{"HostPort": str(10_000 + 5_000 * self.number + self.made % 5_000)}]}
        body = {"Image": STEADY_IMAGE, "Cmd": thing.workload.command, "HostConfig": host}
        self.containers[thing.name] = thing
        thing.exists = None
        self.ask("POST", f"/containers/create?name={thing.name}", body, fine=(201,))
        thing.exists = True

    def start_(self) -> None:
        thing = self.pick(self.containers, lambda thing: thing.running is False)
        if thing is None:
            return
        thing.running = None
        status = self.ask("POST", f"/containers/{thing.name}/start", fine=(204, 304))
        # One that ends by itself is neither surely running nor surely not.
        thing.running = True if status == 204 and thing.workload.endless else None

    def stop(self) -> None:
        thing = self.pick(self.containers, lambda thing: thing.running is not False)
        if thing is None:
            return
        thing.running = None
        self.ask("POST", f"/containers/{thing.name}/stop?t={self.random.choice((0, 1, 5))}", fine=(204, 304))
        thing.running = thing.paused = False

    def kill(self) -> None:
        thing = self.pick(self.containers, lambda thing: thing.running is True)
        if thing is None:
            return
        thing.running = None
        self.ask("POST", f"/containers/{thing.name}/kill", fine=(204,))
        # As in Docker the answer may come before the end; `stop` after it waits.
        self.ask("POST", f"/containers/{thing.name}/stop?t=0", fine=(204, 304))
        thing.running = thing.paused = False

    def remove(self) -> None:
        thing = self.pick(self.containers)
        if thing is None:
            return
        thing.exists, before = None, thing.running
        status = self.ask("DELETE", f"/containers/{thing.name}?force=1&v=1", fine=(204, 409))
        thing.exists, thing.running = (False, False) if status == 204 else (True, before)

    def exec(self) -> None:
        thing = self.pick(self.containers, lambda thing: thing.running is True)
        if thing is None:
            return
        command = ["sleep", self.random.choice(("0", "0.3", "60"))]
        fine = (201,) if thing.paused is False else (201, 409)
        if self.ask("POST", f"/containers/{thing.name}/exec", {"Cmd": command}, fine=fine) == 201:
            exec_id = json.loads(self.answer)["Id"]
            self.ask("POST", f"/exec/{exec_id}/start", {"Detach": True}, fine=(200,))

    def pause(self) -> None:
        thing = self.pick(self.containers, lambda thing: thing.running is True)
        if thing is not None:
            thing.paused = None
            self.ask("POST", f"/containers/{thing.name}/pause", fine=(204, 409))
            self.ask("POST", f"/containers/{thing.name}/unpause", fine=(204, 500))
            thing.paused = False

    def restart(self) -> None:
        thing = self.pick(self.containers, lambda thing: thing.running is not None)
        if thing is not None:
            thing.running = None
            self.ask("POST", f"/containers/{thing.name}/restart?t=1", fine=(204,))
            thing.paused = False
            thing.running = True if thing.workload.endless else None

    # -- networks, volumes, images -------------------------------------------------------------------------------------

    def create_network(self) -> None:
        if sum(bool(thing.exists) for thing in self.networks.values()) >= 2:
            return
        thing = Thing(self.new_name("n"))
        self.networks[thing.name] = thing
        thing.exists = None
        self.ask("POST", "/networks/create", {"Name": thing.name}, fine=(201,))
        thing.exists = True

    def remove_network(self) -> None:
        thing = self.pick(self.networks)
        users = [other for other in self.containers.values() if other.exists is not False]
        if thing is None or any(thing.name in user.networks for user in users):
            return
        thing.exists = None
        status = self.ask("DELETE", f"/networks/{thing.name}", fine=(204, 403))
        thing.exists = status != 204

    def connect(self) -> None:
        network, thing = self.pick(self.networks), self.pick(self.containers, lambda thing: thing.running is not None)
        if network is None or thing is None or network.name in thing.networks:
            return
        thing.networks.add(network.name)
        self.ask("POST", f"/networks/{network.name}/connect", {"Container": thing.name}, fine=(200, 403, 409))

    def disconnect(self) -> None:
        thing = self.pick(self.containers, lambda thing: bool(thing.networks) and thing.running is not None)
        if thing is None:
            return
        network = self.random.choice(sorted(thing.networks))
        body = {"Container": thing.name}
        # 500, as dockerd, for a container that is not on it: a crash may have done the disconnect without its answer.
        if self.ask("POST", f"/networks/{network}/disconnect", body, fine=(200, 403, 404, 409, 500)) == 200:
            thing.networks.discard(network)

    def create_volume(self) -> None:
        thing = Thing(self.new_name("v"))
        self.volumes[thing.name] = thing
        thing.exists = None
        self.ask("POST", "/volumes/create", {"Name": thing.name}, fine=(201,))
        thing.exists = True

    def remove_volume(self) -> None:
        thing = self.pick(self.volumes)
        if thing is None:
            return
        thing.exists = None
        status = self.ask("DELETE", f"/volumes/{thing.name}", fine=(204, 409))
        thing.exists = status != 204

    def load(self) -> None:
        thing = Thing(f"{self.new_name('i')}:latest")
        self.images[thing.name] = thing
        image = image_of(layer_of({f"file-{thing.name}": b"x" * 100_000}))
        thing.exists = None
        self.ask("POST", "/images/load", image.docker_archive(thing.name), fine=(200,))
        thing.exists = True

    def pull(self) -> None:
        """One of a few images, told apart by name: each client has its own."""
        name = f"{self.registry}/of-{self.number}:{self.random.randrange(PULLED)}"
        if self.images.setdefault(name, Thing(name)).exists:
            return
        self.images[name].exists = None
        self.ask(
            "POST", f"/images/create?fromImage={name.rpartition(':')[0]}&tag={name.rpartition(':')[2]}", fine=(200,)
        )
        assert b"error" not in self.answer, self.answer
        self.images[name].exists = True

    def unload(self) -> None:
        thing = self.pick(self.images)
        if thing is None:
            return
        thing.exists = None
        self.ask("DELETE", f"/images/{thing.name}", fine=(200,))
        thing.exists = False


@contextlib.contextmanager
def at_work(engine: Engine, clients: Sequence[Client], seed: str) -> Iterator[None]:
    """Clients that have been started, for the length of the block; a failure tells its seed and keeps what there is."""
    for client in clients:
        client.start()
    try:
        yield
    except BaseException:
        keep(engine)
        print(f"ISHMAEL_SEED={seed}; failures: {failures_of(clients)}")
        raise
    finally:
        for client in clients:
            client.quit = True
            client.go.set()


def one_life(clients: Sequence[Client], length_s: float, crash: Callable[[], None]) -> None:
    """All work until the crash, and rest after it; nobody was told what is not so."""
    for client in clients:
        client.begin()
    time.sleep(length_s)
    crash()
    for client in clients:
        client.rest()
    failures = failures_of(clients)
    assert not failures, "\n".join(failures)


def failures_of(clients: Sequence[Client]) -> list[str]:
    return [failure for client in clients for failure in client.failures]


def agree(thing: Thing, exists: bool) -> None:
    assert thing.exists is None or thing.exists == exists, f"{thing} {'is there' if exists else 'is gone'}"
    thing.exists = exists


def keep(engine: Engine) -> None:
    """The log of the engine and of what it did, for whoever looks into a failure."""
    print(engine.log.read_text()[-6000:])
    place = os.environ.get("ISHMAEL_KEEP")
    if place:
        with contextlib.suppress(shutil.Error):  # what goes away meanwhile is named by it, the rest is copied
            shutil.copytree(
                engine.root, place, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sock", "rootfs", "layers")
            )
