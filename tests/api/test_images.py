"""`/images`: lists, names, removal and pruning as clients see them."""

from __future__ import annotations

import json
import urllib.parse
from pathlib import Path
from typing import Any

import pytest

from engine.aggregates.container.commands import (
    CreateContainer,
    RemoveContainer,
    ReportRemoved,
    ReportStarted,
    StartContainer,
)
from engine.aggregates.decider import Rejected
from engine.aggregates.image import RemoveImage, RequireImage
from engine.aggregates.values.config import ContainerConfig, HostConfig
from engine.aggregates.values.ids import ContainerID, short
from tests.support.images import TestImage, image_of, layer_of
from tests.support.served_engine import TestEngine, running_engine

pytestmark = pytest.mark.root

BASE = layer_of({"bin": None, "bin/sh": b"#!" + bytes(1000)})
TOP = layer_of({"etc": None, "etc/motd": b"hello\n"})


def query(**filters: Any) -> str:
    return urllib.parse.urlencode({"filters": json.dumps(filters)})


async def pulled(engine: TestEngine, name: str, image: TestImage) -> str:
    """Put an image here under a name of Docker Hub's; its manifest's digest."""
    repository, _, tag = name.partition(":")
    found = engine.registry.push(f"docker.io/library/{repository}", tag or "latest", image)
    await engine.lines("POST", f"/images/create?fromImage={repository}&tag={tag or 'latest'}")
    return str(found)


async def container(engine: TestEngine, image_name: str, *, running: bool = False) -> ContainerID:
    image = engine.hands.views.images.find(image_name)
    container_id = ContainerID(engine.hands.entropy.hex_id())
    await engine.execute(
        CreateContainer(
            container_id=container_id, at=1, name=short(container_id), image_id=image.image_id, layers=image.chain,
            config=ContainerConfig(image=image_name), env=None, host=HostConfig(), networks=(), mounts=(),
            platform="linux", runtime="native",
        )
    )  # fmt: skip
    if running:
        await engine.execute(StartContainer(container_id=container_id, at=2))
        await engine.execute(ReportStarted(container_id=container_id, run=1, at=3, pid=4711, endpoints=(), ports=()))
    return container_id


async def test_a_list_shows_names_sizes_and_users(tmp_path: Path) -> None:
    """IMG-08."""
    async with running_engine(tmp_path) as engine:
        one, two = image_of(BASE, Labels={"a": "b"}), image_of(BASE, TOP)
        found = await pulled(engine, "alpine:3", one)
        await pulled(engine, "busybox", two)
        await container(engine, "alpine:3")
        _, images = await engine.ask("GET", "/images/json?shared-size=1")
        shown = {image["Id"]: image for image in images}
        assert shown[one.image_id] == {
            "Containers": 1,
            "Created": 0,
            "Descriptor": {"mediaType": one.media_type, "digest": found, "size": len(one.manifest)},
            "Id": one.image_id,
            "Labels": {"a": "b"},
            "ParentId": "",
            "RepoDigests": [f"alpine@{found}"],
            "RepoTags": ["alpine:3"],
            "SharedSize": 1002,
            "Size": 1002,
        }
        assert (shown[two.image_id]["Size"], shown[two.image_id]["SharedSize"]) == (1008, 1002)
        _, images = await engine.ask("GET", "/v1.43/images/json")
        assert {(image["VirtualSize"], image["Containers"], image["SharedSize"]) for image in images} == {
            (1002, -1, -1),
            (1008, -1, -1),
        }


async def test_images_without_a_name_are_none_to_old_clients(tmp_path: Path) -> None:
    """IMG-08."""
    async with running_engine(tmp_path) as engine:
        found = await pulled(engine, "alpine", image_of(BASE))
        await pulled(engine, "alpine", image_of(TOP))
        _, images = await engine.ask("GET", f"/v1.42/images/json?{query(dangling=['true'])}")
        assert [image["RepoTags"] for image in images] == [[]]
        assert (await engine.ask("DELETE", f"/images/alpine@{found}"))[0] == 200
        _, images = await engine.ask("GET", f"/v1.42/images/json?{query(dangling=['true'])}")
        assert images == []


async def test_lists_are_filtered(tmp_path: Path) -> None:
    """IMG-08."""
    async with running_engine(tmp_path) as engine:
        await pulled(engine, "alpine:3.20", image_of(BASE, Labels={"tier": "base"}))
        await pulled(engine, "busybox", image_of(TOP))

        async def names(**filters: Any) -> list[str]:
            status, found = await engine.ask("GET", f"/images/json?{query(**filters)}")
            assert status == 200, found
            return sorted(tag for image in found for tag in image["RepoTags"])

        assert await names(reference=["alp*"]) == ["alpine:3.20"]
        assert await names(reference=["*:latest"]) == ["busybox:latest"]
        assert await names(reference=["alpine:3.2?"]) == ["alpine:3.20"]
        assert await names(label=["tier=base"]) == ["alpine:3.20"]
        assert await names(**{"label!": ["tier"]}) == ["busybox:latest"]
        assert await names(dangling=["true"]) == []
        assert (await engine.ask("GET", f"/images/json?{query(since=['nothing'])}"))[0] == 404
        assert (await engine.ask("GET", f"/images/json?{query(colour=['red'])}"))[0] == 400


