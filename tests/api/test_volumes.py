"""`/volumes`: what a client notices."""

from __future__ import annotations

import json
import urllib.parse
from pathlib import Path
from typing import Any

import pytest

from engine.aggregates.values.ids import ContainerID, VolumeName
from engine.aggregates.volume import ReferenceVolume, ReleaseVolume
from tests.support.served_engine import running_engine

USER = ContainerID("c" * 64)


def query(**filters: Any) -> str:
    return urllib.parse.urlencode({"filters": json.dumps(filters)})


async def test_a_volume_is_made_once_and_found_again(tmp_path: Path) -> None:
    """VOL-01, VOL-03."""
    async with running_engine(tmp_path) as engine:
        wish = {"Name": "data", "Labels": {"a": "b"}}
        status, made = await engine.ask("POST", "/volumes/create", wish)
        assert status == 201
        assert made["Mountpoint"] == f"{tmp_path}/volumes/data/_data"
        assert Path(made["Mountpoint"]).is_dir()
        assert (made["Name"], made["Driver"], made["Scope"], made["Labels"]) == ("data", "local", "local", {"a": "b"})
        status, again = await engine.ask("POST", "/volumes/create", {"Name": "data", "Labels": {"other": "label"}})
        assert (status, again) == (201, made)
        assert await engine.ask("GET", "/volumes/data") == (200, made)
        assert await engine.ask("GET", "/volumes") == (200, {"Volumes": [made], "Warnings": None})


async def test_without_a_name_it_is_anonymous(tmp_path: Path) -> None:
    """VOL-01."""
    async with running_engine(tmp_path) as engine:
        for body in (None, {}):
            status, made = await engine.ask("POST", "/volumes/create", body)
            assert status == 201
            assert len(made["Name"]) == 64
            assert made["Labels"] == {"com.docker.volume.anonymous": ""}


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"Name": "a"}, 400, "volume name is too short"),
        ({"Name": "a/b"}, 400, '"a/b" includes invalid characters for a local volume name'),
        ({"Name": "ab", "Driver": "nfsplugin"}, 404, "error looking up volume plugin nfsplugin"),
        ({"Name": "ab", "DriverOpts": {"colour": "red"}}, 400, 'invalid option: "colour"'),
        ({"Name": "ab", "DriverOpts": {"device": "/x"}}, 400, 'missing required option: "type"'),
    ],
)
async def test_bad_wishes_are_refused(tmp_path: Path, body: dict[str, Any], status: int, words: str) -> None:
    """VOL-01."""
    async with running_engine(tmp_path) as engine:
        got, answer = await engine.ask("POST", "/volumes/create", body)
        assert got == status
        assert words in answer["message"]
        assert (await engine.ask("GET", "/volumes"))[1]["Volumes"] == []


async def test_a_volume_in_use_stays_and_an_unused_one_goes_with_its_directory(tmp_path: Path) -> None:
    """VOL-04, VOL-08."""
    async with running_engine(tmp_path) as engine:
        await engine.ask("POST", "/volumes/create", {"Name": "data"})
        await engine.execute(ReferenceVolume(name=VolumeName("data"), container_id=USER))
        status, answer = await engine.ask("DELETE", "/volumes/data?force=1")
        assert (status, answer["message"]) == (409, f"remove data: volume is in use - [{USER}]")
        await engine.execute(ReleaseVolume(name=VolumeName("data"), container_id=USER))
        assert (await engine.ask("DELETE", "/volumes/data"))[0] == 204
        assert not (tmp_path / "volumes/data").exists()
        status, answer = await engine.ask("DELETE", "/volumes/data")
        assert (status, answer["message"]) == (404, "get data: no such volume")
        assert (await engine.ask("DELETE", "/volumes/data?force=true"))[0] == 204


async def test_a_removal_that_fails_is_told_and_the_volume_is_still_there(tmp_path: Path) -> None:
    """VOL-04."""
    async with running_engine(tmp_path) as engine:
        await engine.ask("POST", "/volumes/create", {"Name": "data"})
        engine.volumes.refuse = "device or resource busy"
        status, answer = await engine.ask("DELETE", "/volumes/data")
        assert (status, answer["message"]) == (500, "remove data: device or resource busy")
        assert (await engine.ask("GET", "/volumes/data"))[0] == 200


async def test_prune_takes_anonymous_volumes_and_named_ones_when_asked(tmp_path: Path) -> None:
    """VOL-05."""
    async with running_engine(tmp_path) as engine:
        await engine.ask("POST", "/volumes/create", {"Name": "named"})
        _, made = await engine.ask("POST", "/volumes/create")
        (Path(made["Mountpoint"]) / "file").write_bytes(bytes(1000))
        status, told = await engine.ask("POST", "/volumes/prune")
        assert (status, told) == (200, {"VolumesDeleted": [made["Name"]], "SpaceReclaimed": 1000})
        assert (await engine.ask("POST", "/volumes/prune"))[1] == {"VolumesDeleted": None, "SpaceReclaimed": 0}
        _, told = await engine.ask("POST", f"/volumes/prune?{query(all=['true'])}")
        assert told["VolumesDeleted"] == ["named"]


async def test_lists_are_filtered(tmp_path: Path) -> None:
    """VOL-02."""
    async with running_engine(tmp_path) as engine:
        await engine.ask("POST", "/volumes/create", {"Name": "data", "Labels": {"tier": "db"}})
        await engine.ask("POST", "/volumes/create", {"Name": "cache"})
        await engine.execute(ReferenceVolume(name=VolumeName("cache"), container_id=USER))

        async def names(**filters: Any) -> list[str]:
            _, found = await engine.ask("GET", f"/volumes?{query(**filters)}")
            return [one["Name"] for one in found["Volumes"]]

        assert await names(dangling=["true"]) == ["data"]
        assert await names(dangling=["false"]) == ["cache"]
        assert await names(label=["tier"]) == ["data"]
        assert await names(name=["ac"]) == ["cache"]
        assert await names(driver=["other"]) == []
        assert (await engine.ask("GET", f"/volumes?{query(size=['1'])}"))[0] == 400


async def test_disk_usage_tells_sizes_old_and_new(tmp_path: Path) -> None:
    """VOL-14, SYS-17."""
    async with running_engine(tmp_path) as engine:
        _, made = await engine.ask("POST", "/volumes/create", {"Name": "data"})
        (Path(made["Mountpoint"]) / "file").write_bytes(bytes(700))
        _, old = await engine.ask("GET", "/v1.44/system/df")
        assert set(old) == {"LayersSize", "Images", "Containers", "Volumes", "BuildCache"}
        assert old["Volumes"][0]["UsageData"] == {"RefCount": 0, "Size": 700}
        _, new = await engine.ask("GET", "/v1.53/system/df?type=volume&verbose=1")
        assert set(new) == {"VolumeUsage"}
        assert (new["VolumeUsage"]["TotalSize"], new["VolumeUsage"]["Reclaimable"]) == (700, 700)
        assert new["VolumeUsage"]["Items"][0]["Name"] == "data"
        status, answer = await engine.ask("GET", "/system/df?type=socks")
        assert (status, answer["message"]) == (400, "unknown object type: socks")
