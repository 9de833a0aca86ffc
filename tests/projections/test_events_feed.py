"""The feed of `/events`: Docker's words and order, persistence, cursors that skip nothing."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import trio

from engine.aggregates import exec as exec_
from engine.aggregates import image, network, transfer, volume
from engine.aggregates.container import events as container
from engine.aggregates.decider import Cause, Event, Recorded
from engine.aggregates.exec import ExecSpec
from engine.aggregates.network import NetworkSettings
from engine.aggregates.values.config import ContainerConfig, HostConfig
from engine.aggregates.values.endpoints import Endpoint
from engine.aggregates.values.health import HealthResult, HealthStatus
from engine.aggregates.values.ids import ContainerID, ImageID
from engine.aggregates.values.mounts import MountPoint
from engine.aggregates.values.sealed import Sealed
from engine.projections import feed_store
from engine.projections.events_feed import PAGE_MESSAGES, RING_MESSAGES, EventsFeed
from engine.projections.feed_messages import FeedMessage
from engine.projections.feed_store import FeedStore

SECOND = 1_000_000_000
CID, NID = "c" * 64, "n" * 64


class Story:
    """Events of one log, each a second after the other."""

    def __init__(self, feed: EventsFeed) -> None:
        self.feed = feed
        self.position = 0

    def happen(self, stream: str, *events: Event, correlation: str = "r") -> None:
        for event in events:
            self.position += 1
            self.feed.apply(
                Recorded(
                    position=self.position,
                    stream=stream,
                    version=1,
                    time_ns=self.position * SECOND,
                    cause=Cause(actor="test", correlation=correlation),
                    event=event,
                )
            )


def created(name: str = "web", labels: dict[str, str] | None = None) -> container.ContainerCreated:
    return container.ContainerCreated(
        at=SECOND,
        name=name,
        image_id=ImageID("sha256:" + "1" * 64),
        layers=(),
        config=ContainerConfig(image="nginx:1", labels=labels or {"a": "b"}),
        host=HostConfig(),
        mounts=(MountPoint(type="volume", destination="/data", name="v", driver="local", rw=True),),
    )


async def everything(feed: EventsFeed, since_ns: int = 0) -> list[FeedMessage]:
    return [message async for message in feed.past(since_ns=since_ns)]


def words(messages: list[FeedMessage]) -> list[str]:
    return [f"{message.type} {message.action}" for message in messages]


async def test_a_life_is_told_in_dockers_order() -> None:
    """VOL-16, NET-41."""
    feed = EventsFeed()
    story = Story(feed)
    endpoint = Endpoint(endpoint_id="e" * 64, network_id=NID, container_id=CID)
    health = HealthResult(started_at=1, finished_at=2, exit_code=0, output="")
    story.happen(
        f"network:{NID}",
        network.NetworkCreateRequested(at=1, settings=NetworkSettings(name="front", driver="bridge")),
        network.NetworkCreated(),
    )
    story.happen("volume:v", volume.VolumeCreated(at=1, driver="local"))
    story.happen(
        f"container:{CID}",
        created(),
        container.ContainerStartRequested(run=1, at=2),
        container.ContainerStarted(run=1, at=3 * SECOND, pid=7, endpoints=(endpoint,)),
        container.ContainerHealthReported(at=4, status=HealthStatus.HEALTHY, failing_streak=0, last=health),
        container.ContainerHealthReported(at=4, status=HealthStatus.HEALTHY, failing_streak=0, last=health),
        container.ContainerStopRequested(at=5, signal=15, restart=True),
        container.ContainerExited(run=1, at=8 * SECOND, exit_code=143, oom_killed=True),
        container.ContainerStopped(at=8, restart=True),
        container.ContainerStarted(run=2, at=9 * SECOND, pid=8),
        container.ContainerOutOfMemory(run=2, at=9 * SECOND, count=1),
        container.ContainerExited(run=2, at=9 * SECOND, exit_code=137, oom_killed=True),
        container.ContainerRenamed(name="shop", old_name="web"),
        container.ContainerRemoved(at=9),
    )
    told = await everything(feed)
    assert words(told) == [
        "network create",
        "volume create",
        "container create",
        "volume mount",
        "network connect",
        "container start",
        "container health_status: healthy",
        "container kill",
        "container oom",
        "container die",
        "network disconnect",
        "volume unmount",
        "container stop",
        "volume mount",
        "container start",
        "container restart",
        "container oom",
        "container die",
        "volume unmount",
        "container rename",
        "container destroy",
    ]
    by_words = dict(reversed(tuple(zip(words(told), told, strict=True))))  # the first of each
    assert by_words["container create"].attributes == {"a": "b", "image": "nginx:1", "name": "web"}
    assert by_words["container die"].attributes["exitCode"] == "143"
    assert by_words["container die"].attributes["execDuration"] == "5"
    assert by_words["container kill"].attributes["signal"] == "15"
    assert by_words["network connect"].attributes == {"container": CID, "name": "front", "type": "bridge"}
    assert (
        by_words["container rename"].attributes | {"name": "shop", "oldName": "/web"}
        == by_words["container rename"].attributes
    )
    assert [message.cursor for message in told] == sorted({message.cursor for message in told})


async def test_execs_images_and_volumes_are_told() -> None:
    feed = EventsFeed()
    story = Story(feed)
    image_id = "sha256:" + "1" * 64
    story.happen("transfer:t", transfer.TransferBegun(at=1, kind="pull", reference="docker.io/library/nginx:1"))
    story.happen(f"image:{image_id}", image.ImageTagged(at=1, reference="docker.io/library/nginx:1"))
    story.happen("transfer:t", transfer.TransferDone(images=(ImageID(image_id),)))
    story.happen(f"image:{image_id}", image.ImageTagged(at=1, reference="docker.io/me/x:2"), correlation="later")
    story.happen(f"image:{image_id}", image.ImageRemoved())
    story.happen(f"container:{CID}", created())
    secret = Sealed(owner="x", box=b"")
    story.happen(
        "exec:e1",
        exec_.ExecCreated(at=1, container_id=ContainerID(CID), spec=ExecSpec(), secret=secret, entrypoint="sh"),
        exec_.ExecStarted(at=1, pid=9),
        exec_.ExecExited(at=1, exit_code=3),
    )
    story.happen("transfer:p", transfer.TransferBegun(at=1, kind="push", reference="docker.io/me/x:2"))
    story.happen("transfer:p", transfer.TransferDone(images=(ImageID(image_id),)))
    told = await everything(feed)
    assert words(told) == [
        "image pull",
        "image tag",
        "image delete",
        "container create",
        "container exec_create: sh",
        "container exec_start: sh",
        "container exec_die",
        "image push",
    ]
    assert (told[0].actor_id, told[0].attributes["name"]) == ("nginx:1", "nginx")
    assert told[1].attributes["name"] == "me/x:2"
    assert told[-2].attributes | {"execID": "e1", "exitCode": "3", "name": "web"} == told[-2].attributes
    assert (told[-1].actor_id, told[-1].attributes["name"]) == ("me/x:2", "me/x")


@pytest.mark.parametrize("loose", [feed_store.LOOSE_MESSAGES, 700, 10])
async def test_a_reader_that_lags_reads_from_the_file_and_misses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loose: int
) -> None:
    """Whether messages are loose, or the older ones packed."""
    monkeypatch.setattr(feed_store, "LOOSE_MESSAGES", loose)
    monkeypatch.setattr(feed_store, "PACK_MESSAGES", 100)
    store = FeedStore(tmp_path / "feed.db")
    store.open()
    feed = EventsFeed(store)
    story = Story(feed)
    count = RING_MESSAGES + 2 * PAGE_MESSAGES
    async with trio.open_nursery() as nursery:
        for number in range(count):
            story.happen(f"volume:v{number}", volume.VolumeCreated(at=1, driver="local"))
        await feed._flush()
        assert len(feed._recent) <= RING_MESSAGES
        seen: list[str] = []

        async def follow() -> None:
            cursor = 0
            while len(seen) < count + 10:
                page = await feed.next_messages(cursor)
                cursor = page[-1].cursor
                seen.extend(message.actor_id for message in page)

        nursery.start_soon(follow)
        for number in range(count, count + 10):
            await trio.lowlevel.checkpoint()
            story.happen(f"volume:v{number}", volume.VolumeCreated(at=1, driver="local"))
            if number % 3 == 0:
                await feed._flush()
    assert seen == [f"v{number}" for number in range(count + 10)]
    assert [message.actor_id for message in await everything(feed, since_ns=count * SECOND)] == [
        f"v{number}" for number in range(count - 1, count + 10)
    ]
    store.close()


async def test_a_restored_feed_is_the_same_as_one_folded_anew(tmp_path: Path) -> None:
    store = FeedStore(tmp_path / "feed.db")
    store.open()
    first = EventsFeed(store)
    story = Story(first)
    story.happen(f"container:{CID}", created())
    await first._flush()
    story.happen(f"container:{CID}", container.ContainerPaused(at=1))
    dumped = msgspec.msgpack.encode(first.dump())
    story.happen(f"container:{CID}", container.ContainerUnpaused(at=1))
    await first._flush()

    second = EventsFeed(store)
    second.restore(dumped)
    again = Story(second)
    again.position = 2
    again.happen(f"container:{CID}", container.ContainerUnpaused(at=1))
    assert await everything(second) == await everything(first)

    store.clear()
    lost = EventsFeed(store)
    try:
        lost.restore(dumped)
    except ValueError:
        lost.reset()
    else:
        raise AssertionError("a feed whose file is gone was restored")
    store.close()


async def test_a_damaged_file_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "feed.db"
    path.write_bytes(b"this is no database at all" * 100)
    store = FeedStore(path)
    store.open()
    assert store.head() == 0
    store.close()