async def test_inspect_and_history_tell_the_configuration(tmp_path: Path) -> None:
    """IMG-09, IMG-13."""
    async with running_engine(tmp_path) as engine:
        image = image_of(BASE, TOP, Cmd=["/bin/sh"], Env=["PATH=/bin"])
        await pulled(engine, "alpine", image)
        _, shown = await engine.ask("GET", "/images/alpine/json")
        assert shown["Config"] == {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]}
        assert "Author" not in shown
        _, shown = await engine.ask("GET", "/v1.44/images/alpine/json")
        assert shown["Config"]["Entrypoint"] is None
        assert (shown["Config"]["Hostname"], shown["Author"], shown["Container"]) == ("", "", "")
        assert "VirtualSize" not in shown
        _, steps = await engine.ask("GET", f"/images/{short(image.image_id)}/history")
        assert [(step["CreatedBy"], step["Size"], step["Tags"]) for step in steps] == [
            ("layer 1", 6, ["alpine:latest"]),
            ("layer 0", 1002, None),
        ]
        assert [step["Id"] for step in steps] == [image.image_id, "<missing>"]
        status, answer = await engine.ask("GET", "/images/nothing/json")
        assert (status, answer["message"]) == (404, "No such image: nothing:latest")
        platform = urllib.parse.urlencode({"platform": '{"os":"linux","architecture":"arm64"}'})
        assert (await engine.ask("GET", f"/images/alpine/json?{platform}"))[0] == 404
        assert (await engine.ask("GET", f"/images/alpine/json?manifests=1&{platform}"))[0] == 400


async def test_tags_are_given_and_moved(tmp_path: Path) -> None:
    """IMG-11."""
    async with running_engine(tmp_path) as engine:
        one, two = image_of(BASE), image_of(TOP)
        await pulled(engine, "alpine", one)
        await pulled(engine, "busybox", two)
        assert (await engine.ask("POST", "/images/alpine/tag?repo=127.0.0.1:5000/mine&tag=v1"))[0] == 201
        assert (await engine.ask("POST", "/images/busybox/tag?repo=127.0.0.1:5000/mine&tag=v1"))[0] == 201
        _, shown = await engine.ask("GET", "/images/127.0.0.1:5000/mine:v1/json")
        assert shown["Id"] == two.image_id
        _, shown = await engine.ask("GET", "/images/alpine/json")
        assert shown["RepoTags"] == ["alpine:latest"]
        for bad, words in (
            ("repo=sha256&tag=x", "refusing to create an ambiguous tag"),
            ("repo=UPPER", "must be lowercase"),
            ("", "invalid reference format"),
        ):
            status, answer = await engine.ask("POST", f"/images/alpine/tag?{bad}")
            assert status == 400
            assert words in answer["message"]
        assert (await engine.ask("POST", "/images/nothing/tag?repo=x"))[0] == 404


async def test_removing_the_last_name_removes_the_image_and_its_own_layers(tmp_path: Path) -> None:
    """IMG-12."""
    async with running_engine(tmp_path) as engine:
        base, top = image_of(BASE), image_of(BASE, TOP)
        await pulled(engine, "base", base)
        found = await pulled(engine, "top", top)
        chain = engine.hands.views.images.find("top").chain
        status, records = await engine.ask("DELETE", "/images/top")
        assert status == 200
        assert records == [
            {"Untagged": "top:latest"},
            {"Untagged": f"top@{found}"},
            {"Deleted": top.image_id},
            {"Deleted": chain[1]},
        ]
        inventory = await engine.storage.layers.inventory()
        assert inventory.layers == (chain[0],), "the layer that the other image has, too, stays"
        assert len(inventory.blobs) == 3
        assert (await engine.ask("DELETE", "/images/base"))[0] == 200
        inventory = await engine.storage.layers.inventory()
        assert (inventory.layers, inventory.blobs) == ((), ())
        assert (await engine.ask("DELETE", "/images/base"))[0] == 404


async def test_one_of_several_names_is_only_untagged_and_by_id_force_is_needed(tmp_path: Path) -> None:
    """IMG-12."""
    async with running_engine(tmp_path) as engine:
        image = image_of(BASE)
        await pulled(engine, "alpine", image)
        await engine.ask("POST", "/images/alpine/tag?repo=mine&tag=v1")
        status, answer = await engine.ask("DELETE", f"/images/{short(image.image_id)}")
        assert status == 409
        assert answer["message"] == (
            f"conflict: unable to delete {short(image.image_id)} (must be forced) - "
            "image is referenced in multiple repositories"
        )
        assert await engine.ask("DELETE", "/images/mine:v1") == (200, [{"Untagged": "mine:v1"}])
        await engine.ask("POST", "/images/alpine/tag?repo=mine&tag=v1")
        status, records = await engine.ask("DELETE", f"/images/{short(image.image_id)}?force=1")
        assert status == 200
        assert {"Untagged": "mine:v1"} in records
        assert {"Deleted": image.image_id} in records


