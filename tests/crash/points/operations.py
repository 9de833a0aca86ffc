"""The operations that the crash matrix cuts off: each what must be there before, and one request.

How the world looks afterwards is not written here: the clean run of an operation shows it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from tests.crash.workload import ENDLESS, Workload
from tests.support.engine import Engine
from tests.support.images import TestImage, image_of, layer_of
from tests.support.registry import TestRegistry

LIVING = Workload(lines=ENDLESS).command
IMAGE: TestImage = image_of(layer_of({"a": b"a" * 200_000}), layer_of({"b": b"b" * 200_000}))
REPOSITORY = "matrix"


class Call(NamedTuple):
    method: str
    path: str
    body: Any = None


class Place(NamedTuple):
    """Where operations happen."""

    engine: Engine
    registry: TestRegistry

    @property
    def image(self) -> str:
        """The image that is pulled, by its name."""
        return f"{self.registry.address}/{REPOSITORY}:1"

    def do(self, method: str, path: str, body: Any = None) -> bytes:
        """A step of preparation: it succeeds."""
        status, answer = self.engine.request(method, path, body)
        assert status < 300 and b'"error"' not in answer, (method, path, status, answer)
        return answer

    def create(self, command: list[str] = LIVING, **host: Any) -> None:
        self.do("POST", "/containers/create?name=victim", {"Image": "busybox", "Cmd": command, "HostConfig": host})

    def start(self, command: list[str] = LIVING, **host: Any) -> None:
        self.create(command, **host)
        self.do("POST", "/containers/victim/start")


Operation = Callable[[Place], Call]
"""Prepares, and says what is to be cut off."""


def create(place: Place) -> Call:
    place.do("POST", "/volumes/create", {"Name": "kept"})
    host = {"Binds": ["kept:/kept", "/fresh"], "PortBindings": {"80/tcp": [{"HostPort": ""}]}}
    body = {"Image": "busybox", "Cmd": LIVING, "Env": ["A=b"], "HostConfig": host}
    return Call("POST", "/containers/create?name=victim", body)


def start(place: Place) -> Call:
    place.create(PortBindings={"80/tcp": [{"HostPort": ""}]}, Binds=["/fresh"])
    return Call("POST", "/containers/victim/start")


def failing_start(place: Place) -> Call:
    place.create(["no-such-program"], PortBindings={"80/tcp": [{"HostPort": ""}]})
    return Call("POST", "/containers/victim/start")


def stop(place: Place) -> Call:
    place.start(["sleep", "1000"], PortBindings={"80/tcp": [{"HostPort": ""}]})
    return Call("POST", "/containers/victim/stop?t=0")


def kill(place: Place) -> Call:
    place.start()
    return Call("POST", "/containers/victim/kill")


def restart(place: Place) -> Call:
    place.start(["sleep", "1000"])
    return Call("POST", "/containers/victim/restart?t=0")


def pause(place: Place) -> Call:
    place.start()
    return Call("POST", "/containers/victim/pause")


def unpause(place: Place) -> Call:
    place.start()
    place.do("POST", "/containers/victim/pause")
    return Call("POST", "/containers/victim/unpause")


def remove(place: Place) -> Call:
    place.create(Binds=["/fresh"])
    return Call("DELETE", "/containers/victim?v=1")


def remove_by_force(place: Place) -> Call:
    place.start(PortBindings={"80/tcp": [{"HostPort": ""}]}, Binds=["/fresh"])
    return Call("DELETE", "/containers/victim?force=1&v=1")


def rename(place: Place) -> Call:
    place.start()
    return Call("POST", "/containers/victim/rename?name=renamed")


def update(place: Place) -> Call:
    place.start()
    return Call("POST", "/containers/victim/update", {"PidsLimit": 77})


def execute(place: Place) -> Call:
    place.start()
    made = place.do("POST", "/containers/victim/exec", {"Cmd": ["sleep", "0.2"], "AttachStdout": True})
    return Call("POST", f"/exec/{json.loads(made)['Id']}/start", {"Detach": False})


def commit(place: Place) -> Call:
    place.start()
    return Call("POST", "/commit?container=victim&repo=committed")


def prune_containers(place: Place) -> Call:
    place.create(Binds=["/fresh"])
    return Call("POST", "/containers/prune")


def connect(place: Place) -> Call:
    place.do("POST", "/networks/create", {"Name": "front"})
    place.start()
    return Call("POST", "/networks/front/connect", {"Container": "victim"})


def disconnect(place: Place) -> Call:
    place.do("POST", "/networks/create", {"Name": "front"})
    place.start(NetworkMode="front", PortBindings={"80/tcp": [{"HostPort": ""}]})
    return Call("POST", "/networks/front/disconnect", {"Container": "victim"})


def create_network(place: Place) -> Call:
    return Call("POST", "/networks/create", {"Name": "front"})


def remove_network(place: Place) -> Call:
    place.do("POST", "/networks/create", {"Name": "front"})
    return Call("DELETE", "/networks/front")


def create_volume(place: Place) -> Call:
    return Call("POST", "/volumes/create", {"Name": "kept"})


def remove_volume(place: Place) -> Call:
    place.do("POST", "/volumes/create", {"Name": "kept"})
    return Call("DELETE", "/volumes/kept")


def prune_volumes(place: Place) -> Call:
    place.do("POST", "/volumes/create", {"Name": "kept"})
    return Call("POST", '/volumes/prune?filters={"all":["1"]}')


def load(place: Place) -> Call:
    return Call("POST", "/images/load", IMAGE.docker_archive("loaded:1"))


def pull(place: Place) -> Call:
    place.registry.push(REPOSITORY, "1", IMAGE)
    return Call("POST", f"/images/create?fromImage={place.image.rpartition(':')[0]}&tag=1")


def push(place: Place) -> Call:
    place.do("POST", "/images/load", IMAGE.docker_archive("loaded:1"))
    place.do("POST", f"/images/loaded:1/tag?repo={place.registry.address}/pushed&tag=1")
    return Call("POST", f"/images/{place.registry.address}/pushed/push?tag=1")


def tag(place: Place) -> Call:
    return Call("POST", "/images/busybox/tag?repo=another&tag=1")


def remove_image(place: Place) -> Call:
    place.do("POST", "/images/load", IMAGE.docker_archive("loaded:1"))
    return Call("DELETE", "/images/loaded:1")


def prune_images(place: Place) -> Call:
    place.create()  # uses the image that stays
    place.do("POST", "/images/load", IMAGE.docker_archive("loaded:1"))
    return Call("POST", '/images/prune?filters={"dangling":["0"]}')


OPERATIONS: dict[str, Operation] = {
    operation.__name__.replace("_", " "): operation
    for operation in (
        create, start, failing_start, stop, kill, restart, pause, unpause, remove, remove_by_force, rename, update,
        execute, commit, prune_containers, connect, disconnect, create_network, remove_network, create_volume,
        remove_volume, prune_volumes, load, pull, push, tag, remove_image, prune_images,
    )
}  # fmt: skip
KEPT_IMAGE = "busybox:latest"


def look(engine: Engine) -> dict[str, Any]:
    """The world as users see it, without what no two runs have in common."""
    containers = {}
    for row in engine.json("/containers/json?all=1"):
        about = engine.json(f"/containers/{row['Id']}/json")
        containers[about["Name"]] = {
            "status": about["State"]["Status"],
            "networks": sorted(about["NetworkSettings"]["Networks"]),
            "pids": about["HostConfig"]["PidsLimit"],
        }
    volumes = [volume["Name"] for volume in engine.json("/volumes")["Volumes"] or ()]
    return {
        "containers": containers,
        "networks": sorted(network["Name"] for network in engine.json("/networks")),
        "volumes": sorted("anonymous" if len(name) == 64 else name for name in volumes),
        "images": sorted(name for image in engine.json("/images/json") for name in image["RepoTags"]),
    }


def tidy(place: Place) -> None:
    """As it was before the first operation."""
    engine = place.engine
    for row in engine.json("/containers/json?all=1"):
        engine.request("DELETE", f"/containers/{row['Id']}?force=1&v=1")
    for network in engine.json("/networks"):
        if network["Name"] not in ("bridge", "host", "none"):
            place.do("DELETE", f"/networks/{network['Id']}")
    for volume in engine.json("/volumes")["Volumes"] or ():
        place.do("DELETE", f"/volumes/{volume['Name']}")
    for image in engine.json("/images/json"):
        for name in image["RepoTags"] or [image["Id"]]:
            if name != KEPT_IMAGE:
                place.do("DELETE", f"/images/{name}?force=1")
