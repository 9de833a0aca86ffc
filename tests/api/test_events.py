"""`/events` over a socket: past, future, filters, versions."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import urllib.parse
from typing import Any

import msgspec
import pytest
import trio

from engine.aggregates import volume
from engine.aggregates.container import events as container
from engine.clock import SystemClock
from engine.projections.events_feed import EventsFeed
from tests.api.harness import connected, context, in_thread, served
from tests.projections.test_events_feed import CID, SECOND, Story, created


def with_feed(feed: EventsFeed) -> Any:
    return msgspec.structs.replace(context().views, events=feed)


def told() -> tuple[EventsFeed, Story]:
    """A feed with three messages, at 1, 2 and 3 seconds past 1970."""
    feed = EventsFeed()
    story = Story(feed)
    story.happen(f"container:{CID}", created(labels={"app": "shop"}), container.ContainerPaused(at=1))
    story.happen("volume:data", volume.VolumeCreated(at=1, driver="local"))
    return feed, story


def lines(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in body.replace(b"\x1e", b"").splitlines()]


async def test_the_past_is_told_between_since_and_until() -> None:
    feed, _ = told()
    async with served(views=with_feed(feed)) as engine:
        _, headers, body = await engine.ask("GET", "/v1.53/events?since=1&until=2.5")
        assert headers["content-type"] == "application/jsonl"
        assert [message["Action"] for message in lines(body)] == ["create", "pause"]
        assert lines(body)[0] == {
            "Type": "container",
            "Action": "create",
            "Actor": {"ID": CID, "Attributes": {"app": "shop", "image": "nginx:1", "name": "web"}},
            "scope": "local",
            "time": 1,
            "timeNano": SECOND,
        }
        status, _, body = await engine.ask("GET", "/events?since=5&until=2")
        assert status == 400
        assert json.loads(body)["message"] == "`since` time (5) cannot be after `until` time (2)"


async def test_info_counts_who_follows() -> None:
    """SYS-15: clients of `/events`, for as long as they are there."""
    feed, _ = told()
    async with served(views=with_feed(feed)) as engine:

        async def listeners() -> int:
            _, _, body = await engine.ask("GET", "/info")
            return int(json.loads(body)["NEventsListener"])

        assert await listeners() == 0
        with contextlib.closing(await in_thread(lambda: connected(engine.path))) as sock:
            sock.sendall(b"GET /events HTTP/1.1\r\nHost: d\r\n\r\n")
            await in_thread(lambda: sock.recv(1))
            with trio.fail_after(10):
                while await listeners() != 1:
                    await trio.sleep(0.01)
        with trio.fail_after(10):
            while await listeners() != 0:
                await trio.sleep(0.01)


async def test_old_clients_get_their_old_keys() -> None:
    feed, _ = told()
    async with served(views=with_feed(feed)) as engine:
        _, headers, body = await engine.ask("GET", "/v1.51/events?since=0&until=1")
        assert headers["content-type"] == "application/json"
        message = lines(body)[0]
        assert (message["status"], message["id"], message["from"]) == ("create", CID, "nginx:1")


@pytest.mark.parametrize("accepted", ["application/x-ndjson", "application/json-seq", "application/jsonl"])
async def test_the_content_type_is_negotiated(accepted: str) -> None:
    feed, _ = told()
    async with served(views=with_feed(feed)) as engine:
        _, headers, body = await engine.ask("GET", "/events?since=0&until=1", headers={"Accept": accepted})
        assert headers["content-type"] == accepted
        assert body.startswith(b"\x1e") == (accepted == "application/json-seq")


@pytest.mark.parametrize(
    ("filters", "actions"),
    [
        ({"type": ["volume"]}, ["create"]),
        ({"type": {"container": True}, "event": {"pause": True}}, ["pause"]),
        ({"container": ["web"]}, ["create", "pause"]),
        ({"container": [CID[:12]]}, ["create", "pause"]),
        ({"image": ["nginx"]}, ["create", "pause"]),
        ({"label": ["app=shop"]}, ["create", "pause"]),
        ({"label": ["app=else"]}, []),
        ({"scope": ["swarm"]}, []),
        ({"volume": ["data"]}, ["create"]),
    ],
)
async def test_filters_choose(filters: dict[str, Any], actions: list[str]) -> None:
    feed, _ = told()
    async with served(views=with_feed(feed)) as engine:
        query = urllib.parse.urlencode({"since": "0", "until": "9", "filters": json.dumps(filters)})
        _, _, body = await engine.ask("GET", f"/events?{query}")
        assert [message["Action"] for message in lines(body)] == actions
        status, _, body = await engine.ask("GET", "/events?filters=nonsense")
        assert (status, json.loads(body)) == (400, {"message": "invalid filter"})


async def test_what_comes_is_streamed_as_it_happens_and_ends_at_until() -> None:
    feed, story = told()

    def begin(path: str) -> socket.socket:
        sock = connected(path)
        until = SystemClock().now_ns() + 2 * SECOND
        sock.sendall(b"GET /events?until=%d.%09d HTTP/1.1\r\nHost: d\r\n" % divmod(until, SECOND))
        sock.sendall(b"Connection: close\r\n\r\n")
        return sock

    def upto(sock: socket.socket, mark: bytes) -> bytes:
        seen = b""
        while mark not in seen:
            part = sock.recv(4096)
            assert part, f"the end came before {mark!r}"
            seen += part
        return seen

    async with served(views=with_feed(feed)) as engine:
        # What is not plain has its machinery loaded when it first comes, which takes as long as the machine is busy.
        await engine.ask("GET", "/_ping", headers={"Connection": "close"})
        with contextlib.closing(await in_thread(lambda: begin(engine.path))) as sock:
            await in_thread(lambda: upto(sock, b'"create"'))
            story.happen(f"container:{CID}", container.ContainerUnpaused(at=1))
            await in_thread(lambda: upto(sock, b'"unpause"'))
            await in_thread(lambda: upto(sock, b"0\r\n\r\n"))


@pytest.mark.skipif(shutil.which("docker") is None, reason="the docker CLI is not installed")
async def test_the_docker_cli_prints_events() -> None:
    feed, _ = told()

    def run(path: str) -> str:
        env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "DOCKER_HOST": f"unix://{path}"}
        command = ["docker", "events", "--since", "0", "--until", "3", "--format", "{{.Type}} {{.Action}}"]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=20).stdout

    async with served(views=with_feed(feed)) as engine:
        assert await in_thread(lambda: run(engine.path)) == "container create\ncontainer pause\nvolume create\n"


async def test_a_reader_goes_on_behind_the_last_message_it_has_seen() -> None:
    """WIN-18: by query or header, as JSON lines with their cursors or as server-sent events."""
    feed, story = told()

    async def ask(path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        answer: tuple[int, dict[str, str], bytes] = await engine.ask("GET", path, headers=headers)
        return answer

    async with served(views=with_feed(feed)) as engine:
        seen = lines((await ask("/events?after=0&until=9"))[2])
        assert [message["Action"] for message in seen] == ["create", "pause", "create"]
        cursors = [message["cursor"] for message in seen]
        assert cursors == sorted(set(cursors))
        for number, cursor in enumerate(cursors, 1):
            assert lines((await ask(f"/events?after={cursor}&until=9"))[2]) == seen[number:]
        story.happen("volume:data", volume.VolumeRemoved())
        rest = lines((await ask("/events?until=9", **{"Last-Event-ID": str(cursors[-1])}))[2])
        assert [message["Action"] for message in rest] == ["destroy"]
        _, headers, body = await ask(
            "/events?until=9", **{"Last-Event-ID": str(cursors[1]), "Accept": "text/event-stream"}
        )
        assert headers["content-type"].startswith("text/event-stream")
        blocks = body.decode().split("\n\n")[:-1]
        told_there = [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks]
        assert [int(event["id"]) for event in told_there] == [cursors[2], rest[0]["cursor"]]
        assert [json.loads(event["data"])["Action"] for event in told_there] == ["create", "destroy"]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("after=x", "invalid cursor"),
        ("after=-1", "invalid cursor"),
        ("after=99999999", "no message has the cursor 99999999 yet"),
        ("after=0&since=1", "exclude each other"),
    ],
)
async def test_a_cursor_that_cannot_be_is_refused(query: str, words: str) -> None:
    feed, _ = told()
    async with served(views=with_feed(feed)) as engine:
        status, _, body = await engine.ask("GET", f"/events?{query}")
        assert (status, words in json.loads(body)["message"]) == (400, True)


async def test_the_ordinary_answer_tells_no_cursors() -> None:
    feed, _ = told()
    async with served(views=with_feed(feed)) as engine:
        _, _, body = await engine.ask("GET", "/events?since=0&until=9")
        assert all("cursor" not in message for message in lines(body))