async def test_an_image_in_use_is_kept_in_dockers_words(tmp_path: Path) -> None:
    """IMG-12."""
    async with running_engine(tmp_path) as engine:
        image = image_of(BASE)
        await pulled(engine, "alpine", image)
        user = await container(engine, "alpine")
        identifier = short(image.image_id)
        status, answer = await engine.ask("DELETE", "/images/alpine")
        assert (status, answer["message"]) == (
            409,
            f'conflict: unable to remove repository reference "alpine" (must force) - container {short(user)} is using '
            f"its referenced image {identifier}",
        )
        status, answer = await engine.ask("DELETE", f"/images/{identifier}")
        assert (status, answer["message"]) == (
            409,
            f"conflict: unable to delete {identifier} (must be forced) - image is being used by stopped container "
            f"{short(user)}",
        )
        runner = await container(engine, "alpine", running=True)
        status, answer = await engine.ask("DELETE", f"/images/{identifier}?force=1")
        assert (status, answer["message"]) == (
            409,
            f"conflict: unable to delete {identifier} (cannot be forced) - image is being used by running container "
            f"{short(runner)}",
        )


async def test_a_forced_removal_keeps_the_layers_a_stopped_container_stands_on(tmp_path: Path) -> None:
    """IMG-12, IMG-26."""
    async with running_engine(tmp_path) as engine:
        image = image_of(BASE)
        await pulled(engine, "alpine", image)
        user = await container(engine, "alpine")
        chain = engine.hands.container(user).layers
        status, records = await engine.ask("DELETE", "/images/alpine?force=1")
        assert status == 200
        assert {"Deleted": image.image_id} in records
        assert {"Deleted": chain[0]} not in records
        assert (await engine.storage.layers.inventory()).layers == chain
        await engine.execute(RemoveContainer(container_id=user, at=5, force=False, volumes=False))
        await engine.execute(ReportRemoved(container_id=user, at=6))
        assert await engine.images.collect() == 1
        assert (await engine.storage.layers.inventory()).layers == ()


async def test_prune_takes_dangling_images_and_all_unused_ones_when_asked(tmp_path: Path) -> None:
    """IMG-18."""
    async with running_engine(tmp_path) as engine:
        old, new = image_of(BASE), image_of(TOP)
        await pulled(engine, "alpine", old)
        await pulled(engine, "alpine", new)
        await pulled(engine, "used", image_of(BASE, TOP))
        await container(engine, "used")
        status, told = await engine.ask("POST", "/images/prune")
        assert status == 200
        assert {"Deleted": old.image_id} in told["ImagesDeleted"]
        assert told["SpaceReclaimed"] == 0, "its only layer belongs to an image that is used, too"
        _, told = await engine.ask("POST", f"/images/prune?{query(dangling=['false'])}")
        assert {"Deleted": new.image_id} in told["ImagesDeleted"]
        assert {"Untagged": "alpine:latest"} in told["ImagesDeleted"]
        assert told["SpaceReclaimed"] == 6
        _, images = await engine.ask("GET", "/images/json")
        assert [image["RepoTags"] for image in images] == [["used:latest"]]
        assert (await engine.ask("POST", "/images/prune"))[1] == {"ImagesDeleted": None, "SpaceReclaimed": 0}


async def test_what_is_not_there_says_so(tmp_path: Path) -> None:
    """IMG-10."""
    async with running_engine(tmp_path) as engine:
        await pulled(engine, "alpine", image_of(BASE))
        for method, path in (("GET", "nothing/json"), ("GET", "alpine:9/history"), ("DELETE", "nothing")):
            status, answer = await engine.ask(method, f"/images/{path}")
            assert (status, answer["message"][:15]) == (404, "No such image: ")


async def test_logins_are_checked_by_the_registry(tmp_path: Path) -> None:
    """IMG-20."""
    async with running_engine(tmp_path) as engine:
        wish = {"username": "me", "password": "right", "serveraddress": "127.0.0.1:5000"}
        assert await engine.ask("POST", "/auth", wish) == (
            200,
            {"Status": "Login Succeeded", "IdentityToken": "identity"},
        )
        status, answer = await engine.ask("POST", "/auth", wish | {"password": "wrong"})
        assert (status, answer["message"]) == (401, "unauthorized: incorrect username or password")


async def test_nothing_is_made_from_an_image_whose_removal_was_decided_a_moment_ago(tmp_path: Path) -> None:
    async with running_engine(tmp_path) as engine:
        image = image_of(BASE)
        await pulled(engine, "alpine", image)
        image_id = engine.hands.views.images.find("alpine").image_id
        with pytest.raises(Rejected, match="No such image"):
            await engine.execute(RemoveImage(image_id=image_id, at=1), RequireImage(image_id=image_id))
        await engine.execute(RequireImage(image_id=image_id))
